"""The contract with TRL's private and unstable parts: a TRL that moved fails here, not in a training run."""

import ast
import inspect
import os
from collections import namedtuple
from pathlib import Path

import torch
from transformers import PreTrainedConfig, Trainer, TrainingArguments
from trl import DPOTrainer, RewardTrainer, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

import trl_weaks
from trl_weaks.trainer import _compat


def names(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_methods_we_override_keep_their_arguments():
    assert names(SFTTrainer._prepare_dataset) == [
        "self",
        "dataset",
        "processing_class",
        "args",
        "packing",
        "formatting_func",
        "dataset_name",
    ]
    assert names(SFTTrainer.compute_loss) == ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]
    assert names(SFTTrainer._set_signature_columns_if_needed) == ["self"]
    assert names(SFTTrainer._prepare_inputs) == ["self", "inputs"]
    assert names(SFTTrainer.create_model_card) == ["self", "model_name", "dataset_name", "tags"]


def test_every_strategy_reads_its_optimizer_from_a_checkpoint():
    """DeepSpeed reads weights by itself; what a loss or a pooling remembers is read with the optimizer's state."""
    assert names(Trainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]
    before, after = inspect.getsource(Trainer._prepare_for_training).split("self._load_optimizer_and_scheduler(", 1)
    condition = before.rstrip().splitlines()
    assert any(line.strip() == "if resume_from_checkpoint is not None:" for line in condition)


def test_the_attributes_we_read_are_set_by_the_trainer():
    source = inspect.getsource(SFTTrainer)
    for name in ("_metrics", "_total_train_tokens", "_tp_size", "aux_loss_enabled", "router_aux_loss_coef"):
        assert f"self.{name}" in source, name
    for name in ("completion_only_loss", "chat_template", "_skip_prepare_dataset", "_formatting_func", "padding_free"):
        assert f"self.{name} =" in source, name


def test_the_collator_and_the_fused_head_keep_their_fields():
    fields = _compat.DataCollatorForLanguageModeling.__dataclass_fields__
    assert {"pad_token_id", "pad_to_multiple_of", "padding_free"} <= set(fields)
    assert {"log_probs", "entropy", "is_top1", "label_mask"} <= set(FusedCausalLMOutput.__dataclass_fields__)


def test_what_the_classification_trainer_builds_on_is_what_the_reward_trainer_builds_on():
    assert issubclass(RewardTrainer, _compat.BaseTrainer)
    assert issubclass(_compat.BaseConfig, TrainingArguments)
    assert names(_compat.BaseTrainer.create_model_card) == ["self", "model_name", "dataset_name", "tags"]
    assert names(_compat.create_model_from_path)[0] == "model_id"
    for helper in (_compat.suppress_seqcls_warning, _compat.global_then_local_main_first):
        with helper():
            pass


def test_what_streams_and_resuming_rest_on():
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration
    from datasets import Dataset
    from transformers import TrainerState

    assert "dispatch_batches" in DataLoaderConfiguration.__dataclass_fields__
    assert Accelerator(cpu=True).dataloader_config is not None
    stream = Dataset.from_list([{"a": 1}]).to_iterable_dataset().map(lambda row: {"b": 2})
    assert _compat.get_dataset_column_names(stream) == ["a", "b"]
    assert TrainerState().stateful_callbacks == {}  # kept in every checkpoint, whatever its keys


def test_the_fused_head_keeps_the_plain_forward_in_a_closure():
    assert _compat._fused_codes(), "copies of a model would compute with the original's weights again"


def test_what_stands_below_the_trainers_is_there():
    from accelerate import PartialState
    from accelerate.state import AcceleratorState
    from tiny import causal_lm
    from transformers.integrations import deepspeed

    from trl_weaks import _compat as below

    model = causal_lm("gpt2", 5, width=8, heads=1)
    assert below.exchanges_attention(model)
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert below.attention_of(model.config) == name
    assert hasattr(deepspeed, "_hf_deepspeed_config_weak_ref")
    PartialState()
    state = below.accelerate_state()
    assert state and state == PartialState._shared_state
    AcceleratorState(mixed_precision="no")
    below.restore_accelerate_state(state)
    assert below.accelerate_state() == state and not AcceleratorState._shared_state


def test_deepspeed_settings_are_out_of_sight_for_a_while():
    from transformers.integrations import deepspeed

    from trl_weaks._compat import without_deepspeed_config

    class Settings:
        config = {"zero_optimization": {"stage": 3}}

    settings = Settings()
    deepspeed.set_hf_deepspeed_config(settings)
    try:
        with without_deepspeed_config():
            assert deepspeed.deepspeed_config() is None
        assert deepspeed.deepspeed_config() is settings.config
    finally:
        deepspeed.unset_hf_deepspeed_config()


# Private names of libraries by which a version may break us: they stand in `_compat.py`, but for those that a subclass
# inherits and those of a plain `Module` or configuration, each of which is asked here whether it is there.
LIBRARIES_OWN = {"_shared_state", "_reset_state", "_attn_implementation", "_can_set_attn_implementation"}
LIBRARIES_OWN |= {"_hf_deepspeed_config_weak_ref", "_supports_sdpa", "_fingerprint"}
LIBRARIES_OWN |= {"_is_hf_initialized", "_keys_to_ignore_on_load_missing", "_hf_peft_config_loaded"}
ELSEWHERE = {
    "_DropoutNd": lambda: torch.nn.modules.dropout._DropoutNd,
    "_asdict": lambda: namedtuple("N", "a")(1)._asdict,
    "_buffers": lambda: torch.nn.Module()._buffers,
    "_exit": lambda: os._exit,
    "_formatting_func": lambda: inspect.getsource(SFTTrainer).index("self._formatting_func ="),
    "_forward_hooks": lambda: torch.nn.Module()._forward_hooks,
    "_forward_pre_hooks": lambda: torch.nn.Module()._forward_pre_hooks,
    "_get_output_dir": lambda: Trainer._get_output_dir,
    "_is_vision_dataset": lambda: inspect.getsource(DPOTrainer).index("self._is_vision_dataset ="),
    "_name_or_path": lambda: inspect.getsource(PreTrainedConfig).index("self._name_or_path ="),
    "_non_persistent_buffers_set": lambda: torch.nn.Module()._non_persistent_buffers_set,
    "_skip_prepare_dataset": lambda: inspect.getsource(SFTTrainer).index("self._skip_prepare_dataset ="),
}


def nodes_by_file() -> dict[str, list[ast.AST]]:
    package = Path(trl_weaks.__file__).parent
    files = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    return {name: list(ast.walk(ast.parse(text))) for name, text in files.items()}


def test_private_names_stand_in_one_place():
    found = {}
    for file, nodes in nodes_by_file().items():
        names = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
        names |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        if not file.endswith("_compat.py") and names & LIBRARIES_OWN:
            found[file] = names & LIBRARIES_OWN
    assert not found


def test_other_private_names_of_libraries_are_known_and_there():
    """One that is added is noticed here: put it into `_compat.py`, or here where a subclass inherits it."""
    own, read = set(), set()
    for file, nodes in nodes_by_file().items():
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
        own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        read |= (
            set() if file.endswith("_compat.py") else {n.attr for n in attributes if n.attr[:1] == "_" != n.attr[1:2]}
        )
    assert read - own == set(ELSEWHERE)
    for look in ELSEWHERE.values():
        look()
