"""Two labellings whose ids are row numbers, put together: an id stands for two examples, and every reader says so."""

import json

import pytest
from datasets import Dataset, concatenate_datasets

from trl_weaks import labels_from_completions, labels_from_votes, renormalise_weights, supervisor_report, triage
from trl_weaks.aggregation.transforms import KeepBest
from trl_weaks.labelling.reliability.shared_ids import refuse_shared_ids
from trl_weaks.trainer.completions.validation import check_rows
from trl_weaks.trainer.completions.weak_dataset import checked
from trl_weaks.viewer.from_labels import page_of_labels


def votes(batch: str, label: str, who: str = "ann") -> Dataset:
    cast = [{"example_id": i, "supervisor": who, "label": label} for i in range(4)]
    return labels_from_votes([{"text": f"{batch}{i}"} for i in range(4)], cast, classes=["no", "yes"])


def answers(batch: str, count: int = 4, who: str = "ann", messages: bool = False) -> Dataset:
    asked = [[{"role": "user", "content": f"{batch}{i}"}] if messages else f"{batch}{i}" for i in range(count)]
    said = [{"example_id": i, "supervisor": who, "completion": f" {batch}{i}"} for i in range(count)]
    return labels_from_completions([{"prompt": prompt} for prompt in asked], said)


def own_ids(labels: Dataset, batch: str) -> Dataset:
    return labels.map(lambda row: {"example_id": f"{batch}/{row['example_id']}"})


GOLD = {"0": "yes", "1": "yes"}
READERS_OF_CLASSES = {
    "supervisor_report": lambda labels: supervisor_report(labels, GOLD),
    "page_of_labels": page_of_labels,
    "triage": lambda labels: triage(labels, GOLD),
}
READERS_OF_TEXTS = {
    "supervisor_report": lambda labels: supervisor_report(labels, {"0": "a0"}),
    "page_of_labels": page_of_labels,
    "triage": lambda labels: triage(labels, {"0": "a0"}),
    "renormalise_weights": renormalise_weights,
    "KeepBest": KeepBest(1.0),
    "checked for training": lambda labels: checked(labels, "train"),
}


@pytest.mark.parametrize("reader", READERS_OF_CLASSES)
def test_texts_that_share_an_id_are_refused(reader):
    both = concatenate_datasets([votes("a", "yes"), votes("b", "no")])
    with pytest.raises(ValueError, match=r"Row 4 \(example '0'\), column 'text': 'b0' .* row 0.*ids of its own"):
        READERS_OF_CLASSES[reader](both)


@pytest.mark.parametrize("reader", READERS_OF_CLASSES)
def test_one_example_in_two_rows_of_votes_is_refused(reader):
    """Its supervisors would be taken for people who never voted on the same text."""
    both = concatenate_datasets([votes("a", "yes"), votes("a", "no", "bob")])
    with pytest.raises(ValueError, match="Row 4: column 'example_id' repeats '0' of row 0; give every example one"):
        READERS_OF_CLASSES[reader](both)


@pytest.mark.parametrize("messages", [False, True], ids=["text", "messages"])
@pytest.mark.parametrize("who", ["ann", "bob"])
@pytest.mark.parametrize("reader", READERS_OF_TEXTS)
def test_prompts_that_share_an_id_are_refused(reader, who, messages):
    both = concatenate_datasets([answers("a", messages=messages), answers("b", 2, who, messages)])
    with pytest.raises(ValueError, match=r"Row 4 \(example '0'\), column 'prompt': .* row 0.*ids of its own"):
        READERS_OF_TEXTS[reader](both)


def test_a_supervisor_who_answers_an_example_twice_is_refused():
    twice = concatenate_datasets([answers("a"), answers("a").map(lambda row: {"completion": " another"})])
    with pytest.raises(ValueError, match=r"Row 4 \(example '0'\), column 'weak_supervisors': 'ann' already answers"):
        supervisor_report(twice)


def test_ids_as_the_error_advises_give_the_right_numbers():
    both = concatenate_datasets([own_ids(votes("a", "yes"), "a"), own_ids(votes("b", "no"), "b")])
    ann = supervisor_report(both, {f"a/{i}": "yes" for i in range(4)}).supervisors[0]
    assert (ann["labelled"], ann["accuracy"]) == (8, 1.0)
    texts = concatenate_datasets([own_ids(answers("a"), "a"), own_ids(answers("b", 2, "bob"), "b")])
    assert renormalise_weights(texts)["weak_weights"][:] == [[1.0]] * 6
    check_rows(renormalise_weights(texts))
    rows = {row["supervisor"]: row for row in supervisor_report(texts, {"a/0": "a0", "b/1": "b1"}).supervisors}
    assert [(rows[who]["labelled"], rows[who]["accuracy"]) for who in ("ann", "bob")] == [(4, 1.0), (2, 1.0)]


def test_the_rows_of_one_prompt_are_no_clash_whatever_the_order_of_a_messages_keys():
    user = {"role": "user", "content": "hi"}
    rows = [answers("a", 1)[0] | {"prompt": [user], "completion": [{"role": "assistant", "content": "a"}]}]
    rows += [rows[0] | {"prompt": [json.loads(json.dumps(user, sort_keys=True))], "weak_supervisors": ["bob"]}]
    rows[1]["completion"] = [{"role": "assistant", "content": "b"}]
    check_rows([row | {"weak_weights": [0.5]} for row in rows])
    refuse_shared_ids(concatenate_datasets([answers("a"), answers("a", who="bob")]))
