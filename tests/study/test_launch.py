"""From a command line to settings: a preset is read however it is written, and never in silence with a file."""

import shlex

import pytest
import yaml

from trl_weaks.study.config import ClassificationConfig, SlotFillingConfig
from trl_weaks.study.pipeline.launch import launch, make_parser, parse
from trl_weaks.study.table_config import ClassTableConfig, CompletionTableConfig

CONFIGS = [SlotFillingConfig, ClassificationConfig, CompletionTableConfig, ClassTableConfig]


@pytest.mark.parametrize("arguments", [["--preset", "small"], ["--preset=small"], ["--pres", "small"]])
def test_a_preset_is_read_however_it_is_written(arguments):
    config = parse(SlotFillingConfig, [*arguments, "--num_weak", "7"])
    assert config.preset == "small" and config.student_model == "Qwen/Qwen2.5-3B" and config.num_weak == 7


def test_the_default_is_tiny():
    config = parse(SlotFillingConfig, [])
    assert config.preset == "tiny" and config.student_model == "tiny:llama"


@pytest.mark.parametrize("written", ["--config {}", "--config={}"])
def test_a_file_of_settings_is_no_preset(tmp_path, written):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"num_weak": 5}), encoding="utf-8")
    arguments = written.format(path).split()
    config = parse(SlotFillingConfig, [*arguments, "--num_gold", "3"])
    assert (config.preset, config.num_weak, config.num_gold, config.student_model) == (None, 5, 3, "")
    for preset in (["--preset", "small"], ["--preset=tiny"]):
        with pytest.raises(ValueError, match="--preset and --config exclude each other"):
            parse(SlotFillingConfig, [*arguments, *preset])
    path.write_text(yaml.safe_dump({"preset": "small"}), encoding="utf-8")
    with pytest.raises(ValueError, match="mine.yaml: `preset` has no effect in a file"):
        parse(SlotFillingConfig, arguments)
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        parse(SlotFillingConfig, ["--config", str(tmp_path / "gone.yaml")])


def test_the_command_reads_the_task_and_leaves_the_rest_to_it(monkeypatch, capsys):
    from trl_weaks.commands.study import study

    seen = []
    monkeypatch.setattr("trl_weaks.study.pipeline.launch.launch", lambda *given: seen.append(given[:2]))
    study(["--task", "classification:intent", "--seeds", "1"])
    study(["--seeds", "1", "--task=my_task.py", "--help"])
    assert seen == [
        ("classification", ["--seeds", "1", "--task", "intent"]),
        ("my_task.py", ["--seeds", "1", "--help"]),
    ]
    study(["--help"])
    assert "--task completions --train_file" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        study(["--seeds", "1"])
    assert "--task is needed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", CONFIGS)
def test_help_says_each_default_once_and_no_none(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    for entry in make_parser(kind).format_help().split("\n  --")[1:]:
        assert "(default: None)" not in entry and "(default: )" not in entry and "(default: [])" not in entry, entry
        assert not ("Default:" in entry and "(default:" in entry), entry


@pytest.mark.parametrize("kind", CONFIGS)
def test_help_names_every_preset(kind):
    folder = kind.preset_path("tiny").parent
    help_ = " ".join(make_parser(kind).format_help().split())
    for path in folder.glob(f"{kind.kind}_*.yaml"):
        name = path.stem.removeprefix(f"{kind.kind}_")
        assert name == "tiny" or name in help_, f"{name} of {kind.kind}"


def test_a_report_names_a_command_that_a_shell_reads_back(monkeypatch, tmp_path):
    said = ["examples/slot_filling.py", "--student_training", '{"learning_rate": 1e-3}', "--output_dir", "my runs"]
    seen = {}
    monkeypatch.setattr("sys.argv", said)
    monkeypatch.setattr("trl_weaks.study.pipeline.run.run", lambda config, task, command: seen.update(c=command))
    launch("slot_filling", ["--stages", "weak", "--output_dir", str(tmp_path)])
    assert shlex.split(seen["c"]) == ["accelerate", "launch", *said]
