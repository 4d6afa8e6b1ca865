"""Every loss that TRL's `DPOConfig` offers, with and without weights, against `DPOTrainer` itself."""

import re
from dataclasses import fields

import preference_runs as runs
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainingArguments
from trl import DPOConfig, DPOTrainer

from trl_weaks import WeakPreferenceConfig, WeakPreferenceTrainer
from trl_weaks.losses.dpo_losses import DPO_LOSSES, SORTING

BASED_ON_MARGINS = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
CASES = {name: {"loss_type": [name]} for name in DPO_LOSSES}
CASES |= {
    f"{name} {kind}": {"loss_type": [name], "f_divergence_type": kind, "f_alpha_divergence_coef": 0.7}
    for name in BASED_ON_MARGINS
    for kind in ("forward_kl", "js_divergence", "alpha_divergence")
}
CASES |= {
    "wpo": {"use_weighting": True},
    "wpo ipo": {"use_weighting": True, "loss_type": ["ipo"]},
    "mpo": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    "ld": {"loss_type": ["hinge"], "ld_alpha": 0.3},
}


def build(folder, stock, dataset, **changes):
    config, trainer = (DPOConfig, DPOTrainer) if stock else (WeakPreferenceConfig, WeakPreferenceTrainer)
    policy = runs.model()
    if not stock and changes.get("loss_type") == ["sigmoid"] and "f_divergence_type" not in changes:
        changes = {"preference_loss": "sigmoid"}  # unset, it is cDPO
    if set(changes.get("loss_type", ())) & {"exo_pair", "robust", "aot", "aot_unpaired"}:
        changes["label_smoothing"] = 0.2
    args = config(**runs.settings(folder, **changes))
    reference = runs.reference_of(policy)
    return trainer(policy, reference, args, train_dataset=dataset, processing_class=runs.tokenizer())


def loss_and_gradients(trainer, rows):
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in rows])
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


def test_every_name_of_trl_is_here():
    (documented,) = [f.metadata["help"] for f in fields(DPOConfig) if f.name == "loss_type"]
    assert set(re.findall(r"`'(\w+)'`", documented)) == set(DPO_LOSSES)


@pytest.mark.parametrize("case", CASES)
def test_without_weights_each_is_trls(case, tmp_path):
    plain = runs.pairs(epsilon=False, weight=False)
    got, gradient = loss_and_gradients(build(tmp_path, False, plain, **CASES[case]), range(4))
    expected, expected_gradient = loss_and_gradients(build(tmp_path, True, plain, **CASES[case]), range(4))
    assert got == pytest.approx(expected, rel=1e-5)
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("case", [case for case in CASES if not set(CASES[case].get("loss_type", ())) & set(SORTING)])
def test_with_weights_each_is_the_weighted_mean_of_trls_on_single_pairs(case, tmp_path):
    """For `sft`, whose mean is over the batch's tokens, a pair's share is that of its tokens."""
    pairs = runs.pairs(epsilon=False)
    ours = build(tmp_path, False, pairs, **CASES[case])
    got, gradient = loss_and_gradients(ours, range(4))
    tokens = torch.tensor([len(ours.train_dataset[i]["chosen_ids"]) for i in range(4)]).double()
    names = CASES[case].get("loss_type", ["sigmoid"])
    amounts = CASES[case].get("loss_weights", [1.0] * len(names))
    expected, expected_gradient = 0.0, 0.0
    for name, amount in zip(names, amounts, strict=True):
        shares = tokens / tokens.sum() if name == "sft" else torch.full((4,), 0.25)
        changes = CASES[case] | {"loss_type": [name], "loss_weights": None}
        stock = build(tmp_path, True, pairs.remove_columns("pair_weight"), **changes)
        for i in range(4):
            loss, grad = loss_and_gradients(stock, [i])
            factor = amount * pairs[i]["pair_weight"] * shares[i].item()
            expected, expected_gradient = expected + factor * loss, expected_gradient + factor * grad
    assert got == pytest.approx(expected, rel=1e-5)
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("kind", [DPOConfig, TrainingArguments])
def test_plain_settings_are_taken(kind, tmp_path):
    settings = runs.settings(tmp_path)
    if kind is TrainingArguments:
        settings.pop("beta")
    policy = runs.model()
    trainer = WeakPreferenceTrainer(
        policy,
        runs.reference_of(policy),
        kind(**settings),
        train_dataset=runs.pairs(),
        processing_class=runs.tokenizer(),
    )
    trainer.train()
    assert trainer.args.learning_rate == 1e-3 and trainer.args.preference_loss == "cdpo"
    assert {"trl", "dpo", "weak-preference"} <= set(trainer.model.model_tags)


LORA = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.mark.parametrize("given", ["path", "path and peft_config", "loaded", "loaded and peft_config", "PeftModel"])
def test_a_model_is_taken_by_path_and_loaded_with_and_without_lora(given, tmp_path):
    folder = tmp_path / "student"
    runs.model().save_pretrained(folder), runs.tokenizer().save_pretrained(folder)
    model = str(folder) if "path" in given else AutoModelForCausalLM.from_pretrained(folder)
    if given == "PeftModel":
        model = get_peft_model(model, LORA)
    trainer = WeakPreferenceTrainer(
        model,
        args=WeakPreferenceConfig(**runs.settings(tmp_path / "out")),
        train_dataset=runs.pairs(),
        peft_config=LORA if "peft_config" in given else None,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert before and any(not torch.equal(p, trainer.model.get_parameter(name)) for name, p in before.items())
    assert (trainer.ref_model is None) == (given not in ("path", "loaded"))
    assert all(("lora" in name) == (given not in ("path", "loaded")) for name in before)


def test_sets_have_their_names_and_predict_leaks_nothing(tmp_path):
    """Means are over pairs: batches of 4 leave one pair of five to the last."""
    few, many = runs.pairs(3), runs.pairs(5)
    policy = runs.model()
    args = WeakPreferenceConfig(**runs.settings(tmp_path))
    trainer = WeakPreferenceTrainer(
        policy,
        runs.reference_of(policy),
        args,
        train_dataset=runs.pairs(),
        eval_dataset={"a": few, "b": many},
        processing_class=runs.tokenizer(),
    )
    trainer.predict(trainer.eval_dataset["a"])
    found = trainer.evaluate()
    for name, rows in (("a", few), ("b", many)):
        epsilons = torch.tensor(rows["pair_epsilon"]).double()
        pull = torch.tensor(rows["pair_weight"]).double() * (1 - 2 * epsilons)
        assert found[f"eval_{name}_weak/epsilon"] == pytest.approx(epsilons.mean().item(), rel=1e-6)
        kish = (pull.sum() ** 2 / pull.square().sum()).item()
        assert found[f"eval_{name}_weak/effective_pairs"] == pytest.approx(kish, rel=1e-6)
        doubted = epsilons[epsilons > 0]
        optimum = (((1 - doubted) / doubted).log() / 0.5).mean().item()
        assert found[f"eval_{name}_weak/optimum_margin"] == pytest.approx(optimum, rel=1e-6)
        losses, margins, hits, tokens = [], [], [], []
        for row in trainer.eval_dataset[name]:
            alone = trainer.evaluate({"one": trainer.eval_dataset[name].from_list([row])})
            losses.append(alone["eval_one_loss"]), margins.append(alone["eval_one_rewards/margins"])
            hits.append(alone["eval_one_mean_token_accuracy"]), tokens.append(len(row["chosen_ids"]))
        assert found[f"eval_{name}_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert found[f"eval_{name}_rewards/margins"] == pytest.approx(sum(margins) / len(margins), abs=1e-5)
        accuracy = sum(h * t for h, t in zip(hits, tokens, strict=True)) / sum(tokens)
        assert found[f"eval_{name}_mean_token_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert not [key for key in found if not key.startswith(("eval_a_", "eval_b_", "epoch"))]
    assert not trainer._sums["eval"].read() and not trainer._metrics["eval"]


def test_compute_metrics_sees_logits(tmp_path):
    seen = {}

    def count(found):
        seen["shape"] = found.predictions.shape
        return {"rows": len(found.predictions)}

    policy = runs.model()
    trainer = WeakPreferenceTrainer(
        policy,
        runs.reference_of(policy),
        WeakPreferenceConfig(**runs.settings(tmp_path)),
        train_dataset=runs.pairs(),
        eval_dataset=runs.pairs(4),
        processing_class=runs.tokenizer(),
        compute_metrics=count,
    )
    assert trainer.evaluate()["eval_rows"] == 8 == seen["shape"][0] and seen["shape"][2] == 320
