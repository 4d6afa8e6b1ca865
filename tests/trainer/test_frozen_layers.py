"""Reading the states of frozen layers is computing them: same losses, gradient norms and weights, over epochs."""

from pathlib import Path
from types import SimpleNamespace

import classification_runs as runs
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from shapes import shape
from tiny import causal_lm
from tiny import classifier as headed
from torch import nn

from trl_weaks import WeakClassificationConfig, WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.inference import prefix_trees
from trl_weaks.trainer.common.frozen_layers import FOLDER, frozen_layers, layers_of, refuse_engines
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer


def partly_frozen(name, tokenizer, frozen=2, **overrides):
    model = shape(name, tokenizer, **{"layers": 3} | overrides)
    return freeze(model, frozen)


def freeze(model, frozen=2):
    layers = layers_of(model)
    above = {id(p) for part in (*layers[frozen:], *(m for m in model.modules() if "orm" in type(m).__name__)) for p in
             part.parameters()}  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in above)
    for layer in layers[:frozen]:
        layer.requires_grad_(False)
    return model


def run(model, rows, tokenizer, arguments, cached, **settings):
    """Losses and gradient norms of every step, the trained weights, and how often a lower layer was computed."""
    passes = []
    peft_config = settings.pop("peft_config", None)
    resume = settings.pop("resume", None)
    settings = {"num_train_epochs": 3, "optim": "sgd"} | settings  # Adam makes steps of gradients that are rounding
    trainer = WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**arguments | settings, cache_frozen_layers=cached),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    lowest = next(part for part in layers_of(model)[0].modules() if isinstance(part, nn.LayerNorm) or "Norm" in type(
        part).__name__)  # fmt: skip
    lowest.register_forward_hook(lambda *_: passes.append(1))
    trainer.train(resume_from_checkpoint=resume)
    steps = [(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "grad_norm" in log]
    assert not Path(trainer.args.output_dir, FOLDER).exists()
    return torch.tensor(steps), {name: p.detach().clone() for name, p in model.named_parameters()}, len(passes)


def assert_same(found, wanted):
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    for name, value in wanted[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox"])
@pytest.mark.parametrize("trees", [False, None])
def test_training_is_the_same_and_lower_layers_run_in_the_first_epoch_alone(
    name, trees, weak_rows, tokenizer, arguments, monkeypatch
):
    """Trees of several shapes, and batches in other compositions in every epoch."""
    monkeypatch.setattr(prefix_trees, "GAIN", 0.0)
    settings = dict(
        token_trees=trees, gradient_accumulation_steps=2, per_device_train_batch_size=3, learning_rate=1e-2
    )
    computed = run(partly_frozen(name, tokenizer), weak_rows, tokenizer, arguments, False, **settings)
    read = run(partly_frozen(name, tokenizer), weak_rows, tokenizer, arguments, True, **settings)
    assert len(read[0]) == 3 * 2 and computed[2] == 3 * read[2]
    assert_same(read, computed)


def test_gradient_checkpointing_and_adapters_above(weak_rows, tokenizer, arguments):
    settings = dict(learning_rate=1e-2, num_train_epochs=2)
    computed, read = (
        run(partly_frozen("llama", tokenizer), weak_rows, tokenizer, arguments, cached,
            gradient_checkpointing=True, **settings)
        for cached in (False, True)
    )  # fmt: skip
    assert computed[2] == 2 * read[2]
    assert_same(read, computed)
    adapters = LoraConfig(target_modules=["q_proj"], layers_to_transform=[2], init_lora_weights=False)
    models = [partly_frozen("llama", tokenizer) for _ in range(2)]
    computed, read = (
        run(model, weak_rows, tokenizer, arguments, cached, peft_config=adapters, **settings)
        for model, cached in zip(models, (False, True), strict=True)
    )
    assert computed[2] == 2 * read[2]
    assert_same(read, computed)
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        run(partly_frozen("llama", tokenizer), weak_rows, tokenizer, arguments, True, peft_config=adapters,
            gradient_checkpointing=True)  # fmt: skip


def test_resumed_training_is_the_same(weak_rows, tokenizer, arguments):
    settings = dict(learning_rate=1e-2, save_strategy="epoch", num_train_epochs=3)
    whole = run(partly_frozen("llama", tokenizer), weak_rows, tokenizer, arguments, False, **settings)
    checkpoint = min(Path(arguments["output_dir"]).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    again = run(partly_frozen("llama", tokenizer), weak_rows, tokenizer, arguments, True, resume=str(checkpoint),
                **settings)  # fmt: skip
    assert_same(again, whole)


def test_classification_reads_them_too(tmp_path):
    for kind in ("bert", "gpt2"):
        logs = []
        for cached in (False, True):
            model = runs.classifier(kind)
            model.get_input_embeddings().requires_grad_(False)
            for parameter in model.base_model.parameters():
                parameter.requires_grad_(False)
            layers_of(model)[1].requires_grad_(True)
            passes = []
            layers_of(model)[0].register_forward_hook(
                lambda module, given, output, passes=passes: passes.append(output is given[0])
            )
            args = WeakClassificationConfig(
                str(tmp_path), use_cpu=True, bf16=False, report_to="none", logging_steps=1, num_train_epochs=3,
                per_device_train_batch_size=4, learning_rate=1e-2, cache_frozen_layers=cached, save_strategy="no",
            )  # fmt: skip
            trainer = WeakClassificationTrainer(
                model, args, train_dataset=runs.weak_dataset(), processing_class=runs.tokenizer()
            )
            trainer.train()
            logs.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        assert len(logs[0]) >= 6
        torch.testing.assert_close(torch.tensor(logs[1]), torch.tensor(logs[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"packing": True}, "packing"),
        ({"padding_free": True}, "packing"),
        ({"neftune_noise_alpha": 1.0}, "neftune"),
        ({"torch_compile": True}, "torch_compile"),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant"),
    ],
)
def test_settings_that_make_it_inexact_are_refused(settings, words, weak_rows, tokenizer, arguments):
    with pytest.raises(ValueError, match=f"cache_frozen_layers.*{words}"):
        run(partly_frozen("llama", tokenizer), weak_rows, tokenizer, arguments, True, **settings)


def test_rows_without_weak_labels_and_streams_are_refused(gold, weak_rows, tokenizer, arguments):
    args = WeakSupervisionConfig(**arguments | {"max_steps": 2}, cache_frozen_layers=True)
    for train, words in (
        (gold, "no weak labels"),
        (IterableDataset.from_generator(lambda: iter(weak_rows)), "stream"),
    ):
        with pytest.raises(ValueError, match=f"cache_frozen_layers.*{words}"):
            WeakSupervisionTrainer(partly_frozen("llama", tokenizer), args, train_dataset=train)


def test_students_that_make_it_inexact_are_refused(tokenizer):
    sizes = dict(width=32, inner=48, kv_heads=1)
    undropped = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    reads_on, reads = (freeze(headed(kind, 320, width=32, layers=3, noise=0.1, **undropped)) for kind in
                       ("convbert", "bert"))  # fmt: skip
    for model in (reads_on, reads):
        model.base_model.embeddings.requires_grad_(False)
    shared = causal_lm(
        "gemma3n_text", 320, **sizes, layers=4, num_kv_shared_layers=2, head_dim=16, laurel_rank=4, altup_num_inputs=2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=320, activation_sparsity_pattern=[0.0] * 4,
        layer_types=["full_attention"] * 4,
    )  # fmt: skip
    changed, noisy = (partly_frozen("llama", tokenizer) for _ in range(2))
    changed.get_input_embeddings().requires_grad_(True)
    layers_of(noisy)[1].mlp.register_forward_hook(
        lambda module, given, output: output + torch.randn_like(output) if module.training else output
    )
    jittering = freeze(causal_lm("mixtral", 320, **sizes, layers=3, num_local_experts=2))
    layers_of(jittering)[0].mlp.jitter_noise = 0.01  # as routers of experts name it
    students = {
        "no layer is frozen": partly_frozen("llama", tokenizer, frozen=0),
        "embeddings": changed,
        "draw random": noisy,
        "jitter_noise=0.01": jittering,
        "hidden_dropout=0.2": freeze(causal_lm("falcon", 320, width=32, heads=2, layers=3, hidden_dropout=0.2)),
        "dropout": partly_frozen("gpt2", tokenizer, embd_pdrop=0.1),
        "positions": partly_frozen(
            "llama", tokenizer, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
        ),
        "padding": reads_on,
        "": freeze(shared, 3),
    }
    for words, model in students.items():
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match=f"cache_frozen_layers.*{words}"):
            frozen_layers(model.train())
        assert all(module.training for module in model.modules()) and torch.equal(torch.get_rng_state(), state)
        assert not any(layer._forward_hooks for layer in layers_of(model))
    assert len(frozen_layers(reads)) == 2
    assert len(frozen_layers(partly_frozen("gpt2", tokenizer, resid_pdrop=0.0))) == 2
    experts = causal_lm("mixtral", 320, **sizes, layers=3, num_local_experts=2)
    assert len(frozen_layers(freeze(experts))) == 2  # exact for the loss; the balance of its experts is refused


def test_several_gpus_of_one_process_are_refused():
    several = SimpleNamespace(is_deepspeed_enabled=False, is_fsdp_enabled=False, args=SimpleNamespace(n_gpu=2))
    with pytest.raises(ValueError, match="cache_frozen_layers.*DataParallel"):
        refuse_engines(several)


def test_layers_that_change_while_training_end_it(weak_rows, tokenizer, arguments):
    model = partly_frozen("llama", tokenizer)
    trainer = WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**arguments, cache_frozen_layers=True),
        train_dataset=Dataset.from_list(weak_rows),
        processing_class=tokenizer,
    )
    step = trainer.training_step

    def unfreezing(*args, **kwargs):
        loss = step(*args, **kwargs)
        layers_of(model)[1].requires_grad_(True)
        return loss

    trainer.training_step = unfreezing
    with pytest.raises(ValueError, match="unfrozen"):
        trainer.train()


def test_too_little_room_is_said_before_training(weak_rows, tokenizer, arguments, monkeypatch):
    from trl_weaks.trainer.common import frozen_layers as module

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match="GiB are free"):
        run(partly_frozen("llama", tokenizer), weak_rows, tokenizer, arguments, True)
