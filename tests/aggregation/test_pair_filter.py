"""The surest pairs alone: which stay, and their weights."""

import math

import pytest
from datasets import Dataset

from trl_weaks.aggregation.transforms import KeepSurestPairs

PAIRS = Dataset.from_dict(
    {"chosen": list("abcde"), "pair_weight": [1.0, 0.5, 2.0, 0.5, 1.0], "pair_epsilon": [0.3, 0.1, 0.45, 0.1, 0.2]}
)


def test_the_least_doubtful_stay_in_their_order_with_mean_weight_one():
    left = KeepSurestPairs(0.5)(PAIRS)
    assert left["chosen"][:] == ["b", "d", "e"] and left.column_names == PAIRS.column_names
    assert left["pair_weight"][:] == pytest.approx([0.75, 0.75, 1.5])
    assert KeepSurestPairs(0.2)(PAIRS)["chosen"][:] == ["b"]  # of equally sure ones the first
    assert KeepSurestPairs(1.0)(PAIRS).to_list() == PAIRS.to_list() and KeepSurestPairs().share == 0.3
    assert KeepSurestPairs(0.01)(PAIRS.remove_columns("pair_weight"))["chosen"][:] == ["b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KeepSurestPairs(0.0), "share=0.0"),
        (lambda: KeepSurestPairs(1.1), "share=1.1"),
        (lambda: KeepSurestPairs()(PAIRS.remove_columns("pair_epsilon")), "no column 'pair_epsilon'"),
        (lambda: KeepSurestPairs()(PAIRS.select([])), "no pairs to choose from"),
        (
            lambda: KeepSurestPairs()(Dataset.from_dict({"pair_epsilon": [0.1, math.nan]})),
            "row 1: 'pair_epsilon' is nan",
        ),
        (lambda: KeepSurestPairs()(Dataset.from_dict({"pair_epsilon": [0.7]})), "row 0: 'pair_epsilon' is 0.7"),
    ],
)
def test_bad_pairs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
