"""From a supervised student and an ensemble to a trained student in one call; and the example script."""

import copy
import importlib.util
import sys
from pathlib import Path

import preference_runs as runs
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor
from trl_weaks.trainer.preference.run import preference_trainer
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig

HERE = Path(__file__)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ROWS = Dataset.from_list([{"example_id": f"e{i}", "prompt": f"wake me at {w}"} for i, w in enumerate(runs.WORDS[:6])])


def supervisor(kind, seed, name):
    model = runs.model(kind, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return WeakSupervisor(model, runs.tokenizer(), name)


def start(folder, student=None, **changes):
    student = student or supervisor("llama", 0, "student")
    ensemble = WeakEnsemble([supervisor("gpt2", 1, "a"), supervisor("opt", 2, "b")])
    options = {key: changes.pop(key) for key in ("peft_config",) if key in changes}
    args = WeakPreferenceConfig(**runs.settings(folder, **changes))
    return preference_trainer(student, ensemble, ROWS, args, num_candidates=3, max_new_tokens=5, **options)


def test_the_students_margin_moves_towards_the_ensembles_choice(tmp_path):
    trainer, pairs = start(tmp_path, max_steps=6, learning_rate=3e-3, beta=1.0, per_device_train_batch_size=6)
    assert (tmp_path / "preferences" / "dataset").is_dir() and len(pairs) >= 4
    before = [p.clone() for p in trainer.ref_model.parameters()]
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert history[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)  # the reference is the student as it was
    assert history[-1]["rewards/margins"] > 0.05 and history[-1]["loss"] < history[0]["loss"]
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.ref_model.parameters(), strict=True))


def test_a_student_that_a_trl_trainer_patched_keeps_an_independent_reference(tmp_path):
    student = supervisor("llama", 0, "student")
    rows = Dataset.from_list([{"prompt": "wake me", "completion": " at noon"}] * 4)
    args = SFTConfig(**{k: v for k, v in runs.settings(tmp_path / "sft").items() if k != "beta"})
    SFTTrainer(student.model, args=args, train_dataset=rows, processing_class=student.tokenizer).train()
    trainer, _ = start(tmp_path / "dpo", student=student)
    trainer.train()
    margins = [e["rewards/margins"] for e in trainer.state.log_history if "rewards/margins" in e]
    assert margins[0] == pytest.approx(0.0, abs=1e-5) and abs(margins[-1]) > 1e-4


def test_lora_needs_no_copy_and_a_second_call_makes_no_candidates(tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    student = supervisor("llama", 0, "student")
    untouched = copy.deepcopy(student)
    trainer, pairs = start(tmp_path, student=student, peft_config=lora)
    assert trainer.ref_model is None
    files = sorted((tmp_path / "preferences" / "candidates").iterdir())
    trainer, again = start(tmp_path, student=untouched, peft_config=lora)
    assert sorted((tmp_path / "preferences" / "candidates").iterdir()) == files
    assert again.to_list() == pairs.to_list()


def test_the_example_runs_offline(tmp_path, capsys):
    example = load("preference_example", HERE.parents[2] / "examples" / "preference.py")
    line = ["--prompts", "8", "--gold_rows", "48", "--epochs", "1", "--num_candidates", "3", "--max_steps", "2"]
    parsed = example.make_parser().parse_args_and_config([*line, "--output_dir", str(tmp_path)])
    example.main(*parsed)
    out = capsys.readouterr().out
    assert '"prompts": 8' in out and "against gold" in out
    assert (tmp_path / "model.safetensors").exists()
