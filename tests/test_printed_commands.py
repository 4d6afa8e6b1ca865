"""Every command that an example's docstring or ds_configs/README.md prints: it runs on tiny models and data made here,
or, where it names a preset, SLURP or several machines, its arguments are read as printed."""

import ast
import json
import re
import shlex
from pathlib import Path

import processes
import pytest
from datasets import Dataset

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "http://localhost:8000/v1"  # of a server, as printed
LAUNCH = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]
EXPERIMENTS = {  # their tasks
    "slot_filling.py": "slot_filling",
    "classification.py": "classification",
    "dialogue_state.py": str(ROOT / "examples" / "dialogue_state.py"),
}


def printed() -> list[str]:
    """The commands, continued lines joined, remarks after three spaces or `#` left out."""
    texts = [
        ast.get_docstring(ast.parse(file.read_text("utf-8"))) for file in sorted((ROOT / "examples").glob("*.py"))
    ]
    texts += re.findall(r"^```bash\n(.*?)^```", (ROOT / "ds_configs" / "README.md").read_text("utf-8"), re.M | re.S)
    found = []
    for text in texts:
        named = dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            line = re.split(r"\s{3,}\(|\s#\s", line.strip())[0].strip()
            for name, value in named.items():
                line = line.replace(f"${name}", value)
            if re.match(r"(python examples/|accelerate launch |trl-weaks )", line):
                found.append(line)
    return list(dict.fromkeys(found))


COMMANDS = printed()
STUDY = [command for command in COMMANDS if any(name in command for name in EXPERIMENTS)]
OTHERS = [command for command in COMMANDS if command not in STUDY]
LONG = ["python examples/preference.py"]


def test_all_are_found():
    assert len(COMMANDS) == len(set(COMMANDS)) and len(STUDY) >= 13 and len(OTHERS) >= 9
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert files == {name for name in files if any(name in command for command in COMMANDS)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with prompts, weak rows, pairs and models under short names."""
    from trl_weaks.study.models.tiny import build_model, train_tokenizer

    folder = tmp_path_factory.mktemp("commands")
    texts = ["play some jazz at nine", "wake me at six", "lights on ok no"] * 20
    for name in ("gpt2", "opt", "llama"):
        tokenizer = train_tokenizer(name, texts, 440)
        model = build_model(name, tokenizer, hidden_size=16, layers=1, heads=2, max_length=128, seed=0)
        model.save_pretrained(folder / name), tokenizer.save_pretrained(folder / name)
    prompts = [{"example_id": str(i), "prompt": f"play {w}"} for i, w in enumerate(("jazz", "some", "nine"))]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    ids = [(row["example_id"], name) for row in prompts for name in ("ann", "bob")]
    answers = [{"example_id": e, "supervisor": s, "completion": " jazz", "confidence": 0.5} for e, s in ids]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    votes = [{"example_id": e, "supervisor": s, "completion_a": " jazz", "completion_b": " no"} for e, s in ids]
    votes = [vote | {"preferred": "b" if i == 0 else "a"} for i, vote in enumerate(votes)]
    (folder / "votes.jsonl").write_text("\n".join(map(json.dumps, votes)))
    classes = [f"{e},{s},{'odd' if int(e) % 2 else 'even'}" for e, s in ids]
    (folder / "votes.csv").write_text("\n".join(["example_id,supervisor,label", *classes]) + "\n")
    texts = [f"{row['example_id']},{row['prompt']}" for row in prompts]
    (folder / "texts.csv").write_text("\n".join(["example_id,text", *texts]) + "\n")
    weak = {"weak_supervisors": ["a"], "weak_weights": [1.0], "weak_offsets": [[[0, 5]]], "weak_logps": [[-0.1]]}
    rows = [row | {"completion": " jazz"} | weak for row in prompts]
    (folder / "weak").mkdir(), (folder / "pairs").mkdir()
    Dataset.from_list(rows).to_parquet(folder / "weak" / "train.parquet")
    pairs = [row | {"chosen": " jazz", "rejected": " no", "pair_epsilon": 0.1, "pair_weight": 1.0} for row in prompts]
    Dataset.from_list(pairs).to_parquet(folder / "pairs" / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def server():
    """Address of a server on the loopback that answers every prompt alike."""
    from scripted_server import Server, chat

    found = Server(lambda body, count: (200, chat()), models=("small",))
    yield found.url
    found.close()


def local(command: str) -> list[str]:
    """The command's words for this Python, with the models and data made here."""
    words = shlex.split(command.replace("...", "--dataset prompts.jsonl --supervisors gpt2 opt --output_dir shared"))
    names = {
        "MODEL": "llama",
        "my-strong-model": "llama",
        "facebook/opt-125m": "opt",
        "meta-llama/Llama-2-7b-hf": "llama",
    }
    names["DATASET"] = "pairs" if "preference" in command else "weak"
    words = [names.get(word, word) for word in words]
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if script is None:
        return ["-m", "trl_weaks.cli", *words[1:]]
    start = LAUNCH if words[0] == "accelerate" else []
    return [*start, str(ROOT / words[script]), *words[script + 1 :]]


@pytest.mark.parametrize(
    "command", [pytest.param(command, marks=[pytest.mark.slow] if command in LONG else []) for command in OTHERS]
)
def test_it_runs(command, made, server):
    done = processes.run(local(command.replace(ADDRESS, server)), cwd=made, timeout=400, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("command", STUDY)
def test_the_experiments_read_it(command):
    """`make demo` and the study's tests run what these settings describe."""
    from trl_weaks.study.pipeline.launch import parse
    from trl_weaks.study.tasks.find import config_class

    words = shlex.split(command)
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    config = parse(config_class(EXPERIMENTS[Path(words[script]).name]), words[script + 1 :])
    assert config.stages and (ROOT / words[script]).is_file()
    if "--config_file" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
