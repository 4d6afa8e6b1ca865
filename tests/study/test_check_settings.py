"""Wrong settings of any stage are found before the first stage runs, and finding them leaves nothing behind."""

import os

import pytest
import yaml
from accelerate import PartialState
from transformers.integrations import is_deepspeed_zero3_enabled

from trl_weaks.study.config import ClassificationConfig, SlotFillingConfig
from trl_weaks.study.pipeline import run as study
from trl_weaks.study.pipeline.check_settings import check_settings
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.tasks.classification import Classification
from trl_weaks.study.tasks.slot_filling import SlotFilling

SHAPE = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 160}
SIZES = {"num_gold": 8, "num_weak": 8, "num_validation": 4, "num_test": 4}
MODELS = {"weak_models": ["tiny:opt"], "student_model": "tiny:llama"}
SETTINGS = SIZES | MODELS | {"tiny_models": {"opt": SHAPE, "llama": SHAPE}, "pretraining": {"sentences": 9}}
TASKS = {SlotFillingConfig: SlotFilling, ClassificationConfig: Classification}


def run(config):
    study.run(config, TASKS[type(config)](config), "")


def check(config):
    task = TASKS[type(config)](config)
    check_settings(config, task, study.methods_of(config, task))


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def run_stages(*_):
        raise AssertionError("a stage ran")

    monkeypatch.setattr("trl_weaks.study.pipeline.run.run_stages", run_stages)


@pytest.mark.parametrize("config_class", TASKS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"student_training": {"learing_rate": 1}},
            "`student_training` has .*Did you mean 'learning_rate'",
        ),
        ({"student_training": {"gamma_max": 2.0}}, r"`student_training`: `gamma_max` must be in \[0, 1\)"),
        ({"student_training": {"weak_loss": "naive"}}, "'weak_loss' is decided by the stage or the method"),
        (
            {"weak_training": {"learning_rate": "5e-3"}},
            "`weak_training`: 'learning_rate' is the text '5e-3'",
        ),
        ({"weak_training": {"output_dir": "here"}}, "`weak_training`: 'output_dir' is decided by the stage"),
        ({"weak_training": {"lr_scheduler_type": "steep"}}, "`weak_training`: steep is not a valid SchedulerType"),
        (
            {"pretraining": {"training": {"zzzz": 1}}},
            "`pretraining: training` has an unknown setting 'zzzz'. It",
        ),
        ({"pretraining": {"epochs": 1}}, r"`pretraining` has unknown settings \['epochs'\]"),
        ({"use_peft": True, "lora": {"rank": 3}}, "`lora`: .*'rank'"),
        ({"student_model": "no/such-model"}, "`student_model`: 'no/such-model' cannot be loaded"),
        ({"weak_models": ["./nowhere"]}, "`weak_models`: './nowhere' cannot be loaded"),
        ({"weak_models": ["tiny:bert"]}, "`tiny_models` gives no sizes for 'tiny:bert'"),
        (
            {"weak_models": ["tiny:second"], "tiny_models": {"second": SHAPE, "llama": SHAPE}},
            "`tiny_models: second`: 'second' is no shape; name one of gpt2, opt, gpt_neox, llama by `shape`",
        ),
        (
            {"tiny_models": {"opt": SHAPE | {"width": 3}, "llama": SHAPE}},
            r"`tiny_models: opt` has unknown \['width'\]",
        ),
        ({"tiny_models": {"opt": {"layers": 1}, "llama": SHAPE}}, "`tiny_models: opt` lacks .*'vocab_size'"),
    ],
)
def test_a_wrong_setting_is_named_before_any_stage(config_class, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(config_class(**SETTINGS | settings | {"output_dir": str(tmp_path)}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preference_training": {"beta": 0.1, "losstype": "ipo"}}, "`preference_training` has an unknown"),
        ({"preference_training": {"preference_loss": "ipo"}}, "`preference_training`: `preference_loss` must be"),
        (
            {"weak_pretraining": {"training": {"max_step": 3}}},
            "`weak_pretraining: training`.* mean 'max_steps'",
        ),
        ({"weak_pretraining": {"readings": 3}}, r"unknown settings \['readings'\]"),
        ({"weak_training": {"eval_strategy": "no"}}, "'eval_strategy' is decided by the stage"),
    ],
)
def test_settings_of_slot_filling_alone(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(SlotFillingConfig(**SETTINGS | settings | {"output_dir": str(tmp_path)}))


def test_only_stages_to_run_are_checked(tmp_path):
    wrong = {"student_training": {"learing_rate": 1}, "student_model": "no/such-model", "output_dir": str(tmp_path)}
    config = SlotFillingConfig(**SETTINGS | wrong | {"stages": ["weak", "label"]})
    with pytest.raises(AssertionError, match="a stage ran"):
        run(config)


def test_a_folder_with_a_model_is_fine(tmp_path):
    config = SlotFillingConfig(**SETTINGS)
    for part in ModelFactory(config).build("tiny:opt", 0, ["play a song in the hall"]):
        part.save_pretrained(tmp_path)
    ModelFactory(SlotFillingConfig(**SETTINGS | {"weak_models": [str(tmp_path)]})).check()


def test_one_shape_serves_under_several_names():
    sizes = {"opt": SHAPE, "second": SHAPE | {"shape": "opt"}, "llama": SHAPE}
    factory = ModelFactory(SlotFillingConfig(**SETTINGS | {"tiny_models": sizes}))
    texts = ["play a song in the hall"]
    (first, tokenizer), (second, copy) = (factory.build(f"tiny:{name}", 0, texts) for name in ("opt", "second"))
    assert second.config.model_type == "opt" and copy.get_vocab() == tokenizer.get_vocab()
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert factory.identity("tiny:second") != factory.identity("tiny:opt")


def test_settings_from_a_command_line_are_json():
    assert SlotFillingConfig(lora='{"r": 4}').lora == {"r": 4}
    with pytest.raises(ValueError, match="`weak_training` must be a mapping .*learning_rate=1"):
        SlotFillingConfig(weak_training="learning_rate=1")


@pytest.mark.parametrize("config_class", TASKS)
def test_checking_leaves_no_trace(config_class, tmp_path):
    """DeepSpeed, another precision and another device of the last settings must not reach the first trainer."""
    left = {"bf16": True, "fsdp": True, "fsdp_config": {"version": 2}, "use_cpu": True}
    config = config_class(**SETTINGS | {"output_dir": str(tmp_path / "new"), "student_training": left})
    PartialState()
    environment, state = dict(os.environ), dict(PartialState._shared_state)
    check(config)
    assert dict(os.environ) == environment and PartialState._shared_state == state
    assert not is_deepspeed_zero3_enabled() and not (tmp_path / "new").exists()


def test_checking_deepspeed_settings_leaves_no_trace(tmp_path):
    pytest.importorskip("deepspeed")
    config = SlotFillingConfig(**SETTINGS | {"student_training": {"deepspeed": {"zero_optimization": {"stage": 3}}}})
    environment = dict(os.environ)
    check(config)
    assert dict(os.environ) == environment and not is_deepspeed_zero3_enabled()


@pytest.mark.parametrize(
    ("config_class", "preset"),
    [(SlotFillingConfig, name) for name in ("tiny", "tiny_full", "slurp", "pretrained", "small", "paper")]
    + [(ClassificationConfig, name) for name in ("tiny", "slurp", "pretrained", "paper")],
)
def test_presets_are_settings_that_trainers_take(config_class, preset, tmp_path):
    settings = yaml.safe_load(config_class.preset_path(preset).read_text(encoding="utf-8"))
    if preset in ("slurp", "pretrained"):
        settings["data_dir"] = str(tmp_path)
    check(config_class(**settings | {"methods": ["all"]}))
