"""What the READMEs say to type: labelling and a whole example, through `accelerate launch` and the shipped files."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import yaml
from launches import DEEPSPEED, HERE
from safetensors.torch import load_file

ROOT = HERE.parents[1]
# Stands before the real one: tells when a process that labels wants it; the launcher, which loads it too, gets the
# real one.
FAKE = """import os, sys
if "LOCAL_RANK" in os.environ:
    open(os.environ["TOLD"], "a").close()
    raise ImportError("labelling loads DeepSpeed")
sys.path.remove(os.path.dirname(os.path.dirname(__file__)))
del sys.modules["deepspeed"]
import deepspeed
"""


def accelerate(settings: str, arguments: list, **environment) -> subprocess.CompletedProcess:
    """`accelerate launch` with a shipped file, on two CPU processes, from the root of the repository."""
    if "zero" in settings and not DEEPSPEED:
        pytest.skip("deepspeed is not installed")
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"ds_configs/accelerate/{settings}.yaml", "--main_process_port", "0"]
    command += ["--num_processes", "2", *map(str, arguments)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_", "FSDP_"))}
    kept |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CI": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(command, env=kept | environment, cwd=ROOT, capture_output=True, text=True, timeout=600)


def module(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two saved supervisors, prompts, and the labels that one process gives."""
    from trl_weaks.cli import main

    folder = tmp_path_factory.mktemp("label")
    shapes = module(HERE.parent / "labelling" / "conftest.py")
    for seed, shape in enumerate(("gpt2", "llama")):
        tokenizer = shapes.tokenizer_of(shape)
        shapes.model_of(shape, len(tokenizer), seed).save_pretrained(folder / shape)
        tokenizer.save_pretrained(folder / shape)
    lines = [json.dumps({"example_id": str(i), "prompt": f"USER: wake me at {i}{' now' * (i % 3)}"}) for i in range(7)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    arguments = ["label", "--dataset", folder / "prompts.jsonl", "--supervisors", folder / "gpt2", folder / "llama"]
    arguments += ["--num_candidates", "2", "--max_new_tokens", "5", "--batch_size", "2", "--mode", "joint"]
    main([*map(str, arguments), "--output_dir", str(folder / "one")])
    return folder, arguments


def rows(folder) -> list[dict]:
    from datasets import load_from_disk

    return load_from_disk(str(folder / "dataset")).to_list()


@pytest.mark.matrix
@pytest.mark.parametrize("settings", ["multi_gpu", "zero2", "zero3", "fsdp2"])
def test_labelling_is_the_same_under_every_launch_and_loads_no_deepspeed(labelled, settings, tmp_path):
    folder, arguments = labelled
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "__init__.py").write_text(FAKE)
    done = accelerate(
        settings,
        ["-m", "trl_weaks.cli", *arguments, "--output_dir", tmp_path / "two"],
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        TOLD=str(tmp_path / "told"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "told").exists()
    assert len(list((tmp_path / "two" / "labels").glob("shard-*"))) == 2, "both processes labelled"
    assert rows(tmp_path / "two") == rows(folder / "one")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The settings of the shortest experiment, as a file."""
    pipeline = module(HERE.parent / "study" / "test_slot_filling_pipeline.py")
    settings = dataclasses.asdict(pipeline.minute("unused"))
    del settings["output_dir"]
    file = tmp_path_factory.mktemp("example") / "minute.yaml"
    file.write_text(yaml.safe_dump(settings | {"methods": ["bayesian_aux"]}))
    return file


@pytest.mark.matrix
def test_every_stage_of_the_example_runs_under_every_launch(example, tmp_path):
    """Two processes train, label, prefer and evaluate; ZeRO-3 reaches the students that DDP reaches."""
    for settings in ("multi_gpu", "zero3"):
        done = accelerate(
            settings, ["examples/slot_filling.py", "--config", example, "--output_dir", tmp_path / settings]
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results = json.loads((tmp_path / settings / "results.json").read_text())
        assert set(results["methods"]) >= {"bayesian_aux", "cdpo", "ceiling"}
        assert ("DeepSpeed" in done.stdout + done.stderr) == (settings == "zero3")
    for system in ("students/bayesian_aux", "students/ceiling", "weak/gpt2"):
        ddp, zero = (load_file(tmp_path / s / "seed-0" / system / "model.safetensors") for s in ("multi_gpu", "zero3"))
        assert max(float((ddp[name] - zero[name]).abs().max()) for name in ddp) <= 1e-4
