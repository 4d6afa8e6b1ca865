"""The floors of the house: a room uses only the floors below it, nothing points back, rooms stay small."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "trl_weaks"
FILES = sorted(PACKAGE.rglob("*.py"))

# First matching prefix decides. 0 maths, 1 losses, 2 models at work and what they share, 3 supervisors, 4 labelling,
# 5 trainers, 6 study and command line.
FLOORS = {
    "trl_weaks.aggregation.transforms": 4,  # of data sets; the rest of its room is maths
    "trl_weaks.losses": 1,
    "trl_weaks.inference": 2,
    "trl_weaks.heads": 2,
    "trl_weaks._compat": 2,
    "trl_weaks.distributed": 2,
    "trl_weaks.fingerprint": 2,
    "trl_weaks.supervisors": 3,
    "trl_weaks.labelling": 4,
    "trl_weaks.trainer": 5,
    "trl_weaks.viewer": 5,
    "trl_weaks.commands": 6,
    "trl_weaks.study": 6,
    "trl_weaks.cli": 6,
    "trl_weaks": 0,
}
HUGGING_FACE = {"transformers", "datasets", "accelerate", "trl", "peft", "tokenizers", "huggingface_hub"}
LOW, MIDDLE, HIGH = (0, 1), (2, 3, 4), (5, 6)
FORBIDDEN = dict.fromkeys(LOW, HUGGING_FACE) | dict.fromkeys(MIDDLE, {"trl", "peft"}) | dict.fromkeys(HIGH, set())
# The metric script is loaded by `evaluate` from its path: it imports that library and is imported by nobody.
METRIC_SCRIPT = "trl_weaks.metrics.hf_slu_f1.hf_slu_f1"


# A folder is found through by eye: at most so many modules. Those with more may shrink, and then leave the list.
MOST_MODULES = 14
LARGER = {"losses": 20}  # one file for each loss


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name: str) -> int:
    return next(level for prefix, level in FLOORS.items() if name == prefix or name.startswith(prefix + "."))


MODULES = {module_name(path): path for path in FILES}


def imports(name: str) -> set[str]:
    """Absolute names of all that a module imports, anywhere; `from x import y` gives x.y where that is a module.

    What only a type checker reads is never imported.
    """
    path, found = MODULES[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unread = {inner for node in ast.walk(tree) if _for_type_checkers(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            inner = {f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES}
            found |= inner or {base}
    return found


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    for target in imports(name):
        if target.split(".")[0] == "trl_weaks":
            assert target in MODULES, f"{name} imports {target}, which does not exist"
            assert floor(target) <= floor(name), f"{name} imports {target}, a floor above it"
        elif name != METRIC_SCRIPT:
            assert target.split(".")[0] not in FORBIDDEN[floor(name)], f"{name} (floor {floor(name)}) imports {target}"


@pytest.mark.parametrize("name", [n for n in MODULES if n != "trl_weaks"])
def test_no_module_imports_its_own_package_init(name):
    package = name.rpartition(".")[0]
    own = {package} if MODULES[name].name != "__init__.py" else set()
    assert not imports(name) & (own | {"trl_weaks"}), f"{name} imports the package it lives in"


def test_no_cycles():
    graph = {name: {t for t in imports(name) if t in MODULES} - {name} for name in MODULES}
    while True:
        leaves = {name for name, targets in graph.items() if not targets}
        if not leaves:
            break
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
    assert not graph, f"these modules import each other: {sorted(graph)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_hold_one_idea_and_functions_one_step(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = first.end_lineno if documented else node.lineno
            assert node.end_lineno - start < 50, f"{node.name} is {node.end_lineno - start} lines long"


def test_folders_hold_about_a_dozen_modules():
    counts = Counter(str(path.parent.relative_to(PACKAGE)) for path in FILES if path.name != "__init__.py")
    too_many = {folder: count for folder, count in counts.items() if count > LARGER.get(folder, MOST_MODULES)}
    assert not too_many, f"more than {MOST_MODULES} modules: {too_many}; merge what always changes together"
    assert all(counts[folder] > MOST_MODULES for folder in LARGER), "leaves the list of exceptions"


def test_importing_the_package_and_its_maths_loads_no_hugging_face_library():
    code = (
        "import sys, trl_weaks, trl_weaks.dirichlet, trl_weaks.alignment, trl_weaks.losses, trl_weaks.metrics\n"
        f"print(sorted({HUGGING_FACE!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_resolve_to_files_that_exist():
    import trl_weaks

    for name, module in trl_weaks._MODULES.items():
        assert f"trl_weaks.{module}" in MODULES, f"{name} lives in {module}, which is not there"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trl_weaks.nothing


def test_type_checkers_and_dir_see_the_names_that_are_resolved_on_first_use():
    import trl_weaks

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in ast.walk(tree) if _for_type_checkers(node)]
    seen = {(alias.asname, node.module, alias.name) for node in block.body for alias in node.names}
    lazy = {(name, module, name) for name, module in trl_weaks._MODULES.items()}
    assert seen == lazy | {(name, None, name) for name in trl_weaks._SUBMODULES}
    assert set(dir(trl_weaks)) == set(trl_weaks.__all__) == {name for name, _, _ in seen} | {"__version__"}


# Ids of classes mean nothing without the order of their names, which is lost where a file is read as bare rows: all
# tables come through one module, which gives names. Others may look at the types of a `Dataset` that they were given.
READ_TABLES = {
    "trl_weaks.labelling.sources.tables": "the one",
    "trl_weaks.trainer.common.label_paths": "gives the Dataset with its types, from which trainers take the names",
    "trl_weaks.commands.prompt_files": "gives the Dataset with its types, from which labelling takes the names",
    "trl_weaks.study.tasks.table": "hands a Dataset of the Hub to the one",
    "trl_weaks.study.tasks.classification": "its own data sets, whose columns it knows",
}
OF_FILES = {"from_parquet", "from_csv", "read_parquet", "read_csv", "DictReader", "ParquetFile", "load_dataset"}
KNOW_CLASS_LABELS = {
    "trl_weaks.labelling.sources.tables": "ids become names",
    "trl_weaks.labelling.sources.from_votes": "the order of the classes",
    "trl_weaks.labelling.reliability.gold": "the order of the classes of labels",
    "trl_weaks.labelling.label_classes": "the order of the classes of a Dataset",
    "trl_weaks.trainer.classification.data": "the order of the classes of labels",
    "trl_weaks.trainer.classification.sets": "says that gold is ids",
    "trl_weaks.commands.prompt_files": "refuses them as ids of rows",
}


def names_used(name: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def test_one_module_reads_tables_and_names_their_classes():
    found = {name for name in MODULES if names_used(name) & OF_FILES}
    assert found == set(READ_TABLES), "read them with `read_table`, which keeps the names of classes"
    found = {name for name in MODULES if "ClassLabel" in names_used(name)}
    assert found == set(KNOW_CLASS_LABELS), "`read_table` gives names of classes; `features_of` their order"


def test_one_module_says_what_is_a_number_among_names():
    """`isdecimal` takes "3.0", as tables with gaps write 3, for a name, and "-1" for none of a number."""
    found = {name for name in MODULES if names_used(name) & {"isdecimal", "isdigit", "isnumeric"}}
    assert not found, "ask `is_whole`, `is_number` and `without_point` of `supervisors.class_names`"


TESTS = Path(__file__).resolve().parent
TEST_FILES = {str(path.relative_to(TESTS)): path for path in sorted(TESTS.rglob("*.py"))}
# Files that configure models themselves, and why; all others ask `shared/tiny.py`.
OWN_MODELS = {
    "shared/tiny.py": "builds them for all others",
    "test_hours.py": "counts the operations of published sizes",
    "test_memory.py": "counts the bytes of published sizes",
    "trainer/test_throughput.py": "counts the operations of sizes by hand",
    "trainer/test_docstrings.py": "a shipped model's own configuration under another head",
    "peer/models.py": "stands for the models that TRL's tests load, in a process without `shared/`",
}
NOT_OF_MODELS = {"GenerationConfig", "HfDeepSpeedConfig", "BitsAndBytesConfig"}
OWN_PATHS = {
    "shared/processes.py": "starts a script as Python does",
    "distributed/test_launches.py": "a stand-in for a package makes way for the real one",
}
EDITS_PATH = re.compile(r"sys\.path(\.(insert|append|extend|remove|pop|clear)\b|(\[[^\]]*\])?\s*\+?=[^=])")


def models_made(source: str) -> list[str]:
    """Calls that configure a model of transformers or build one from a configuration."""
    tree, kinds, libraries = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers":
            kinds |= {a.asname or a.name for a in node.names if a.name.endswith("Config")} - NOT_OF_MODELS
        elif isinstance(node, ast.Import):
            libraries |= {a.asname or a.name for a in node.names if a.name.split(".")[0] == "transformers"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(called) for called in calls if _makes_a_model(called, kinds, libraries)]


def _makes_a_model(called: ast.expr, kinds: set[str], libraries: set[str]) -> bool:
    if isinstance(called, ast.Name):
        return called.id in kinds
    if isinstance(called, ast.Attribute):
        of_library = isinstance(called.value, ast.Name) and called.value.id in libraries
        return called.attr in ("from_config", "_from_config", "for_model") or (
            of_library and called.attr.endswith("Config") and called.attr not in NOT_OF_MODELS
        )
    by_name = isinstance(called, ast.Call) and isinstance(called.func, ast.Name) and called.func.id == "getattr"
    return by_name and "Config" in ast.unparse(called.args[1])


def test_one_module_of_the_tests_builds_the_tiny_models():
    found = {name: models_made(path.read_text(encoding="utf-8")) for name, path in TEST_FILES.items()}
    assert not {name: made for name, made in found.items() if made and name not in OWN_MODELS}, (
        "see tests/shared/tiny.py"
    )
    assert all(found[name] for name in OWN_MODELS), "leaves the list of exceptions"


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("from transformers import LlamaConfig, LlamaForCausalLM\nLlamaForCausalLM(LlamaConfig(hidden_size=8))", 1),
        ("from transformers import GPT2Config as G\nsizes = {}\nf = lambda: G(**sizes)", 1),
        ("import transformers as hf\nhf.OPTConfig(ffn_dim=8)\ngetattr(hf, f'{k}Config')(vocab_size=9)", 2),
        ("AutoModel.from_config(c)\nAutoConfig.for_model('gpt2', n_embd=8)", 2),
        ("from transformers import GenerationConfig as Config\nfrom peft import LoraConfig\nLoraConfig(r=2)", 0),
        ("from tiny import causal_lm\nfrom transformers import T5Config\ncausal_lm('gpt2', 9)\nT5Config", 0),
    ],
)
def test_what_counts_as_configuring_a_model(source, number):
    assert len(models_made(source)) == number


def test_tests_find_each_other_through_pythonpath():
    """That of pytest's settings in `pyproject.toml`; a process that a test starts is given `sys.path`."""
    found = {name for name, path in TEST_FILES.items() if EDITS_PATH.search(path.read_text(encoding="utf-8"))}
    assert found == set(OWN_PATHS), "add the folder to `pythonpath` in pyproject.toml"


@pytest.mark.parametrize("edit", [".insert(0, 'x')", ".append('x')", "[:0] = ['x']", " += ['x']", " = ['x']"])
def test_what_counts_as_an_edit_of_the_path(edit):
    assert EDITS_PATH.search("sys." + "path" + edit)
    assert not EDITS_PATH.search("os.pathsep.join(sys." + "path)")
