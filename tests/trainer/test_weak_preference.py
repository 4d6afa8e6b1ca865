"""`WeakPreferenceTrainer` against stock `DPOTrainer`, against Eq. 12 written by hand, and against itself."""

import copy
import inspect
import itertools
import math
import types

import preference_runs as runs
import pytest
import torch
from datasets import IterableDataset, load_from_disk
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer

from trl_weaks.losses.preference import PREFERENCE_LOSSES, preference_loss
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_preference_trainer import WeakPreferenceTrainer

# TRL averages the ratios of batches; ours are ratios of sums.
BY_TOKENS = ("entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy")
OWN = ("weak/epsilon", "weak/optimum_margin", "weak/effective_pairs")


def build(folder, dataset=None, policy=None, reference=None, stock=False, peft_config=None, eval_dataset=None, **args):
    policy = policy or runs.model()
    if reference is None and peft_config is None and not args.get("precompute_ref_log_probs"):
        reference = runs.reference_of(policy)
    config, trainer = (DPOConfig, DPOTrainer) if stock else (WeakPreferenceConfig, WeakPreferenceTrainer)
    return trainer(
        policy,
        reference,
        config(**runs.settings(folder, **args)),
        train_dataset=runs.pairs() if dataset is None else dataset,
        eval_dataset=eval_dataset,
        processing_class=runs.tokenizer(),
        peft_config=peft_config,
    )


def logs(trainer):
    """Every number logged at every step, without the timings."""
    skip = ("runtime", "per_second", "total_flos")
    return [{k: v for k, v in entry.items() if not any(s in k for s in skip)} for entry in trainer.state.log_history]


def first_gradients(trainer):
    """Loss and gradients of the first four pairs, in order."""
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected, tolerance):
    assert got.keys() == expected.keys() and got
    for name in got:
        torch.testing.assert_close(
            got[name], expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


STOCK_CASES = {
    "cdpo with epsilon 0": ({"preference_loss": "cdpo", "label_smoothing": 0.0}, {}),
    "sigmoid": ({"preference_loss": "sigmoid"}, {}),
    "rdpo": ({"preference_loss": "rdpo", "label_smoothing": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
    "ld_alpha": ({"preference_loss": "sigmoid", "ld_alpha": 0.3}, {"ld_alpha": 0.3}),
    "accumulation and checkpointing": (
        {"preference_loss": "sigmoid"}
        | {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": True},
    ),
    "bf16": ({"preference_loss": "sigmoid", "bf16": True}, {"bf16": True}),
}


@pytest.mark.parametrize("case", STOCK_CASES)
def test_without_doubt_it_is_stock_dpo_loss_metrics_and_weights(case, tmp_path):
    ours, theirs = STOCK_CASES[case]
    plain = runs.pairs(epsilon=False, weight=False)
    weak = build(tmp_path / "a", plain, eval_dataset=plain, eval_strategy="steps", eval_steps=2, **ours)
    stock = build(tmp_path / "b", plain, stock=True, eval_dataset=plain, eval_strategy="steps", eval_steps=2, **theirs)
    weak.train(), stock.train()
    got, expected = logs(weak), logs(stock)
    assert len(got) == len(expected) >= 4 and "rewards/margins" in expected[0] and "eval_loss" in expected[2]
    for ours_entry, theirs_entry in zip(got, expected, strict=True):
        leave = {name for own in OWN for name in (own, f"eval_{own}")} | {f"eval_{name}" for name in BY_TOKENS}
        leave |= set(BY_TOKENS) if "gradient_accumulation_steps" in ours else set()
        shared, expected_entry = (
            {k: v for k, v in entry.items() if k not in leave} for entry in (ours_entry, theirs_entry)
        )
        assert shared == pytest.approx(expected_entry, rel=4e-7, abs=1e-6)  # float32 means of 4 pairs: 4 roundings
    for a, b in zip(weak.model.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_columns_of_epsilon_0_and_weight_1_change_nothing(tmp_path):
    plain = runs.pairs(epsilon=False, weight=False)
    marked = plain.add_column("pair_epsilon", [0.0] * 8).add_column("pair_weight", [1.0] * 8)
    weak, stock = build(tmp_path / "a", marked), build(tmp_path / "b", plain, stock=True)
    weak.train(), stock.train()
    for ours_entry, theirs_entry in zip(logs(weak), logs(stock), strict=True):
        assert {k: v for k, v in ours_entry.items() if k not in OWN} == pytest.approx(theirs_entry, rel=4e-7, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_cdpo_equals_both_stock_oracles(epsilon, tmp_path):
    """TRL's `robust` at a negative smoothing, and a weighted sum of its `sigmoid` and `robust`, are cDPO exactly."""
    plain = runs.pairs(epsilon=False, weight=False)
    loss, gradients = first_gradients(build(tmp_path, plain, label_smoothing=epsilon))
    oracles = (
        {"loss_type": ["robust"], "label_smoothing": -epsilon / (1 - 2 * epsilon)},
        {"loss_type": ["sigmoid", "robust"], "loss_weights": [1 + 2 * epsilon, -2 * epsilon], "label_smoothing": 0.25},
    )
    for oracle in oracles:
        expected_loss, expected = first_gradients(build(tmp_path, plain, stock=True, **oracle))
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        assert_same_gradients(gradients, expected, 1e-6)
    stock_loss, stock = first_gradients(build(tmp_path, plain, stock=True, label_smoothing=epsilon))
    assert abs(loss - stock_loss) > 1e-3  # stock DPO ignores label_smoothing: the reason this trainer exists


def log_probability(net, prompt_ids, completion_ids):
    """Sum over the completion, from full logits in float64."""
    ids = torch.tensor([prompt_ids + completion_ids])
    logps = net(ids).logits.double().log_softmax(-1)[0]
    start = len(prompt_ids)
    return sum(logps[start + t - 1, token] for t, token in enumerate(completion_ids))


OF_A_PAIR = {  # of its epsilon, L(c, r) and L(r, c); Eq. 12, and those of CW-PO and of robust DPO
    "cdpo": lambda e, right, wrong: (1 - e) * right + e * wrong,
    "cw": lambda e, right, wrong: (1 - 2 * e) * right,
    "rdpo": lambda e, right, wrong: ((1 - e) * right - e * wrong) / (1 - 2 * e),
}


@pytest.mark.parametrize("name", OF_A_PAIR)
def test_per_pair_loss_and_gradient_by_hand_in_float64(tmp_path, name):
    policy = runs.model()
    reference = runs.reference_of(policy)
    oracle, frozen = copy.deepcopy(policy).double(), copy.deepcopy(reference).double()
    trainer = build(tmp_path, policy=policy, reference=reference, preference_loss=name)
    loss, gradients = first_gradients(trainer)
    total = 0.0
    for row in (trainer.train_dataset[i] for i in range(4)):
        h = log_probability(oracle, row["prompt_ids"], row["chosen_ids"])
        h = h - log_probability(oracle, row["prompt_ids"], row["rejected_ids"])
        h = h - log_probability(frozen, row["prompt_ids"], row["chosen_ids"]).detach()
        h = h + log_probability(frozen, row["prompt_ids"], row["rejected_ids"]).detach()
        right, wrong = (torch.log1p(torch.exp(sign * 0.5 * h)) for sign in (-1, 1))  # L(c, r), L(r, c) at beta 0.5
        total = total + row["pair_weight"] * OF_A_PAIR[name](row["pair_epsilon"], right, wrong) / 4
    total.backward()
    assert loss == pytest.approx(total.item(), abs=1e-5)
    expected = {n: p.grad.float() for n, p in oracle.named_parameters() if p.grad is not None}
    assert_same_gradients(gradients, expected, 2e-5)


def test_accumulation_is_exact_with_per_pair_values(tmp_path):
    whole = build(tmp_path / "a", per_device_train_batch_size=4, optim="sgd")
    parts = build(tmp_path / "b", per_device_train_batch_size=1, gradient_accumulation_steps=4, optim="sgd")
    whole.train(), parts.train()
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for a, b in zip(logs(whole)[:3], logs(parts)[:3], strict=True):
        for name in ("loss", "grad_norm", "weak/epsilon", "weak/effective_pairs", "rewards/margins"):
            assert a[name] == pytest.approx(b[name], abs=2e-5), name


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_reference_takes_the_policys_numerical_path(kind, bf16, tmp_path):
    """A policy equal to its reference has margin 0 in training, dropout in the config or not, precomputed or not."""
    margins = {}
    for name, how in {"copy": {}, "precomputed": {"precompute_ref_log_probs": True}}.items():
        policy = runs.model(kind, dropout=0.3)
        reference = None if how else copy.deepcopy(policy)
        how = how | {"precompute_ref_batch_size": 4} if how else how
        trainer = build(tmp_path / name, policy=policy, reference=reference, bf16=bf16, max_steps=1, **how)
        trainer.train()
        margins[name] = logs(trainer)[0]["rewards/margins"]
        assert logs(trainer)[0]["grad_norm"] > 1e-3
        if name == "copy":  # nothing is preferred yet: a tie is not a right answer
            assert (logs(trainer)[0]["rewards/margins"], logs(trainer)[0]["rewards/accuracies"]) == (0.0, 0.0)
    assert margins == pytest.approx({"copy": 0.0, "precomputed": 0.0}, abs=0.05 if bf16 else 1e-5)


def test_precomputed_reference_trains_like_a_live_one(tmp_path):
    policy = runs.model()
    live = build(tmp_path / "a", policy=policy, reference=copy.deepcopy(policy))
    stored = build(tmp_path / "b", precompute_ref_log_probs=True)
    live.train(), stored.train()
    for a, b in zip(live.model.parameters(), stored.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_stored_reference_numbers_are_those_of_the_settings(tmp_path):
    """One dataset on disk, one setting after the other: none finds the numbers of another in the cache."""
    runs.pairs().save_to_disk(str(tmp_path / "pairs"))
    rows, tokenizer, policy = load_from_disk(str(tmp_path / "pairs")), runs.tokenizer(), runs.model()
    changed = copy.deepcopy(policy)
    changed.config.rms_norm_eps = 0.1  # other numbers with the same weights
    for layer in changed.modules():
        if hasattr(layer, "variance_epsilon"):
            layer.variance_epsilon = 0.1
    seen = []
    for model in (policy, changed):
        for setting in ({}, {"ld_alpha": 0.3}, {"max_length": 8, "truncation_mode": "keep_end"}, {"bf16": True}):
            args = WeakPreferenceConfig(
                **runs.settings(tmp_path / "run", precompute_ref_log_probs=True, **{"max_length": None} | setting)
            )
            trainer = WeakPreferenceTrainer(model, None, args, train_dataset=rows, processing_class=tokenizer)
            stored = torch.tensor(trainer.train_dataset["ref_chosen_logps"][:4])
            batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
            live = trainer.compute_ref_log_probs(trainer.model, batch)[0]
            torch.testing.assert_close(stored, live, rtol=0, atol=1e-4)
            seen.append(stored)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("precompute", [False, True])
def test_a_policy_with_several_adapters_starts_at_its_reference(precompute, tmp_path):
    """The reference is a copy of the adapter in training; where TRL would copy another, it is refused."""
    lora = {"task_type": "CAUSAL_LM", "init_lora_weights": False}
    policy = get_peft_model(runs.model(), LoraConfig(**lora, target_modules=["q_proj"]))
    policy.add_adapter("other", LoraConfig(**lora, target_modules=["v_proj"]))

    def trainer():
        args = WeakPreferenceConfig(**runs.settings(tmp_path, precompute_ref_log_probs=precompute))
        return WeakPreferenceTrainer(policy, None, args, train_dataset=runs.pairs(), processing_class=runs.tokenizer())

    built = trainer()
    built.train()
    assert logs(built)[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    policy.set_adapter("other")
    with pytest.raises(ValueError, match="trains the adapter 'other'.*copy of the adapter 'default'"):
        trainer()


@pytest.mark.parametrize("precompute", [False, True])
def test_peft_needs_no_reference_copy(precompute, tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = build(tmp_path, peft_config=lora, precompute_ref_log_probs=precompute)
    assert trainer.ref_model is None
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora" in name for name in changed)
    assert logs(trainer)[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)  # adapters start at zero
    assert abs(logs(trainer)[2]["rewards/margins"]) > 1e-6


def test_metrics_of_doubt_and_weight(tmp_path):
    dataset = runs.pairs()
    trainer = build(tmp_path, dataset, per_device_train_batch_size=8, max_steps=1, beta=2.0)
    trainer.train()
    entry = logs(trainer)[0]
    epsilon, weight = dataset["pair_epsilon"], dataset["pair_weight"]
    assert entry["weak/epsilon"] == pytest.approx(sum(epsilon) / 8)
    optima = [math.log((1 - e) / e) / 2.0 for e in epsilon if e > 0]
    assert entry["weak/optimum_margin"] == pytest.approx(sum(optima) / len(optima), rel=1e-5)
    pull = [w * (1 - 2 * e) for e, w in zip(epsilon, weight, strict=True)]
    assert entry["weak/effective_pairs"] == pytest.approx(sum(pull) ** 2 / sum(u * u for u in pull), rel=1e-5)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_effective_pairs_count_the_slopes_of_the_loss_itself(tmp_path, name):
    """At margin 0, where the policy is its own reference: rDPO pulls hardest at the pairs in doubt."""
    rows, policy = runs.pairs(epsilon=name != "sigmoid"), runs.model()
    changes = {"preference_loss": name, "per_device_train_batch_size": 8, "max_steps": 1}
    trainer = build(tmp_path, rows, policy, copy.deepcopy(policy), **changes)
    trainer.train()
    epsilon = torch.tensor(rows["pair_epsilon"] if "pair_epsilon" in rows.column_names else [0.0] * 8).double()
    margins = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(preference_loss(name, margins, epsilon).sum(), margins)
    pull = torch.tensor(rows["pair_weight"]).double() * slopes
    expected = pull.sum() ** 2 / pull.square().sum()
    assert logs(trainer)[0]["weak/effective_pairs"] == pytest.approx(expected.item(), rel=1e-5)


def test_cdpo_comes_to_rest_at_its_optimum_margin(tmp_path):
    one = runs.pairs(1, epsilon=False, weight=False)
    policy = runs.model()
    changes = {"label_smoothing": 0.1, "max_steps": 60, "learning_rate": 3e-3, "per_device_train_batch_size": 1}
    trainer = build(tmp_path, one, policy=policy, reference=copy.deepcopy(policy), logging_steps=60, **changes)
    trainer.args.logging_strategy = "steps"
    trainer.train()
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[0]]))
    trainer._sums["train"].clear()
    trainer.compute_loss(trainer.model, batch)
    assert trainer._sums["train"].read()["rewards/margins"] == pytest.approx(math.log(9), abs=0.1)


def test_columns_are_ignored_or_demanded_on_request(tmp_path):
    ignored = build(tmp_path, use_pair_epsilon=False, use_pair_weight=False, label_smoothing=0.2)
    plain = build(tmp_path, runs.pairs(epsilon=False, weight=False), label_smoothing=0.2)
    assert first_gradients(ignored)[0] == first_gradients(plain)[0] != first_gradients(build(tmp_path))[0]
    with pytest.raises(ValueError, match="no `pair_epsilon` column.*build_preferences"):
        build(tmp_path, runs.pairs(epsilon=False), use_pair_epsilon=True)


def test_a_stream_trains_like_a_table(tmp_path):
    table = runs.pairs()
    stream = IterableDataset.from_generator(lambda: iter(runs.pairs().to_list()))
    batches = []
    for dataset in (table, stream):
        trainer = build(tmp_path, dataset)
        rows = [row for row, _ in zip(trainer.train_dataset, range(4), strict=False)]
        batches.append(
            trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows))).item()
        )
    assert batches[0] == pytest.approx(batches[1], abs=1e-6)


def test_evaluate_takes_a_raw_dataset(tmp_path):
    trainer = build(tmp_path)
    metrics = trainer.evaluate(runs.pairs(4))
    assert metrics["eval_weak/epsilon"] == pytest.approx(0.2)
    assert math.isfinite(metrics["eval_loss"])


def test_side_inputs_stay_float32_where_deepspeed_casts_the_rest(tmp_path, monkeypatch):
    trainer = build(tmp_path)
    plugin = types.SimpleNamespace(hf_ds_config=types.SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin)
    trainer.is_deepspeed_enabled = True
    batch = {"pair_epsilon": torch.tensor([0.256443]), "ref_chosen_logps": torch.tensor([-83.4567])}
    out = trainer._prepare_inputs(batch | {"other": torch.tensor([0.256443])})
    assert out["other"].dtype == torch.bfloat16  # the cast is real
    assert torch.equal(out["pair_epsilon"], batch["pair_epsilon"])
    assert torch.equal(out["ref_chosen_logps"], batch["ref_chosen_logps"])


def test_the_parts_of_trl_that_are_overridden_are_where_they_were():
    """Read this failure as: TRL moved; compare `DPOTrainer._compute_loss` with ours before anything else."""
    names = {
        "_compute_loss": ["self", "model", "inputs", "return_outputs"],
        "compute_ref_log_probs": ["self", "model", "inputs"],
        "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
        "_set_signature_columns_if_needed": ["self"],
        "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
        "log": ["self", "logs", "start_time"],
    }
    for name, parameters in names.items():
        assert list(inspect.signature(getattr(DPOTrainer, name)).parameters) == parameters, name
    source = inspect.getsource(DPOTrainer)
    for attribute in (
        "aux_loss_enabled",
        "router_aux_loss_coef",
        "ld_alpha",
        "precompute_ref_logps",
        "_tp_size",
        "_precompute_model_hash",
    ):
        assert f"self.{attribute} = " in source, attribute
