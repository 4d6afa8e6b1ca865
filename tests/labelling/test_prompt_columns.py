"""Ids and prompts that are made where a dataset has none: the same labels as with those that stand there."""

import inspect

import pytest
from datasets import Dataset

from trl_weaks import columns, labels_from_completions, labels_from_votes, pairs_from_comparisons
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.preferences import build_preferences
from trl_weaks.labelling.prompt_columns import as_prompts
from trl_weaks.labelling.sources.examples import read_examples
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble

PROMPTS = [f"USER: play {word} ASSISTANT:" for word in ("jazz", "some", "nine")]
TALKS = [
    [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
    [{"role": "user", "content": "open"}],
]


def test_missing_and_integer_ids_give_the_labels_of_text_ids(build, tmp_path):
    ensemble, few = WeakEnsemble([build("gpt2", 0, "a"), build("neox", 1, "b")]), {"max_new_tokens": 4}
    text = Dataset.from_dict({"example_id": ["0", "1", "2"], "prompt": PROMPTS})
    wanted = label_completions(ensemble, text, "joint", 2, **few).to_list()
    without = text.remove_columns("example_id")
    assert label_completions(ensemble, without, "joint", 2, tmp_path / "labels", **few).to_list() == wanted
    assert not verify_labels(ensemble, without, tmp_path / "labels", "joint", 2, share=1.0, **few).different
    numbers = without.add_column("example_id", [0, 1, 2])
    assert label_completions(ensemble, numbers, "joint", 2, tmp_path / "labels", **few).to_list() == wanted
    assert wanted[0]["example_id"] == "0"


def test_the_last_turn_of_the_assistant_is_asked_for():
    given = as_prompts(Dataset.from_dict({"messages": TALKS, "topic": ["x", "y"]}))
    assert sorted(given.column_names) == ["example_id", "prompt", "topic"]
    assert given["prompt"][:] == [TALKS[0][:2], TALKS[1]]
    rows = read_examples([{"messages": talk, "topic": "x"} for talk in TALKS])
    assert [row["prompt"] for row in rows.values()] == [TALKS[0][:2], TALKS[1]] and list(rows) == ["0", "1"]
    assert all(set(row) == {"example_id", "prompt", "topic"} for row in rows.values())


def test_what_is_there_stays():
    given = Dataset.from_dict({"example_id": ["b", "a"], "prompt": ["p", "q"], "messages": TALKS})
    assert as_prompts(given).to_list() == given.to_list()
    large = Dataset.from_dict({"example_id": [12345678901234567, 7], "prompt": ["p", "q"]})
    assert as_prompts(large)["example_id"][:] == ["12345678901234567", "7"]


OURS = {name: value for name, value in inspect.getmembers(columns, lambda value: isinstance(value, str))
        if name.isupper()}  # fmt: skip
GIVEN = {
    columns.EXAMPLE_ID,
    columns.PROMPT,
    columns.COMPLETION,
    columns.TEXT,
    columns.LABEL,
    columns.TRAIN_WEIGHT,
}  # what users bring


def test_every_column_of_labels_is_known_as_one():
    assert set(OURS.values()) == GIVEN | set(columns.WEAK) | set(columns.PAIRS)
    assert len(OURS) == len(GIVEN) + len(columns.WEAK) + len(columns.PAIRS), "each is in one of them"


def makers(build):
    """Everything that labels rows and carries their other columns along, but for `label_classes`, which drops them."""
    vote = {"example_id": "0", "supervisor": "ann", "label": "yes"}
    said = {"example_id": "0", "supervisor": "ann", "completion": " yes"}
    judged = {"example_id": "0", "supervisor": "ann", "completion_a": "x", "completion_b": "y", "preferred": "a"}
    student, ensemble = build("gpt2", 0, "a"), WeakEnsemble([build("neox", 1, "b")])
    return {
        "labels_from_votes": lambda given: labels_from_votes(given, [vote], classes=["no", "yes"]),
        "labels_from_completions": lambda given: labels_from_completions(given, [said]),
        "pairs_from_comparisons": lambda given: pairs_from_comparisons(given, [judged]),
        "label_completions": lambda given: label_completions(ensemble, given, max_new_tokens=2),
        "build_preferences": lambda given: build_preferences(student, ensemble, given, 2, max_new_tokens=2),
    }


@pytest.mark.parametrize("column", columns.WEAK)
def test_columns_of_older_labels_are_refused_by_whatever_labels_anew(build, column):
    """Carried through they would speak of other supervisors, and reports and trainers read them."""
    given = Dataset.from_dict({"example_id": ["0"], "prompt": [PROMPTS[0]], column: [None]})
    for make in makers(build).values():
        with pytest.raises(ValueError, match=f"have a column '{column}'|already has a column '{column}'"):
            make(given)


@pytest.mark.parametrize("column", columns.PAIRS)
def test_columns_of_older_pairs_are_refused_by_whatever_makes_pairs(build, column):
    given = Dataset.from_dict({"example_id": ["0"], "prompt": [PROMPTS[0]], column: ["old"]})
    for name in ("pairs_from_comparisons", "build_preferences"):
        with pytest.raises(ValueError, match=f"column '{column}', which pairs write"):
            makers(build)[name](given)


def test_the_weight_of_older_labels_is_left_behind():
    """It judged other labels than those that are made now."""
    texts = [{"example_id": "1", "text": "t", "prompt": "t", "triage_weight": 0.2}]
    votes = [{"example_id": "1", "supervisor": "ann", "label": "a"}]
    assert columns.TRAIN_WEIGHT not in labels_from_votes(texts, votes, classes=["a", "b"]).column_names
    answers = [{"example_id": "1", "supervisor": "ann", "completion": "x"}]
    assert columns.TRAIN_WEIGHT not in labels_from_completions(texts, answers).column_names
    assert columns.TRAIN_WEIGHT not in as_prompts(Dataset.from_list(texts)).column_names
