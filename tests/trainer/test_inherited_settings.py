"""Every field that `WeakSupervisionConfig` inherits: means beside weak labels what it means in TRL, or is refused, or
has nothing to do with rows and losses. A field that TRL or transformers adds fails here until someone has looked."""

import copy
from dataclasses import fields
from pathlib import Path

import pytest
from datasets import Dataset
from shapes import TEXTS, shape
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.completions import refusals

PLAIN = {"weak_loss": "naive", "gamma_max": 0.0, "token_trees": False}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

# Field -> a value that is not the default, and what it needs beside it: the run is that of `SFTTrainer` on gold rows.
AS_IN_TRL = {
    "dataset_num_proc": (2, {}),
    "eos_token": ("<pad>", {"pad_token": "<eos>"}),
    "pad_token": ("<eos>", {"eos_token": "<pad>"}),
    "max_length": (24, {}),
    "truncation_mode": ("keep_end", {"max_length": 24}),
    "shuffle_dataset": (True, {}),
    "packing": (True, {"max_length": 64}),
    "packing_strategy": ("bfd_split", {"packing": True, "max_length": 24}),
    "padding_free": (True, {"max_length": None}),
    "pad_to_multiple_of": (8, {}),
    "eval_packing": (False, {"packing": True, "max_length": 64} | EVALUATED),
    "completion_only_loss": (True, {}),
    "assistant_only_loss": (True, {"chat": True}),
    "chat_template_path": ("template.jinja", {"chat": True}),
    "accelerator_config": ({"split_batches": True}, {}),
    "activation_checkpointing": (True, {}),
    "gradient_checkpointing": (True, {}),
    "gradient_checkpointing_kwargs": ({"use_reentrant": True}, {"gradient_checkpointing": True}),
    "adam_beta1": (0.5, {}),
    "adam_beta2": (0.9, {}),
    "adam_epsilon": (1e-2, {}),
    "auto_find_batch_size": (True, {}),
    "average_tokens_across_devices": (False, {}),
    "data_seed": (9, {}),
    "dataloader_drop_last": (True, {"per_device_train_batch_size": 3}),
    "dataloader_num_workers": (1, {}),
    "eval_accumulation_steps": (1, EVALUATED),
    "eval_delay": (1, EVALUATED),
    "eval_on_start": (True, EVALUATED),
    "eval_steps": (2, {"eval_strategy": "steps"}),
    "eval_strategy": ("epoch", {}),
    "full_determinism": (True, {}),
    "gradient_accumulation_steps": (2, {"per_device_train_batch_size": 2}),
    "include_num_input_tokens_seen": ("non_padding", {}),
    "learning_rate": (0.5, {}),
    "lr_scheduler_kwargs": ({"num_cycles": 2}, {"lr_scheduler_type": "cosine"}),
    "lr_scheduler_type": ("cosine", {}),
    "max_grad_norm": (0.1, {}),
    "max_steps": (5, {}),
    "neftune_noise_alpha": (5.0, {}),
    "num_train_epochs": (3, {}),
    "optim": ("sgd", {}),
    "per_device_eval_batch_size": (2, EVALUATED),
    "per_device_train_batch_size": (2, {}),
    "prediction_loss_only": (True, EVALUATED),
    "remove_unused_columns": (False, {}),
    "seed": (11, {}),
    "train_sampling_strategy": ("group_by_length", {}),
    "length_column_name": ("size", {"train_sampling_strategy": "group_by_length"}),
    "use_cache": (True, {}),
    "warmup_steps": (2, {}),
    "weight_decay": (0.5, {}),
}
REFUSED = {"loss_type", "label_smoothing_factor", "use_liger_kernel", "dataset_kwargs"}  # see test_refusals.py
TESTED = {  # needs more than a field: where
    "model_init_kwargs": "test_weak_supervision_trainer.py::test_the_context_is_that_of_the_model_that_is_loaded",
    "bf16": "test_plain_sft.py::test_bfloat16_is_as_near_to_float32_as_trls",
    "metric_for_best_model": "test_sets_and_resuming.py::test_the_best_model_can_be_chosen_by_a_set",
    "greater_is_better": "test_sets_and_resuming.py::test_the_best_model_can_be_chosen_by_a_set",
    "load_best_model_at_end": "test_sets_and_resuming.py::test_the_best_model_can_be_chosen_by_a_set",
    "save_strategy": "test_weak_supervision_trainer.py::test_a_resumed_run_ends_bit_identical",
    "save_steps": "test_weak_supervision_trainer.py::test_a_resumed_run_ends_bit_identical",
    "resume_from_checkpoint": "test_weak_supervision_trainer.py::test_a_resumed_run_ends_bit_identical",
    "hub_token": "test_sets_and_resuming.py::test_settings_of_trl_and_transformers_are_taken",
    "parallelism_config": "test_parallel_checks.py",
    "deepspeed": "../distributed/test_strategies.py",
    "fsdp": "../distributed/test_strategies.py",
    "fsdp_config": "../distributed/test_strategies.py",
}
INERT = {"dataset_text_field": "weak rows are prompt and completion; test_carried_columns.py"}
# Nothing of rows, losses or metrics: where things run, are written, logged, sent; or read by the optimizer alone.
OUTSIDE = set(
    """
    activation_checkpointing_kwargs activation_offloading batch_eval_metrics bf16_full_eval dataloader_in_order
    dataloader_multiprocessing_context dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor
    ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug
    disable_tqdm do_eval do_predict do_train enable_jit_checkpoint eval_do_concat_batches eval_use_gather_object fp16
    fp16_full_eval hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy ignore_data_skip
    include_for_metrics label_names liger_kernel_config local_rank log_level log_level_replica log_on_each_node
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy optim_args optim_target_modules output_dir
    project push_to_hub report_to restore_callback_states_from_checkpoint router_aux_loss_coef run_name
    save_on_each_node save_only_model save_total_limit skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
    trust_remote_code use_cpu
    """.split()
)


def test_every_inherited_field_has_its_place():
    places = [set(AS_IN_TRL), REFUSED, set(TESTED), set(INERT), OUTSIDE]
    assert set().union(*places) == {field.name for field in fields(SFTConfig)}
    assert sum(map(len, places)) == len(set().union(*places)), "a field is in two places"
    refused = " ".join(refusal.what for refusal, _ in refusals.SETTINGS)
    assert all(name in refused for name in REFUSED)
    here = Path(__file__).parent
    for place in TESTED.values():
        file, _, name = place.partition("::")
        assert f"def {name}" in (here / file).read_text(encoding="utf-8")


def as_chat(row):
    turns = {"prompt": [{"role": "user", "content": row["prompt"]}]}
    return row | turns | {"completion": [{"role": "assistant", "content": row["completion"]}]}


@pytest.mark.parametrize("name", AS_IN_TRL)
def test_a_setting_means_what_it_means_in_trl(perfect, tokenizer, arguments, trajectory, name, tmp_path, monkeypatch):
    value, more = AS_IN_TRL[name]
    given = arguments | {"num_train_epochs": 1} | more | {name: value}
    rows, gold = perfect.to_list(), [{"prompt": prompt, "completion": completion} for prompt, completion in TEXTS]
    if given.pop("chat", False):
        rows, gold = [as_chat(row) for row in rows], [as_chat(row) for row in gold]
    if name == "chat_template_path":
        given[name] = str(tmp_path / value)
        Path(given[name]).write_text(CHAT, encoding="utf-8")
    if name == "full_determinism":
        monkeypatch.setattr("transformers.trainer.enable_full_determinism", lambda seed: None)  # of the whole process
    held = "eval_strategy" in given
    found = []
    for kind, config, data, extra in (
        (WeakSupervisionTrainer, WeakSupervisionConfig, rows, PLAIN),
        (SFTTrainer, SFTConfig, gold, {}),
    ):
        own = copy.deepcopy(tokenizer)
        own.chat_template = CHAT if name == "assistant_only_loss" else None
        trainer = kind(
            model=shape("llama", own),
            args=config(**copy.deepcopy(given) | extra),
            train_dataset=Dataset.from_list(data),
            eval_dataset=Dataset.from_list(data[:5]) if held else None,
            processing_class=own,
        )
        path = trajectory(trainer)
        evaluated = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
        tokens = [log["num_tokens"] for log in trainer.state.log_history if "loss" in log]
        found.append((path, evaluated, tokens))
    assert found[0][0] and bool(found[0][1]) == held
    for (loss, norm), (other, other_norm) in zip(found[0][0], found[1][0], strict=True):
        assert loss == pytest.approx(other, rel=3e-5) and norm == pytest.approx(other_norm, rel=3e-4)
    assert found[0][1] == pytest.approx(found[1][1], rel=3e-5)
    assert found[0][2] == found[1][2]
