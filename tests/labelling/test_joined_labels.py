"""Answers that join labels: two calls give what one call with all answers gives, sources and weights among it."""

import pytest
from datasets import Dataset

from trl_weaks.labelling.sources.from_completions import labels_from_completions

EXAMPLES = [{"example_id": "007", "prompt": "play", "topic": "music"}, {"example_id": "7", "prompt": "stop"}]


def answer(example: str, supervisor: str, completion, **more) -> dict:
    return {"example_id": example, "supervisor": supervisor, "completion": completion, **more}


SPELT = {"content": [{"token": " ja", "logprob": -0.1, "top_logprobs": [{"token": " ja", "logprob": -0.1}]},
                     {"token": "zz", "logprob": -0.2, "top_logprobs": []}]}  # fmt: skip
LATER = [answer(e, "api", " jazz", confidence=c) for e, c in (("007", 0.7), ("7", 0.8))]
EARLIER = [
    answer("007", "ann", " jazz"), answer("7", "ann", " ok"), answer("007", "bob", " rock", confidence=0.6),
    answer("7", "bob", " jazz", confidence=0.9, finish_reason="length"),
    answer("007", "server", " jazz", logprobs=SPELT),
    *(answer("7", "many", text) for text in (" ok", " ok", " no")),
]  # fmt: skip


@pytest.mark.parametrize("options", [
    {}, {"weights": {"ann": 4, "bob": 2, "server": 1, "many": 1, "api": 3}}, {"gold": {"007": " jazz", "7": " ok"}},
    {"scorers": ["llama"]}, {"scorers": ["llama"], "gold": {"007": " jazz", "7": " ok"}, "calibration": "isotonic"},
], ids=["plain", "weights", "gold", "scorers", "all"])  # fmt: skip
def test_answers_that_join_labels_give_what_one_call_with_all_gives(build, options):
    """A person's answer stays a hard label, and the sources stay what they are calibrated by."""
    options = options | {"scorers": [build(shape) for shape in options.get("scorers", [])]}
    one = labels_from_completions(EXAMPLES, [*EARLIER, *LATER], **options).to_list()
    two = labels_from_completions(EXAMPLES, LATER, labels=labels_from_completions(EXAMPLES, EARLIER), **options)
    again = labels_from_completions(EXAMPLES, [], labels=two)
    assert two.to_list() == one and again.to_list() == one
    sources = {s: c for row in one for s, c in zip(row["weak_supervisors"], row["confidence_source"], strict=True)}
    hard = "rescored" if options["scorers"] else None
    assert sources == {"ann": hard, "bob": "stated", "server": "logprobs", "many": "samples", "api": "stated"}


def test_weights_of_labels_stay_unless_a_new_answer_would_need_one():
    given = [answer("007", "big", " jazz"), answer("007", "small", " rock"), answer("7", "big", " ok")]
    labels = labels_from_completions(EXAMPLES, given, weights={"big": 9, "small": 1})
    assert labels_from_completions(EXAMPLES, [], labels=labels).to_list() == labels.to_list()
    alone = labels.select([0, 1])  # a new answer by itself needs none
    more = labels_from_completions(EXAMPLES, [answer("7", "api", " ok")], labels=alone)
    assert more["weak_weights"][:] == [[0.9], [0.1], [1.0]]
    for example in ("007", "7"):
        with pytest.raises(ValueError, match=f"weak_weights': .* 'api' to example '{example}' .*Give `weights`"):
            labels_from_completions(EXAMPLES, [answer(example, "api", " x")], labels=labels)
    said = {"big": 9, "small": 1, "api": 10}
    joined = labels_from_completions(EXAMPLES, [answer("007", "api", " x")], labels=labels, weights=said)
    assert joined["weak_weights"][:3] == [[0.45], [0.05], [0.5]]
    none = labels.remove_columns("weak_weights").add_column("weak_weights", [[0.0]] * 3)
    with pytest.raises(ValueError, match="labels, example '007', column 'weak_weights'"):
        labels_from_completions(EXAMPLES, [], labels=none)


def test_two_answers_of_one_supervisor_in_labels_each_have_their_weight():
    """Labels may hold several candidates of a supervisor; the weights of an example still sum to 1."""
    rows = [
        {"example_id": "007", "prompt": "play", "completion": text, "weak_supervisors": ["a"], "weak_weights": [0.5],
         "weak_offsets": [[[0, 2], [2, 2]]], "weak_logps": [[-0.1, -0.1]]}
        for text in (" x", " y")
    ]  # fmt: skip
    for answers, wanted in (([], [1 / 2] * 2), ([answer("007", "b", " z")], [1 / 3] * 3)):
        joined = labels_from_completions(EXAMPLES, answers, labels=Dataset.from_list(rows))
        assert [w for (w,) in joined["weak_weights"]] == pytest.approx(wanted)
        assert joined["confidence_source"][:2] == [["logprobs"]] * 2
