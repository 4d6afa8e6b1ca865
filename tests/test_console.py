"""What `trl-weaks` loads before it answers: help, versions and wrong arguments wait for no library of models.

Seen in `sys.modules`, not on a clock: importing torch, transformers and trl is what takes seconds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.naming import camelcase_to_snakecase

from trl_weaks.cli import COMMANDS, build_parser
from trl_weaks.commands.errors import PREFIX
from trl_weaks.commands.label import load_prompts
from trl_weaks.commands.sources import PATIENCE, refuse_unknown_dataset
from trl_weaks.study.tasks.classification import _load_sciq

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("torch", "transformers", "trl", "accelerate", "peft")
LIBRARIES = (*MODELS, "datasets", "pandas", "scipy", "matplotlib")
RUN = """
import json, sys
from trl_weaks.cli import main
try:
    main({arguments!r})
    code = 0
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted(set({watched!r}) & set(sys.modules))]))
"""


def ended(arguments, watched=LIBRARIES, cwd=ROOT):
    """What a run ends with (a status, or a message), its output, and which of the watched libraries it loaded."""
    code = RUN.format(arguments=list(map(str, arguments)), watched=watched)
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return *json.loads(last), "\n".join(printed) + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=str)
def test_help_and_version_load_no_library(arguments):
    code, loaded, printed = ended(arguments)
    assert (code, loaded) == (0, []) and printed


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["--nothing"], [], *([name, "--nothing", "x"] for name in COMMANDS)], ids=str
)
def test_wrong_arguments_load_no_library(arguments):
    code, loaded, printed = ended(arguments)
    assert (code, loaded) == (2, []) and "usage: trl-weaks" in printed
    assert printed.splitlines()[-1].startswith(PREFIX)


def test_a_slip_in_a_command_is_answered_with_the_nearest():
    assert "there is no command 'lable'. Did you mean 'label'? Known: label, verify" in ended(["lable"])[-1]


LABEL = ("label", "--output_dir", "out", "--dataset", "prompts.jsonl", "--supervisors", "model")


@pytest.fixture
def folder(tmp_path):
    """Prompts, and a folder that looks like a model's from afar."""
    rows = [{"example_id": "1", "prompt": "play", "number": 3, "completion": "jazz"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("model", "bare", "empty", "taken"):
        (tmp_path / name).mkdir()
    (tmp_path / "taken" / "study.json").write_text('{"task": "sums"}')
    (tmp_path / "model" / "model.safetensors").touch(), (tmp_path / "bare" / "config.json").touch()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "nothing"}')
    labels = {"example_id": ["1"], "completion": ["a"]}
    Dataset.from_dict(labels).save_to_disk(tmp_path / "labels" / "dataset")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([*LABEL, "--dataset", "promts.jsonl"], "--dataset: no such file: promts.jsonl"),
        ([*LABEL, "--dataset", "./data"], "--dataset: no such file or folder: ./data"),
        ([*LABEL, "--supervisors", "model", "models/x/y"], "--supervisors: no such file or folder: models/x/y"),
        ([*LABEL, "--supervisors", "empty"], "--supervisors: empty is no folder of a model: it has no config.json"),
        ([*LABEL, "--supervisors", "bare"], "--supervisors: bare has no weights: there is no .safetensors file in it"),
        ([*LABEL, "--names", "a", "b"], "2 --names for 1 --supervisors"),
        ([*LABEL, "--weights", "1", "2"], "2 --weights for 1 --supervisors"),
        ([*LABEL, "--top_p", "0.5"], "give a temperature too"),
        ([*LABEL, "--hub_private_repo"], "give --push_to_hub too"),
        ([*LABEL, "--output_dir", "taken"], "--output_dir taken holds a study; name a folder of its own"),
        ([*LABEL, "--config", "x"], "--config x: a file has no configurations"),
        (["memory", "--model", "../none"], "--model: no such file or folder: ../none"),
        (["report", "none"], "no such folder: none"),
        (["view", "labels", "--gold", "gold.csv"], "--gold: no such file: gold.csv"),
        (["report", "labels", "--gold_column", "x"], "--gold_column x is a column of gold answers; give their file"),
        (["config", "zero"], "there is no configuration 'zero'. Did you mean 'zero"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[-2:]),
)
def test_wrong_values_and_what_is_not_there_load_no_library(folder, arguments, message):
    code, loaded, _ = ended(arguments, cwd=folder)
    assert code.startswith(PREFIX) and message in code and loaded == []


STUDY = ("study", "--task", "completions", "--train_file", "prompts.jsonl", "--unlabelled_file", "prompts.jsonl")
STUDY += ("--test_file", "prompts.jsonl")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["study", "--task", "slot_filing"], "Unknown task 'slot_filing'. Did you mean 'slot_filling'? Known: "),
        (["study", "--task", "mine.py"], "--task: no such file: mine.py"),
        (["study", "--task", "slot_filling", "--preset", "slurb"], "Unknown preset 'slurb'. Did you mean 'slurp'?"),
        (
            ["study", "--task", "slot_filling", "--num_wek", "1"],
            "unknown setting '--num_wek' in the command line. Did you mean",
        ),
        (["study", "--task", "slot_filling", "--data_dir", "none"], "--data_dir: no such folder: none"),
        (["study", "--task", "completions"], "`train_file` is not set"),
        ([*STUDY, "--test_file", "gold.csv"], "--test_file: no such file: gold.csv"),
        ([*STUDY, "--test_file", "no/data:test"], "--test_file: no/data is no file or folder here, and the Hub does"),
        ([*STUDY, "--student_model", "./none"], "--student_model: no such file or folder: ./none"),
        ([*STUDY, "--weak_models", "empty"], "--weak_models: empty is no folder of a model: it has no config.json"),
        ([*STUDY, "--methods", "mine.py"], "--methods: no such file: mine.py"),
        (["study", "--task", "classification", "--output_dir", "taken"], "taken holds the study of the task 'sums'"),
        (["study", "--task", "classification", "--output_dir", "labels"], "labels holds labels, not a study. Name"),
        ([*STUDY, "--student_model", "no/model"], "--student_model: no/model is no folder here, and the Hub does not"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[-2:]),
)
def test_a_study_says_what_is_wrong_before_its_libraries(folder, arguments, message):
    code, loaded, _ = ended(arguments, ("torch", "accelerate", "peft", "datasets"), cwd=folder)
    assert code.startswith(PREFIX) and message in code and loaded == []


def test_an_option_without_its_value_looks_like_every_other_error(folder):
    code, _, printed = ended(["study", "--task", "slot_filling", "--seeds", "x"], cwd=folder)
    usage, line = printed.splitlines()[0], printed.splitlines()[-1]
    assert code == 2 and usage.startswith("usage: trl-weaks study --task slot_filling") and line.startswith(PREFIX)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--drop_columns", "completion", "--supervisors", "no/model"],
            "--supervisors: no/model is no folder here, and the Hub does not give it",
        ),
        (
            ["--drop_columns", "completion", "--supervisors", "no/model@v1"],
            "--supervisors: no/model@v1 is no folder here",
        ),
        (["--dataset", "no/data"], "--dataset: no/data is no file or folder here, and the Hub does not give it: "),
        (["--dataset", "no/data"], ". Name a file, or an id that can be fetched from here."),
        (["--prompt_column", "text"], "--prompt_column: the dataset has no column 'text', only ["),
        (["--id_column", "key"], "--id_column: the dataset has no column 'key'"),
        (["--drop_columns", "gold"], "--drop_columns: the dataset has no column 'gold'"),
        ([], "already has a column 'completion', which labelling writes; rename or remove it. --drop_columns leaves"),
        (
            ["--prompt_column", "number", "--drop_columns", "completion", "prompt"],
            "--prompt_column number: row 0 holds",
        ),
    ],
    ids=str,
)
def test_a_wrong_column_and_an_unknown_model_load_no_library_of_models(folder, arguments, message):
    code, loaded, _ = ended([*LABEL, *arguments], MODELS, folder)
    assert code.startswith(PREFIX) and message in code and loaded == []


def test_the_hub_is_asked_for_a_dataset_once_and_what_was_kept_of_it_is_enough(tmp_path, monkeypatch):
    """Five tries, with pauses between them, are those of `load_dataset`, which is not reached."""
    asked = []

    def unreachable(self, name, timeout):
        asked.append((name, timeout))
        raise OSError("[Errno 111] Connection refused\n(of many lines)")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    message = r"--dataset: an-owner/OurData_2 is no file .*give it: \[Errno 111\] Connection refused\. Name a file"
    options = build_parser().parse_args([*LABEL, "--dataset", "an-owner/OurData_2"])
    with pytest.raises(ValueError, match=message):
        load_prompts(options)
    assert asked == [("an-owner/OurData_2", PATIENCE)]
    (tmp_path / f"an-owner___{camelcase_to_snakecase('OurData_2')}").mkdir()
    refuse_unknown_dataset("--dataset", "an-owner/OurData_2")
    with pytest.raises(ValueError, match="dataset 'sciq': allenai/sciq is no file or folder here"):
        _load_sciq()


def test_a_model_that_cannot_be_loaded_is_named(folder):
    code, _, _ = ended([*LABEL, "--drop_columns", "completion"], (), folder)
    assert "--supervisors model: cannot be loaded: " in code and "Traceback" not in code


def test_every_option_of_every_command_says_what_it_is():
    (commands,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for name, parser in commands.choices.items():
        silent = [action.dest for action in parser.fill()._actions if not action.help]
        assert silent == [], f"trl-weaks {name}: {silent}"
