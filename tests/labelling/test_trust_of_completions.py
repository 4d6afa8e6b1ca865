"""Trust in completions: the states are those that plain passes give, and the weights follow who is right."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from trl_weaks import trust_weights
from trl_weaks.supervisors.ensemble import WeakEnsemble


@pytest.mark.parametrize("shape", ["gpt2", "opt", "neox", "llama"])
def test_states_give_the_models_own_logits(build, shape):
    supervisor = build(shape, 0, "a")
    prompts, completions = ["USER: play", "wake me up", "USER: play"], [" jazz", " at nine five", " some"]
    states = supervisor.hidden_states(prompts, completions)
    for prompt, completion, state in zip(prompts, completions, states, strict=True):
        ids = [*supervisor.encode([prompt], ["p"])[0].ids, *supervisor.score([prompt], [completion])[0].token_ids]
        with torch.no_grad():
            wanted = supervisor.model(torch.tensor([ids])).logits[0, -1]
            found = supervisor.model.get_output_embeddings()(state)
        assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-4)


@pytest.fixture
def halves(build):
    """Two supervisors that always differ; the first is right where its state lies on one side of a plane."""
    ensemble = WeakEnsemble([build("gpt2", 0, "a"), build("neox", 1, "b")])
    words = ["jazz", "some", "nine", "five", "light", "kitchen", "turn", "wake", "play", "date", "time", "hello"]
    rows = []
    for example, prompt, text in ((f"{o}-{t}", f"USER: {o}", f" {t}") for o in words for t in words):
        for name, completion in (("a", text), ("b", text + " not")):
            row = {"example_id": example, "prompt": prompt + text, "completion": completion}
            row |= {"weak_supervisors": [name], "weak_weights": [0.5], "weak_logps": [[-0.1]]}
            rows.append(row | {"weak_offsets": [[[0, len(completion)]]]})
    given = [row for row in rows if row["weak_supervisors"] == ["a"]]
    states = ensemble.supervisors[0].hidden_states(*([row[c] for row in given] for c in ("prompt", "completion")))
    side = torch.linalg.svd(states - states.mean(0))[2][0]
    right = ((states - states.mean(0)) @ side > 0).tolist()
    gold = {r["example_id"]: r["completion"] + " not" * (not good) for r, good in zip(given, right, strict=True)}
    ids = sorted(gold)[::2]
    parts = [
        Dataset.from_list([row for row in rows if (row["example_id"] in ids) == known]) for known in (True, False)
    ]
    return ensemble, parts[1], parts[0], gold, ids


def test_weights_follow_who_is_right(halves):
    ensemble, labels, known, gold, ids = halves
    made = trust_weights(ensemble, labels, known, {e: gold[e] for e in ids})
    totals, trust, weights = {}, {True: [], False: []}, {True: [], False: []}
    for row in made:
        totals[row["example_id"]] = totals.get(row["example_id"], 0) + sum(row["weak_weights"])
        if row["weak_supervisors"] == ["a"]:
            fits = row["completion"] == gold[row["example_id"]]
            trust[fits] += row["weak_trust"]
            weights[fits] += row["weak_weights"]
    assert list(totals.values()) == pytest.approx([1.0] * len(totals))
    assert np.mean(trust[True]) > np.mean(trust[False]) + 0.5
    assert np.mean(weights[True]) > np.mean(weights[False]) + 0.2


def test_what_completions_cannot_teach_is_refused(halves):
    ensemble, labels, known, gold, ids = halves
    learned = {e: gold[e] for e in ids}
    other = known.map(lambda row: {"weak_supervisors": ["eve"] * len(row["weak_supervisors"])})
    for given, part, truth, message in [
        (labels, labels, {labels[0]["example_id"]: "x"}, "is in `labels` and in `known`"),
        (labels, other, learned, "`known`, row 0, column 'weak_supervisors': 'eve' is none of"),
        (labels, known, {ids[0]: "x"}, "gold: 1 completions of supervisor 'a' in `known` have gold"),
        (labels.remove_columns("prompt"), known, learned, "lacks the columns .'prompt'."),
    ]:
        with pytest.raises(ValueError, match=message):
            trust_weights(ensemble, given, part, truth)
