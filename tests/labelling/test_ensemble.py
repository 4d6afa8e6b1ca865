"""Weights and the joint score of an ensemble."""

import itertools

import pytest

from trl_weaks.supervisors.ensemble import WeakEnsemble

PROMPTS = ["USER: light ASSISTANT:", "USER: jazz at nine ASSISTANT:"]
COMPLETIONS = ['{"date": "tomorrow"}', " {}"]


def test_score_is_the_weighted_mean_of_length_normalised_logps(build):
    supervisors = [build("gpt2"), build("opt"), build("llama")]
    weights = [1.0, 2.0, 5.0]
    expected = [0.0, 0.0]
    for supervisor, weight in zip(supervisors, weights, strict=True):
        for i, read in enumerate(supervisor.score(PROMPTS, COMPLETIONS)):
            expected[i] += weight / 8 * sum(read.logps) / len(read.logps)
    assert WeakEnsemble(supervisors, weights).score(PROMPTS, COMPLETIONS) == pytest.approx(expected, rel=1e-12)


def test_supervisors_have_no_order(build):
    pairs = [(build("gpt2"), 1.0), (build("opt"), 2.0), (build("neox"), 4.0)]
    scores = {
        tuple(WeakEnsemble([s for s, _ in p], [w for _, w in p]).score(PROMPTS, COMPLETIONS))
        for p in itertools.permutations(pairs)
    }
    assert len(scores) == 1, "bit for bit the same in every order"


def test_weights_sum_to_one(build):
    ensemble = WeakEnsemble([build("neox"), build("gpt2")], [3, 1])
    assert ensemble.names == ["gpt2-0", "neox-0"] and ensemble.weights == [0.25, 0.75]
    assert WeakEnsemble([build("neox"), build("gpt2")]).weights == [0.5, 0.5]


@pytest.mark.parametrize(
    "weights, message",
    [
        ([1, -1], "'opt-0' is -1.0"),
        ([float("nan"), 1], "'gpt2-0' is nan"),
        ([0, 0], "'gpt2-0' is 0.0"),
        ([float("inf"), 1], "'gpt2-0' is inf"),
        ([1], "1 weights for 2"),
    ],
)
def test_bad_weights(build, weights, message):
    with pytest.raises(ValueError, match=message):
        WeakEnsemble([build("gpt2"), build("opt")], weights)


def test_bad_supervisors(build):
    with pytest.raises(ValueError, match="two supervisors are called 'gpt2-0'"):
        WeakEnsemble([build("gpt2"), build("gpt2")])
    with pytest.raises(ValueError, match="at least one"):
        WeakEnsemble([])
