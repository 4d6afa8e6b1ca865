"""The shipped launch settings: every file parses as its reader parses it, and says what its name says."""

import json
import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
JSONS = sorted((ROOT / "ds_configs").glob("*.json"))
YAMLS = sorted((ROOT / "ds_configs" / "accelerate").glob("*.yaml"))
# Filled in by the trainer: a number here would fight the training arguments.
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
KNOWN = {*AUTO, "bf16", "fp16", "zero_optimization"}  # DeepSpeed ignores a misspelt key and says nothing


def test_every_file_is_here():
    assert [file.stem for file in JSONS] == ["zero2", "zero2_offload", "zero3", "zero3_offload"]
    names = "fsdp2 multi_gpu multi_node_zero3 single_gpu zero2 zero2_offload zero3 zero3_offload"
    assert [file.stem for file in YAMLS] == names.split()


@pytest.mark.parametrize("file", JSONS, ids=lambda file: file.stem)
def test_deepspeed_settings(file):
    settings = json.loads(file.read_text())
    assert set(settings) == KNOWN
    assert all(settings[name] == "auto" for name in AUTO)
    assert settings["bf16"]["enabled"] == "auto" and settings["fp16"]["enabled"] is False
    zero = settings["zero_optimization"]
    assert zero["stage"] == int(file.stem[4])
    offloaded = {name for name in ("offload_optimizer", "offload_param") if name in zero}
    expected = {"zero2_offload": {"offload_optimizer"}, "zero3_offload": {"offload_optimizer", "offload_param"}}
    assert offloaded == expected.get(file.stem, set())
    assert all(zero[name]["device"] == "cpu" for name in offloaded)
    if zero["stage"] == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True  # or save_model writes no weights


@pytest.mark.parametrize("file", JSONS, ids=lambda file: file.stem)
def test_deepspeed_knows_every_key_of_the_zero_block(file):
    zero = pytest.importorskip("deepspeed.runtime.zero.config")
    settings = json.loads(file.read_text())["zero_optimization"]
    read = zero.DeepSpeedZeroConfig(**{k: v for k, v in settings.items() if v != "auto"})  # refuses unknown keys
    assert read.stage == settings["stage"]


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: file.stem)
def test_accelerate_settings(file, monkeypatch):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)
    text = file.read_text()
    assert text.startswith("# "), "the file says what it is for"
    given = yaml.safe_load(text)
    assert "gradient_accumulation_steps" not in given.get("deepspeed_config", {})  # would pin the trainer's
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(file), "train.py"]))
    kind = "fsdp" if file.stem == "fsdp2" else "deepspeed" if "zero" in file.stem else file.stem
    assert bool(args.use_deepspeed) == (kind == "deepspeed") and bool(args.use_fsdp) == (kind == "fsdp")
    assert bool(args.multi_gpu) == (kind == "multi_gpu") and not args.use_cpu
    nodes = 2 if "node" in file.stem else 1
    assert (args.num_machines, args.num_processes) == (nodes, 1 if kind == "single_gpu" else 8 * nodes)
    if kind == "deepspeed":
        settings = json.loads(Path(args.deepspeed_config_file).read_text())
        assert settings["zero_optimization"]["stage"] == int(file.stem.split("zero")[1][0])
        assert ("offload_optimizer" in settings["zero_optimization"]) == ("offload" in file.stem)
        assert str(args.zero3_init_flag).lower() == str("zero3" in file.stem).lower()
    elif kind == "fsdp":
        assert int(args.fsdp_version) == 2 and args.fsdp_state_dict_type == "FULL_STATE_DICT"


def test_the_readme_names_every_file():
    text = (ROOT / "ds_configs" / "README.md").read_text()
    for file in [*JSONS, *YAMLS]:
        assert f"`{file.relative_to(ROOT / 'ds_configs')}`" in text, file.name
