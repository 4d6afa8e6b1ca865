"""The trust head: its minimum against an independent search in float64, planted states, and weights of labels."""

import math

import numpy as np
import pytest
import torch
from classification_runs import KINDS, WORDS, classifier, settings, texts, tokenizer
from datasets import Dataset
from scipy.optimize import minimize

from trl_weaks import trust_weights
from trl_weaks.aggregation.trust import TrustHead
from trl_weaks.labelling.label_classes import label_classes
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble


def planted(rows: int, columns: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    states = rng.normal(1.0, 3.0, (rows, columns))
    chance = 1 / (1 + np.exp(-(1.0 + (states[:, 0] - 1.0))))
    return states, rng.random(rows) < chance, chance


def test_the_minimum_is_that_of_a_plain_search():
    """The objective of the docstring, row by row in plain Python, minimised without gradients of ours."""
    states, right, _ = planted(60, 2)
    strength = 0.05
    z = (states - states.mean(0)) / states.std(0)

    def objective(p) -> float:
        sums = {True: [], False: []}
        for row, good in zip(z, right, strict=True):
            logit = sum(w * x for w, x in zip(p, row, strict=False)) + p[-1]
            sums[bool(good)].append(math.log1p(math.exp(-logit if good else logit)))
        ridge = strength / 2 * sum(w * w for w in p[:-1])
        return sum(math.fsum(losses) / len(losses) for losses in sums.values()) / 2 + ridge

    best = minimize(objective, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    head = TrustHead(strength).fit(torch.tensor(states), torch.tensor(right))
    assert head.weight.tolist() == pytest.approx(best[:-1], abs=1e-6)
    prior = math.log(right.sum() / (~right).sum())
    assert head.bias == pytest.approx(best[-1] + prior, abs=1e-6)
    logits = z @ best[:-1] + best[-1] + prior
    assert head(torch.tensor(states)).tolist() == pytest.approx((1 / (1 + np.exp(-logits))).tolist(), abs=1e-6)


def test_planted_trust_is_found():
    states, right, chance = planted(3000)
    head = TrustHead().fit(torch.tensor(states[:2000]), torch.tensor(right[:2000]))
    found = head(torch.tensor(states[2000:])).numpy()
    assert np.abs(found - chance[2000:]).mean() < 0.05
    assert abs(found.mean() - right[2000:].mean()) < 0.05


def test_states_that_say_nothing_get_a_strong_ridge():
    rng = np.random.default_rng(1)
    states, right = rng.normal(size=(100, 60)), rng.random(100) < 0.7
    head = TrustHead().fit(torch.tensor(states), torch.tensor(right))
    assert head.strength >= 1
    assert np.abs(head(torch.tensor(states)).numpy() - right.mean()).max() < 0.25


@pytest.mark.parametrize("outcome, trust", [(1.0, 5 / 6), (0.0, 1 / 6)])
def test_without_both_outcomes_the_trust_is_the_same_everywhere(outcome, trust):
    head = TrustHead().fit(torch.randn(4, 3), torch.full((4,), outcome))
    assert head(torch.randn(2, 3)).tolist() == pytest.approx([trust] * 2)


@pytest.mark.parametrize(
    "states, right, message",
    [
        (torch.zeros(3), torch.zeros(3), "give .n, d. and .n,."),
        (torch.zeros(3, 2), torch.zeros(2), "give .n, d. and .n,."),
        (torch.zeros(1, 2), torch.zeros(1), "n at least 2"),
        (torch.tensor([[0.0], [math.nan]]), torch.zeros(2), "row 1: the state is not finite"),
    ],
)
def test_bad_states_are_refused(states, right, message):
    with pytest.raises(ValueError, match=message):
        TrustHead().fit(states, right)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_what_the_head_reads(kind):
    supervisor = WeakClassifier(classifier(kind), tokenizer(kind == "bert"), "a", batch_size=4)
    given = texts(10)
    states, heads = supervisor.hidden_states(given), [m for m in supervisor.model.modules() if hasattr(m, "bias")]
    head = [m for m in heads if getattr(m, "out_features", None) == 2][-1]
    logits = torch.nn.functional.linear(states, head.weight, head.bias)
    assert torch.softmax(logits, -1).detach().numpy() == pytest.approx(
        supervisor.predict(given).probabilities.numpy(), abs=1e-6
    )
    assert not head._forward_pre_hooks
    told, same = supervisor.predict_with_states(given)
    assert torch.equal(told.probabilities, supervisor.predict(given).probabilities) and torch.equal(same, states)
    assert supervisor.has_states and not head._forward_pre_hooks


@pytest.fixture(scope="module")
def halves():
    """Two classifiers, each right where the other is wrong: where the last word is of the first half, or is not."""
    ensemble = WeakEnsemble([WeakClassifier(classifier("llama", seed=s), tokenizer(), f"m{s}") for s in (0, 1)])
    given = sorted(set(texts(400, seed=5)))
    first = set(WORDS[::2])
    rows = [{"example_id": str(i), "text": text} for i, text in enumerate(given)]
    labels = label_classes(ensemble, Dataset.from_list(rows))
    voted = np.asarray(labels["weak_probs"][:]).argmax(-1)
    differ = [i for i in range(len(given)) if voted[i, 0] != voted[i, 1]]  # elsewhere both are right or wrong together
    gold = {str(i): int(voted[i, 0 if given[i].split()[-1] in first else 1]) for i in differ}
    return ensemble, labels.select(differ[::2]), labels.select(differ[1::2]), gold


def test_weights_follow_who_is_right(halves, tmp_path):
    from trl_weaks import WeakClassificationTrainer

    ensemble, known, labels, gold = halves
    made = trust_weights(ensemble, labels, known, {e: gold[e] for e in known["example_id"]})
    probs, weights = np.asarray(made["weak_probs"][:]), np.asarray(made["weak_weights"][:])
    trust = np.asarray(made["weak_trust"][:])
    assert weights == pytest.approx(trust / trust.sum(-1, keepdims=True)) and made.num_rows == labels.num_rows
    truth = np.array([gold[e] for e in made["example_id"]])
    hard = probs >= probs.max(-1, keepdims=True)
    assert ((weights[..., None] * hard).sum(1).argmax(-1) == truth).mean() > 0.85  # the mean vote knows nothing here
    trainer = WeakClassificationTrainer(
        classifier(), settings(tmp_path, max_steps=1), made, processing_class=tokenizer()
    )
    assert np.asarray(trainer.train_dataset["weak_vote_weights"][:]) == pytest.approx(weights)


def test_what_trust_cannot_be_learned_from_is_refused(halves):
    ensemble, known, labels, gold = halves
    learned = {e: gold[e] for e in known["example_id"]}
    cases = [
        (labels, labels, learned, "is in `labels` and in `known`; its gold would leak"),
        (labels.remove_columns("weak_supervisors"), known, learned, "`labels` is empty, or lacks .*weak_supervisors"),
        (labels, known.select([]), learned, "`known` is empty"),
        (labels, known, {known[0]["example_id"]: 0}, "two labels or more"),
        (labels, known, {"nobody": 0}, "gold has the id 'nobody'"),
        (labels, known, learned | {known[0]["example_id"]: 5}, "gold label 5 of .* is not a class"),
        (labels, known.map(lambda row: {"weak_supervisors": ["x", "y"]}), learned, "`known`, row 0.*votes of .'x'"),
        (labels.remove_columns("text"), known, learned, "`labels` has no column 'text'"),
    ]
    for given, other, truth, message in cases:
        with pytest.raises(ValueError, match=message):
            trust_weights(ensemble, given, other, truth)
