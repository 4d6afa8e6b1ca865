"""Training on token trees is training on rows: same losses, gradients, metrics, evaluation and checkpoints."""

import random

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig
from shapes import one_step, relative_error, shape, watch_gradients
from tiny import causal_lm

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.heads import WeakHeadRequest, add_weak_head
from trl_weaks.inference import prefix_trees
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.trainer.completions.tree_rows import TREES, take_trees, tree_columns, tree_inputs, why_rows

SHAPES = ["llama", "gpt2", "opt", "gpt_neox"]
INSTRUCTION = "turn the request of the user into the slots that it fills, as json, one line\n"


@pytest.fixture
def rows(weak_rows) -> list[dict]:
    """The weak rows under one instruction."""
    return [row | {"prompt": INSTRUCTION + row["prompt"]} for row in weak_rows]


@pytest.fixture
def always(monkeypatch):
    """Trees even where they save nothing."""
    monkeypatch.setattr(prefix_trees, "GAIN", 0.0)


def trainer(model, rows, tokenizer, arguments, token_trees=None, peft_config=None, eval_dataset=None, **settings):
    return WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**arguments | settings, token_trees=token_trees),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def logs(run, *names):
    return torch.tensor([[log[name] for name in names] for log in run.state.log_history if "grad_norm" in log])


def count_tokens(model) -> list[int]:
    """Tokens that the backbone computes, per forward pass."""
    seen = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", SHAPES)
def test_random_trees_give_the_loss_and_the_gradients_of_rows(name, seed, tokenizer, always):
    """Any rows in any order: random depths and branchings, duplicates, rows that begin others, several supervisors."""
    r = random.Random(seed)
    attention = ("sdpa", "eager")[seed % 2]
    loss = (NaiveLoss(), EvidentialLoss(kl_coef=1e-2), AuxiliaryConfidence(EvidentialLoss(kl_coef=1e-2), 0.25))[
        seed % 3
    ]
    model = shape(name, tokenizer, attn_implementation=attention)
    add_weak_head(model)
    trunk = [r.randrange(2, 300) for _ in range(r.randrange(30))]
    texts = []
    for _ in range(r.randrange(2, 9)):
        start = r.choice(texts or [trunk])
        texts.append(start[: r.randrange(len(start) + 1)] + [r.randrange(2, 6) for _ in range(r.randrange(1, 12))])
    texts += [texts[0], texts[0] + [7]]
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    draw = torch.Generator().manual_seed(seed)
    labels = ids.masked_fill((mask == 0) | (torch.rand(ids.shape, generator=draw) < 0.3), -100)
    columns = tree_columns(texts, length, 32)
    packed = take_trees(columns)
    results = []
    for trees in (False, True):
        request = WeakHeadRequest(
            loss,
            progress=0.7,
            weights=torch.rand(len(texts), 2, generator=torch.Generator().manual_seed(1)),
            unit_ids=torch.arange(length)[None].expand_as(ids),
            unit_logps=-torch.rand(*ids.shape, 2, generator=torch.Generator().manual_seed(2)),
            chunk_size=5,
            nodes=packed.nodes if trees else None,
        )
        model.zero_grad()
        inputs = tree_inputs(model, packed, ids) if trees else {"input_ids": ids, "attention_mask": mask}
        output = model(**inputs, labels=labels, weak_head=request)
        output.loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((float(output.loss), gradients, output))
    (whole, by_rows, row_output), (tree, by_trees, tree_output) = results
    assert tree == pytest.approx(whole, rel=2e-6)
    assert relative_error(by_trees, by_rows) <= 2e-6
    for field in ("entropy", "target_probs", "log_probs"):
        torch.testing.assert_close(getattr(tree_output, field), getattr(row_output, field), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_training_with_trees_is_training_without(name, rows, tokenizer, arguments):
    runs = [trainer(shape(name, tokenizer), rows, tokenizer, arguments, trees, max_steps=3) for trees in (None, False)]
    seen = [count_tokens(run.model) for run in runs]
    for run in runs:
        run.train()
    assert sum(seen[0]) < 0.6 * sum(seen[1])  # the trees were there, and by default
    names = ("loss", "grad_norm", "entropy", "mean_token_accuracy", "num_tokens", "weak/confidence", "weak/agreement")
    torch.testing.assert_close(logs(runs[0], *names), logs(runs[1], *names), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_one_step_of_the_trainer(name, rows, tokenizer, arguments):
    given = arguments | {"max_grad_norm": 0.0, "max_steps": 1, "per_device_train_batch_size": 12}
    given |= {"gamma_warmup": 0.0, "kl_anneal": 0.0, "kl_coef": 0.01}  # every term from the first step on
    runs = [
        one_step(watch_gradients(trainer(shape(name, tokenizer), rows, tokenizer, given, trees)))
        for trees in (True, False)
    ]
    assert runs[0][0] == pytest.approx(runs[1][0], rel=2e-6)
    assert relative_error(runs[0][1], runs[1][1]) <= 2e-6


@pytest.mark.parametrize("settings", ["accumulation", "checkpointing", "lora"])
def test_trees_go_with(settings, rows, tokenizer, arguments):
    peft_config, given = None, dict(arguments, max_steps=2)
    if settings == "accumulation":
        given |= {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3}
    elif settings == "checkpointing":
        given["gradient_checkpointing"] = True
    else:
        peft_config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    runs = []
    for trees in (True, False):
        run = trainer(shape("llama", tokenizer), rows, tokenizer, given, trees, peft_config)
        base = run.model.get_base_model() if peft_config else run.model
        seen = count_tokens(base)
        run.train()
        runs.append((logs(run, "loss", "grad_norm", "num_tokens"), sum(seen)))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=2e-5, atol=2e-6)
    assert runs[0][1] < 0.7 * runs[1][1]


def test_evaluation_weighs_rows_as_before(rows, gold, tokenizer, arguments):
    """Batches of unequal size: the loss is the mean over rows, whatever they are computed as."""
    gold = gold.map(lambda row: {"prompt": INSTRUCTION + row["prompt"]})
    metrics = []
    for trees in (True, False):
        data = {"weak": Dataset.from_list(rows), "gold": gold}
        run = trainer(
            shape("gpt2", tokenizer), rows, tokenizer, arguments, trees, None, data, per_device_eval_batch_size=5
        )
        metrics.append(run.evaluate())
    names = [f"eval_{s}_{m}" for s in ("weak", "gold") for m in ("loss", "entropy", "mean_token_accuracy")]
    for name in (*names, "eval_weak_weak/confidence"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-5), name


@pytest.mark.parametrize("first", [True, False])
def test_a_run_on_trees_resumes_on_rows_and_back(first, rows, tokenizer, arguments, tmp_path):
    given = arguments | {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "per_device_train_batch_size": 3}
    given |= {"optim": "sgd", "learning_rate": 0.1, "include_num_input_tokens_seen": "non_padding"}
    whole = trainer(shape("llama", tokenizer), rows, tokenizer, given, first)
    whole.train()
    again = trainer(shape("llama", tokenizer), rows, tokenizer, given, not first)
    again.train(resume_from_checkpoint=f"{given['output_dir']}/checkpoint-2")
    names = ("loss", "grad_norm", "num_input_tokens_seen")
    torch.testing.assert_close(logs(again, *names), logs(whole, *names), rtol=2e-5, atol=2e-6)
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


def test_rows_with_little_in_common_stay_rows(perfect, tokenizer, arguments):
    run = trainer(shape("llama", tokenizer), list(perfect), tokenizer, arguments, True)
    alike, apart = [dict(run.train_dataset[0])] * 2, [dict(run.train_dataset[0]) for _ in range(2)]
    apart[1]["input_ids"] = [token + 1 for token in apart[1]["input_ids"]]
    assert set(TREES) <= set(run.data_collator(alike))
    assert not set(TREES) & set(run.data_collator(apart))
    plain = trainer(shape("llama", tokenizer), list(perfect), tokenizer, arguments, False).data_collator
    assert not set(TREES) & set(plain(alike))
    for name, value in plain(alike).items():  # the batch of rows is in the batch with trees, untouched
        assert torch.equal(value, run.data_collator(alike)[name]), name


def test_default_is_by_what_the_student_allows(rows, tokenizer, arguments):
    assert trainer(shape("gpt2", tokenizer), rows, tokenizer, arguments).data_collator.tree_width == 32
    dropping = shape("gpt2", tokenizer, resid_pdrop=0.1)
    assert trainer(dropping, rows, tokenizer, arguments).data_collator.tree_width is None


SMALL = dict(width=32, inner=48, layers=2, kv_heads=1)


def mistral(tokenizer, **overrides):
    return causal_lm("mistral", len(tokenizer), **SMALL, **overrides)


def falcon(tokenizer, **overrides):
    """Reads its dropout from the configuration, in the forward pass."""
    return causal_lm("falcon", len(tokenizer), width=32, layers=2, heads=4, **overrides)


@pytest.mark.parametrize(
    "build, settings, message",
    [
        (lambda t: shape("gpt2", t, attn_pdrop=0.1), {}, "attn_dropout: p=0.1"),
        (lambda t: shape("opt", t, dropout=0.1), {}, "dropout is on .*dropout=0.1"),
        (lambda t: shape("opt", t, layerdrop=0.1), {}, "layerdrop=0.1"),
        (lambda t: falcon(t, hidden_dropout=0.1), {}, "hidden_dropout=0.1"),
        (lambda t: mistral(t, sliding_window=8), {}, "attention within a window"),
        (lambda t: shape("llama", t, attn_implementation="flex_attention"), {}, "flex_attention"),
        (lambda t: shape("llama", t), {"neftune_noise_alpha": 5.0}, "neftune"),
        (lambda t: shape("llama", t), {"packing": True, "max_length": 128}, "packed rows"),
        (lambda t: shape("llama", t), {"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
    ],
)
def test_refused_with_the_reason_where_asked_for(build, settings, message, rows, tokenizer, arguments):
    with pytest.raises(ValueError, match=f"`token_trees=True` is not exact here: .*{message}"):
        trainer(build(tokenizer), rows, tokenizer, arguments, True, **settings)
    quiet = trainer(build(tokenizer), rows, tokenizer, arguments, **settings)
    assert quiet.data_collator.tree_width is None


def test_prompt_learning_and_balanced_experts_stay_rows(rows, tokenizer, arguments):
    run = trainer(
        shape("llama", tokenizer), rows, tokenizer, arguments, None,
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    )  # fmt: skip
    assert "prompt learning" in why_rows(run.model, run.args, False)
    assert "experts" in why_rows(shape("llama", tokenizer), run.args, True)


def test_another_architecture_is_tried_at_start(tokenizer, arguments, monkeypatch):
    args = WeakSupervisionConfig(**arguments)
    for model in (
        mistral(tokenizer, sliding_window=None),
        causal_lm("qwen2", len(tokenizer), **SMALL),
    ):
        assert why_rows(model, args, False) is None and model.training
        assert "not here to be tried" in why_rows(model.to("meta"), args, False)
    model = mistral(tokenizer, sliding_window=None)
    forward = type(model.base_model).forward
    blind = lambda self, *args, position_ids=None, **kwargs: forward(self, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(type(model.base_model), "forward", blind)
    assert "another text shares the row" in why_rows(model, args, False)
