"""Where classes have numbers for names, such as 1 to 5 stars, a whole number of the gold is a name, not a place."""

import pytest
import torch
from datasets import ClassLabel, Dataset
from tiny import classifier
from tiny_tokenizers import word_level

from trl_weaks.labelling.label_classes import _gold_ids, label_classes
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble

WORDS = "wake me up at seven play some jazz".split()
STARS = ["1", "2", "3", "4", "5"]


def judge(names):
    named = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    model = classifier("bert", len(WORDS) + 2, len(names), scale=8, positions=32, pad_token_id=0, **named)
    return WeakEnsemble([WeakClassifier(model, word_level(WORDS), "a")])


@pytest.mark.parametrize(
    "names, gold, places",
    [
        (STARS, [1, 2, 4, 4], [0, 1, 3, 3]),
        (STARS, ["1", "2.0", "4", " 4"], [0, 1, 3, 3]),
        (["2", "0", "1"], [2, 0, 1, 1], [0, 1, 2, 2]),
        (["good", "bad"], [0, 1, 1, 0], [0, 1, 1, 0]),
        (None, [0, 1, 3, 3], [0, 1, 3, 3]),
    ],
)
def test_gold_of_a_calibration(names, gold, places):
    found = Dataset.from_dict({"label": gold})
    assert _gold_ids(found, 5, names) == places
    ids = Dataset.from_dict({"label": places}).cast_column("label", ClassLabel(num_classes=5))
    assert _gold_ids(ids, 5, names) == places, "places that are said to be places"


def test_the_temperature_is_that_of_the_same_gold_by_name():
    ensemble, texts = judge(STARS), [" ".join(WORDS[i : i + 3]) for i in range(6)]
    gold = (ensemble.supervisors[0].predict(texts).probabilities.argmax(-1) + 1).tolist()  # all right: none would be
    new = Dataset.from_dict({"text": ["jazz wake"]})
    by_name = Dataset.from_dict({"text": texts, "label": [str(k) for k in gold]})
    by_number = Dataset.from_dict({"text": texts, "label": gold})
    votes = [torch.tensor(label_classes(ensemble, new, held_out)["weak_probs"]) for held_out in (by_name, by_number)]
    assert torch.equal(*votes) and votes[0].max() > 0.99


def test_a_number_that_no_class_is_called_is_refused():
    held_out = Dataset.from_dict({"text": ["jazz", "wake up"], "label": [5, 0]})
    with pytest.raises(ValueError, match="calibration set, row 1: label 0 is none of the classes"):
        label_classes(judge(STARS), Dataset.from_dict({"text": ["jazz wake"]}), held_out)
