"""Judges' votes against planted truth, plain derivations of the fit, and the trainer that takes the pairs."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad

from trl_weaks.aggregation.comparisons.bradley_terry import (
    Judges,
    Votes,
    _marginal,
    _posterior,
    disagreement,
    fit_scores,
    score_covariance,
)
from trl_weaks.labelling.preferences import preference_report
from trl_weaks.labelling.sources.from_comparisons import pairs_from_comparisons

EXAMPLES = [{"example_id": str(i), "prompt": f"p{i}", "topic": "t"} for i in range(3)]


def vote(example, judge, a, b, preferred, **more) -> dict:
    row = {"example_id": example, "supervisor": judge, "completion_a": a, "completion_b": b, "preferred": preferred}
    return row | more


def planted(pairs: int, reliability: dict[str, float], bias: dict[str, float], seed: int = 0):
    """Every judge sees every pair in both orders; the true gap of a pair is N(0, 2)."""
    rng = np.random.default_rng(seed)
    gaps = rng.normal(0, math.sqrt(2), pairs)
    rows = []
    for i, gap in enumerate(gaps):
        for judge, r in reliability.items():
            for first in (1, -1):
                p = 1 / (1 + math.exp(-(r * gap * first + bias.get(judge, 0.0))))
                texts = (" x", " y") if first == 1 else (" y", " x")
                rows.append(vote(str(i), judge, *texts, "a" if rng.random() < p else "b"))
    return [{"example_id": str(i), "prompt": "p"} for i in range(pairs)], rows, gaps


def test_reliability_bias_and_sides_are_recovered():
    reliability, bias = {"good": 3.0, "fair": 1.0, "poor": 0.3}, {"fair": 1.0}
    examples, rows, gaps = planted(1500, reliability, bias)
    made = pairs_from_comparisons(examples, rows)
    judges = preference_report(made)["judges"]
    assert judges["good"]["reliability"] > 1.5 * judges["fair"]["reliability"] > 2 * judges["poor"]["reliability"]
    assert judges["fair"]["reliability"] / judges["poor"]["reliability"] == pytest.approx(1 / 0.3, rel=0.35)
    assert judges["fair"]["position_bias"] == pytest.approx(1.0, abs=0.25)
    assert abs(judges["good"]["position_bias"]) < 0.25 and judges["fair"]["first_shown_rate"] > 0.6
    right = {row["example_id"]: row["chosen"] == " x" for row in made}
    accuracy = np.mean([right[str(i)] == (gap > 0) for i, gap in enumerate(gaps) if str(i) in right])
    counted = {
        str(i): sum((v["preferred"] == "a") == (v["completion_a"] == " x") for v in rows if v["example_id"] == str(i))
        for i in range(300)
    }
    majority = np.mean([(counted[str(i)] > 3) == (gaps[i] > 0) for i in range(300) if counted[str(i)] != 3])
    assert accuracy > 0.85 and accuracy > majority - 0.02


def test_doubt_is_honest_for_a_judge_of_unit_reliability():
    """Among pairs of doubt about e, a fresh vote of reliability 1 goes the other way in about a share e of cases."""
    examples, rows, gaps = planted(4000, {"a": 1.0, "b": 1.0, "c": 1.0}, {})
    made = pairs_from_comparisons(examples, rows)
    epsilon = np.array(made["pair_epsilon"][:])
    towards = np.array(
        [gaps[int(e)] * (1 if c == " x" else -1) for e, c in zip(made["example_id"], made["chosen"], strict=True)]
    )
    fresh = 1 / (1 + np.exp(towards))  # probability that a fresh vote disagrees
    for low, high in ((0.1, 0.25), (0.25, 0.35), (0.35, 0.5)):
        inside = (epsilon > low) & (epsilon <= high)
        assert inside.sum() > 100
        assert fresh[inside].mean() == pytest.approx(epsilon[inside].mean(), abs=0.04)


def random_votes(rng, n=12, items=4, judges=3) -> Votes:
    first = rng.integers(0, items, n)
    second = (first + rng.integers(1, items, n)) % items
    return Votes(first, second, rng.integers(0, judges, n), rng.random(n), rng.choice([-1.0, 0.0, 1.0], n))


def test_the_marginal_likelihood_by_adaptive_integration_and_its_gradient_by_differences():
    rng = np.random.default_rng(0)
    votes, judges = random_votes(rng), 3
    at = rng.normal(size=2 * judges) / 2
    value, gradient = _marginal(at, votes, judges)
    expected = 0.5 * (at**2).sum()
    pairs = {frozenset(p) for p in zip(votes.first.tolist(), votes.second.tolist(), strict=True)}
    for low, high in map(sorted, pairs):

        def likelihood(d: float, low=low, high=high) -> float:
            p = math.exp(-(d**2) / 4) / math.sqrt(4 * math.pi)
            for a, b, j, y, s in zip(
                votes.first, votes.second, votes.judge, votes.preferred, votes.shown_first, strict=True
            ):
                if {a, b} == {low, high}:
                    logit = math.exp(at[j]) * (d if a == low else -d) + s * at[judges + j]
                    p *= math.exp(y * logit - math.log1p(math.exp(logit)))
            return p

        expected -= math.log(quad(likelihood, -15, 15)[0])
    assert value == pytest.approx(expected, abs=5e-4)  # 31 nodes
    for i in range(len(at)):
        step = np.eye(len(at))[i] * 1e-5
        slope = (_marginal(at + step, votes, judges)[0] - _marginal(at - step, votes, judges)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, abs=1e-6)


def test_scores_and_their_covariance_by_autograd():
    rng = np.random.default_rng(1)
    votes, judges = (
        random_votes(rng, n=30),
        Judges(np.array([2.0, 1.0, 0.0]), np.array([0.5, -0.2, 0.0]), np.array([0, 0, 1], bool)),
    )
    scores = fit_scores(votes, judges, 4)

    def loss(q):
        total = 0.5 * (q**2).sum()
        for a, b, j, y, s in zip(
            votes.first, votes.second, votes.judge, votes.preferred, votes.shown_first, strict=True
        ):
            if j < 2:
                logit = judges.reliability[j] * (q[a] - q[b]) + s * judges.position_bias[j]
                total = (
                    total
                    - y * torch.nn.functional.logsigmoid(logit)
                    - (1 - y) * torch.nn.functional.logsigmoid(-logit)
                )
        return total

    q = torch.tensor(scores, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(q), q)
    assert slope.abs().max() < 1e-5
    assert _posterior(scores, votes.select(votes.judge < 2), judges)[0] == pytest.approx(loss(q).item())
    hessian = torch.autograd.functional.hessian(loss, q.detach())
    np.testing.assert_allclose(score_covariance(votes, judges, scores), hessian.inverse().numpy(), atol=1e-8)


def test_one_vote_by_two_dimensional_integration():
    """The doubt of a pair with one vote against the exact posterior: Laplace's approximation is close."""
    made = pairs_from_comparisons(EXAMPLES, [vote("0", "a", " x", " y", "a")])[0]

    def weight(d: float, log_r: float) -> float:
        return math.exp(-(d**2) / 4 - log_r**2 / 2) / (1 + math.exp(-math.exp(log_r) * d))

    whole = dblquad(weight, -4, 4, -8, 8)[0]
    against = dblquad(lambda d, log_r: weight(d, log_r) / (1 + math.exp(d)), -4, 4, -8, 8)[0]
    assert made["pair_epsilon"] == pytest.approx(against / whole, abs=0.03)


def test_disagreement_by_adaptive_integration():
    for mean, variance in ((0.3, 1.5), (2.0, 0.2), (5.0, 2.0)):
        p = quad(
            lambda d, m=mean, v=variance: math.exp(-((d - m) ** 2) / 2 / v) / (1 + math.exp(d)), mean - 12, mean + 12
        )[0]
        assert disagreement(mean, variance) == pytest.approx(p / math.sqrt(2 * math.pi * variance), abs=1e-6)


def test_invariances():
    examples, rows, _ = planted(60, {"a": 2.0, "b": 1.0}, {"b": 0.5})
    one = pairs_from_comparisons(examples, rows).to_list()
    renamed = [r | {"supervisor": {"a": "z", "b": "k"}[r["supervisor"]]} for r in rows[::-1]]
    flip = {"a": "b", "b": "a"}
    swapped = [
        r | {"completion_a": r["completion_b"], "completion_b": r["completion_a"], "preferred": flip[r["preferred"]]}
        for r in rows
    ]
    for other, tolerance in ((renamed, 1e-4), (swapped, 1e-4)):
        again = pairs_from_comparisons(examples, other).to_list()
        assert [r["chosen"] for r in again] == [r["chosen"] for r in one]
        if other is renamed:
            assert [r["pair_epsilon"] for r in again] == pytest.approx([r["pair_epsilon"] for r in one], abs=tolerance)


def test_a_one_sided_judge_leaves_the_weighting():
    examples, rows, gaps = planted(80, {"good": 2.0}, {})
    lazy = [vote(str(i), "lazy", *((" x", " y") if i % 2 else (" y", " x")), "a") for i in range(80)]
    alone, both = pairs_from_comparisons(examples, rows), pairs_from_comparisons(examples, rows + lazy)
    report = preference_report(both)["judges"]["lazy"]
    assert report["one_sided"] and report["reliability"] == 0 and report["first_shown_rate"] == 1
    assert report["position_bias"] is None, "0 would say that it has none"
    assert both["pair_epsilon"][:] == pytest.approx(alone["pair_epsilon"][:], abs=1e-6)


def test_ties_abstentions_and_recusals_are_counted():
    rows = [
        vote("0", "ann", " a", " b", "a", writer_a="w", writer_b="v"),
        vote("0", "bob", " b", " a", None, writer_a="v", writer_b="w"),
        vote("0", "eve", " b", " a", " b", writer_a="v", writer_b="w"),
        vote("1", "ann", " a", " b", "tie", writer_a="u", writer_b="v"),
    ]
    made = pairs_from_comparisons(EXAMPLES, rows, recuse={"eve": ["w"]})
    (row,) = made
    assert (row["chosen"], row["rejected"], row["votes"], row["topic"]) == (" a", " b", 1, "t")
    report = preference_report(made)
    assert {k: report[k] for k in ("votes", "abstained", "recused", "ties", "undecided", "pairs")} == {
        "votes": 4, "abstained": 1, "recused": 1, "ties": 1, "undecided": 1, "pairs": 1
    }  # fmt: skip


def test_a_stated_confidence_counts_as_much():
    sure = pairs_from_comparisons(EXAMPLES, [vote("0", "a", " x", " y", "a")])[0]
    unsure = pairs_from_comparisons(EXAMPLES, [vote("0", "a", " x", " y", "a", confidence=0.6)])[0]
    against = pairs_from_comparisons(EXAMPLES, [vote("0", "a", " x", " y", "a", confidence=0.3)])[0]
    assert sure["pair_epsilon"] < unsure["pair_epsilon"] < 0.5
    assert against["chosen"] == " y"


def test_conversations_keep_their_form():
    examples = [{"example_id": "0", "prompt": [{"role": "user", "content": "hi"}]}]
    (row,) = pairs_from_comparisons(examples, [vote("0", "a", "yes", [{"role": "assistant", "content": "no"}], "a")])
    assert row["chosen"] == [{"role": "assistant", "content": "yes"}]


@pytest.mark.parametrize("loss", ["cw", "cdpo"])
def test_the_trainer_takes_the_pairs(loss, tmp_path, build):
    from trl_weaks import WeakPreferenceConfig, WeakPreferenceTrainer

    supervisor = build("llama", seed=5)
    model, reference = build("llama", seed=5, name="m").model, build("llama", seed=5, name="r").model
    pairs = pairs_from_comparisons(
        EXAMPLES, [vote("0", "a", " jazz", " rock", "a"), vote("1", "a", " on", " off", "b")]
    )
    settings = WeakPreferenceConfig(
        str(tmp_path), preference_loss=loss, max_steps=1, use_cpu=True, bf16=False, report_to="none", logging_steps=1,
        save_strategy="no", per_device_train_batch_size=2,
    )  # fmt: skip
    trainer = WeakPreferenceTrainer(
        model=model, ref_model=reference, args=settings, train_dataset=pairs, processing_class=supervisor.tokenizer
    )
    trainer.train()
    epsilon = np.array(pairs["pair_epsilon"][:])
    expected = math.log(2) * ((1 - 2 * epsilon).mean() if loss == "cw" else 1.0)  # margins are 0 at the start
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-3)


WRITTEN_BY = [
    vote("0", "a", "x", "y", "a", writer_a="gpt", writer_b=2),
    vote("0", 1, "x", "y", "a", writer_a="gpt", writer_b=2),
]
BAD = [
    ([], {}, "comparisons: there are no rows"),
    ([{"example_id": "0"}], {}, "there is no column 'supervisor'"),
    ([vote("9", "a", "x", "y", "a")], {}, r"row 0 \(example_id '9'\): no example has this id"),
    ([vote("0", "a", "x", "x", "a")], {}, "must be two different texts"),
    ([vote("0", "a", "x", None, "a")], {}, "must be two different texts"),
    ([vote("0", "a", "x", "y", "z")], {}, "column 'preferred' holds 'z', which is neither"),
    ([vote("0", "a", "x", "y", 1)], {}, "column 'preferred' holds 1"),
    ([vote("0", "a", "x", "y", "a", confidence=0)], {}, "column 'confidence' holds 0"),
    ([vote("0", "a", "x", "y", "a", confidence=1.2)], {}, "column 'confidence' holds 1.2"),
    ([vote("0", "a", "x", "y", None)], {}, "no vote is left of 1"),
    ([vote("0", "a", "x", "y", "tie")], {}, "tell no two completions apart"),
    ([vote("0", "a", "x", "y", "a")], {"recuse": {"a": ["w"]}}, "recusal needs the column 'writer_a'"),
    ([vote("0", "", "x", "y", "a")], {}, "column 'supervisor' holds ''"),
    ([vote("0", "a", "x", "y", ["a"])], {}, r"row 0 .*'preferred' holds \['a'\], which is neither"),
    ([vote("0", "a", "x", "y", "a"), vote("0", "a ", "x", "y", "a")], {}, "'a' and 'a ', which differ only in white"),
    ([vote("0", "a", "x", "\ud83d", "a")], {}, r"row 0 .example_id '0'.: column 'completion_b' holds .* half of a"),
    (WRITTEN_BY, {"recuse": {"a": "gpt"}}, "recuse: 'a' has 'gpt'; give a list of writers"),
    (WRITTEN_BY, {"recuse": {"aa": ["gpt"]}}, r"no judge is called 'aa'; the judges of the table are \['1', 'a'\]"),
    (WRITTEN_BY, {"recuse": {"a": ["gtp"]}}, r"no writer is called 'gtp'; .* are \['2', 'gpt'\]"),
]  # fmt: skip


@pytest.mark.parametrize("recuse", [{1: [2]}, {"1": {"2"}}, {1: (2.0,)}])
def test_recusal_takes_numbers_as_the_ids_that_they_are(recuse):
    report = preference_report(pairs_from_comparisons(EXAMPLES, WRITTEN_BY, recuse=recuse))
    assert report["recused"] == 1 and list(report["judges"]) == ["a"]


@pytest.mark.parametrize("comparisons, options, message", BAD)
def test_bad_input(comparisons, options, message):
    with pytest.raises(ValueError, match=message):
        pairs_from_comparisons(EXAMPLES, comparisons, **options)


def test_a_column_that_pairs_write():
    examples = [{"example_id": "0", "prompt": "p", "margin": 1}]
    with pytest.raises(ValueError, match="a column 'margin', which pairs write"):
        pairs_from_comparisons(examples, [vote("0", "a", "x", "y", "a")])


def test_the_report_is_json():
    made = pairs_from_comparisons(EXAMPLES, [vote("0", "a", "x", "y", "a")])
    assert json.loads(made.info.description)["pairs"] == 1


def test_a_side_that_is_also_the_text_of_the_other_is_refused():
    """Answers of multiple choice: 'a' is the first completion, or the second one's text."""
    with pytest.raises(ValueError, match="row 0 .*'a', which is a side and also the text of the other"):
        pairs_from_comparisons(EXAMPLES, [vote("0", "ann", "b", "a", "a")])
    (pair,) = pairs_from_comparisons(EXAMPLES, [vote("0", "ann", "a", "b", "a")])
    assert pair["chosen"] == "a", "both readings say so"
