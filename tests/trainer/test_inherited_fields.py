"""Every field that our configurations inherit is tried, tested elsewhere, refused, or listed with why it is harmless.

A field that TRL or transformers adds is in no list, and fails here until someone has thought about it.
"""

from dataclasses import fields
from pathlib import Path

import classification_runs as classification
import preference_runs as preference
import pytest
import torch
from datasets import Dataset
from shapes import shape
from transformers import TrainingArguments
from trl import DPOConfig, SFTConfig

from trl_weaks import WeakClassificationConfig, WeakPreferenceConfig, WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer
from trl_weaks.trainer.weak_preference_trainer import WeakPreferenceTrainer

HERE = Path(__file__).parent

# Tried below: with this value every row still meets the columns that are its own.
TRIED = {
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "example_id",
    "remove_unused_columns": False,
    "dataloader_drop_last": True,
    "dataloader_num_workers": 1,
    "data_seed": 11,
    "seed": 12,
    "label_names": ["labels"],
    "neftune_noise_alpha": 1.0,
    "auto_find_batch_size": True,
    "include_num_input_tokens_seen": "all",
    "include_for_metrics": ["inputs", "loss"],
    "eval_accumulation_steps": 1,
    "eval_do_concat_batches": False,
    "prediction_loss_only": True,
    "full_determinism": False,
    "torch_empty_cache_steps": 1,
    "max_grad_norm": 0.1,
    "optim_target_modules": None,
    "accelerator_config": {"split_batches": True},
    "ignore_data_skip": True,
    "dataloader_in_order": False,
    "dataset_num_proc": 2,
}
TRIED_OF = {
    "supervision": {"shuffle_dataset": True, "dataset_text_field": "example_id"},
    "preference": {"precompute_ref_log_probs": False, "padding_free": True, "ref_model_sync_steps": 1},
    "classification": {},
}
# Refused with weak labels: field -> a value that raises, naming the field.
REFUSED = {
    "supervision": {
        "label_smoothing_factor": 0.1,
        "loss_type": "dft",
        "use_liger_kernel": True,
        "completion_only_loss": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "eval_packing": True,
    },
    "preference": {"label_smoothing_factor": 0.1},
    "classification": {"label_smoothing_factor": 0.1},
}
# Tested elsewhere: field -> file and what its tests call it.
EVERYWHERE = {
    "gradient_accumulation_steps": "test_weak_supervision_trainer.py::gradient_accumulation_steps",
    "gradient_checkpointing": "test_weak_preference.py::gradient_checkpointing",
    "resume_from_checkpoint": "test_weak_supervision_trainer.py::resume_from_checkpoint",
    "per_device_train_batch_size": "test_weak_preference.py::per_device_train_batch_size",
    "per_device_eval_batch_size": "test_sets_and_resuming.py::per_device_eval_batch_size",
    "metric_for_best_model": "test_drop_in.py::metric_for_best_model",
    "bf16": "test_bfloat16.py::bf16",
    "learning_rate": "test_weak_preference.py::learning_rate",
    "deepspeed": "test_parallel_checks.py::deepspeed",
    "fsdp": "test_parallel_checks.py::fsdp",
    "fsdp_config": "test_parallel_checks.py::fsdp",
    "parallelism_config": "test_parallel_checks.py::parallelism",
    "use_cpu": "test_parallel_checks.py::use_cpu",
    "max_steps": "test_weak_preference.py::max_steps",
    "logging_steps": "test_weak_preference.py::logging_steps",
    "eval_strategy": "test_weak_preference.py::eval_strategy",
    "eval_steps": "test_weak_preference.py::eval_steps",
}
ELSEWHERE = {
    "supervision": {
        "packing": "test_packing.py::packing",
        "packing_strategy": "test_packing.py::packing_strategy",
        "padding_free": "test_packing.py::padding_free",
        "max_length": "test_truncation.py::max_length",
        "truncation_mode": "test_truncation.py::max_length",
        "assistant_only_loss": "test_drop_in.py::assistant",
    },
    "preference": {
        "beta": "test_weak_preference.py::beta",
        "label_smoothing": "test_weak_preference.py::label_smoothing",
        "ld_alpha": "test_weak_preference.py::ld_alpha",
        "loss_type": "test_dpo_losses.py::loss_type",
        "loss_weights": "test_dpo_losses.py::loss_weights",
        "f_divergence_type": "test_dpo_losses.py::f_divergence_type",
        "f_alpha_divergence_coef": "test_dpo_losses.py::f_alpha_divergence_coef",
        "use_weighting": "test_dpo_losses.py::use_weighting",
        "discopop_tau": "test_dpo_losses.py::DPO_LOSSES",
        "max_length": "test_weak_preference_bad_input.py::max_length",
        "truncation_mode": "test_weak_preference_bad_input.py::max_length",
    },
    "classification": {},
}
# Why a field cannot part a row from its columns, or change the loss.
INERT = {
    "the optimizer sees gradients only": "adam_beta1 adam_beta2 adam_epsilon lr_scheduler_kwargs lr_scheduler_type "
    "num_train_epochs optim optim_args warmup_steps weight_decay",
    "how the same sums are computed, by torch or accelerate": ""
    "activation_checkpointing activation_checkpointing_kwargs "
    "bf16_full_eval "
    "fp16 fp16_full_eval gradient_checkpointing_kwargs tf32 torch_compile torch_compile_backend "
    "torch_compile_mode use_cache liger_kernel_config debug average_tokens_across_devices",
    "how a batch is read, not what it holds": "dataloader_multiprocessing_context dataloader_persistent_workers "
    "dataloader_pin_memory dataloader_prefetch_factor",
    "how processes talk": "ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters "
    "ddp_static_graph ddp_timeout local_rank eval_use_gather_object",
    "when, where and what is saved, logged or evaluated": "disable_tqdm do_eval do_predict do_train "
    "enable_jit_checkpoint output_dir eval_delay eval_on_start greater_is_better "
    "hub_always_push hub_model_id hub_private_repo "
    "hub_revision hub_strategy hub_token load_best_model_at_end log_level log_level_replica log_on_each_node "
    "logging_first_step logging_nan_inf_filter logging_strategy project push_to_hub report_to "
    "restore_callback_states_from_checkpoint run_name save_on_each_node save_only_model save_steps save_strategy "
    "save_total_limit skip_memory_metrics trackio_bucket_id trackio_space_id trackio_static_space_id "
    "batch_eval_metrics",
}
INERT_OF = {
    "supervision": {
        "TRL's loading of model and tokenizer, before rows are read": "model_init_kwargs trust_remote_code "
        "chat_template_path eos_token pad_token router_aux_loss_coef",
        "memory and padding only": "activation_offloading pad_to_multiple_of",
    },
    "preference": {
        "TRL's loading of model and tokenizer, before rows are read": "model_init_kwargs trust_remote_code pad_token "
        "router_aux_loss_coef use_liger_kernel",
        "TRL's own, around an unchanged reference pass": "precompute_ref_batch_size ref_model_mixup_alpha "
        "sync_ref_model disable_dropout",
        "memory and padding only": "activation_offloading pad_to_multiple_of",
    },
    "classification": {"Liger has no kernel for the loss of classes": "use_liger_kernel"},
}
KINDS = {
    "supervision": (WeakSupervisionConfig, SFTConfig),
    "preference": (WeakPreferenceConfig, DPOConfig),
    "classification": (WeakClassificationConfig, TrainingArguments),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_inherited_field_is_in_one_list(kind):
    ours, theirs = KINDS[kind]
    inherited = {field.name for field in fields(theirs)}
    assert inherited <= {field.name for field in fields(ours)}
    own = [*TRIED_OF[kind], *REFUSED[kind], *ELSEWHERE[kind]]
    own += [name for names in INERT_OF[kind].values() for name in names.split()]
    common = [*TRIED, *EVERYWHERE, *(name for names in INERT.values() for name in names.split())]
    if kind == "classification":  # not a field of transformers', but ours under the same name
        common.remove("dataset_num_proc")
    listed = common + own
    assert sorted(inherited - set(listed)) == [], "added by TRL or transformers: what does it do to weak columns?"
    assert sorted(set(listed) - inherited) == [], "removed by TRL or transformers"
    assert sorted(name for name in set(listed) if listed.count(name) > 1) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_named_exist(kind):
    for name, test in (EVERYWHERE | ELSEWHERE[kind]).items():
        file, word = test.split("::")
        assert word in (HERE / file).read_text(encoding="utf-8"), f"{name}: {test}"


def build(kind, folder, tokenizer, arguments, weak_rows, **changes):
    settings = {"per_device_train_batch_size": 1, "num_train_epochs": 1, "max_steps": -1} | changes
    if kind == "supervision":
        args = WeakSupervisionConfig(**arguments | settings)
        model, rows = shape("llama", tokenizer), Dataset.from_list(weak_rows)
        return WeakSupervisionTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    if kind == "preference":
        model = preference.model()
        rows = preference.pairs().add_column("example_id", [f"e{i}" for i in range(8)])
        args = WeakPreferenceConfig(**preference.settings(folder, **settings))
        given = {"train_dataset": rows, "processing_class": preference.tokenizer()}
        return WeakPreferenceTrainer(model, preference.reference_of(model), args, **given)
    rows = classification.weak_dataset().add_column("example_id", [f"e{i}" for i in range(12)])
    args = classification.settings(folder, **settings)
    given = {"train_dataset": rows, "processing_class": classification.tokenizer()}
    return WeakClassificationTrainer(classification.classifier(), args, **given)


def seen(trainer):
    """What the loss was given in one epoch, a row at a time, sorted; but not which tokens share a pass."""
    batches, compute = [], trainer.compute_loss

    def note(model, inputs, *args, **kwargs):
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        batches.append(str({name: tensors[name].tolist() for name in sorted(tensors) if name[:5] != "tree_"}))
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = note
    trainer.train()
    return sorted(batches)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_keep_their_columns_under_every_setting(kind, tmp_path, tokenizer, arguments, weak_rows):
    expected = seen(build(kind, tmp_path, tokenizer, arguments, weak_rows))
    assert len(expected) > 6
    wrong = {}
    for name, value in (TRIED | TRIED_OF[kind]).items():
        if kind == "preference" and name == "train_sampling_strategy":
            with pytest.raises(
                ValueError, match="infer lengths"
            ):  # transformers', as in `DPOTrainer`: loud, not wrong
                seen(build(kind, tmp_path, tokenizer, arguments, weak_rows, **{name: value}))
            continue
        found = seen(build(kind, tmp_path, tokenizer, arguments, weak_rows, **{name: value}))
        if found != expected:
            wrong[name] = next((f for f, e in zip(found, expected, strict=False) if f != e), len(found))
    assert not wrong, "\n".join([*wrong.values(), expected[0]])


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in KINDS for name in REFUSED[kind]])
def test_a_refused_field_is_refused_by_name(kind, name, tmp_path, tokenizer, arguments, weak_rows):
    with pytest.raises(ValueError, match=name):
        build(kind, tmp_path, tokenizer, arguments, weak_rows, **{name: REFUSED[kind][name]})
