"""crowd-kit's noisy Bradley-Terry as it is, fed with votes in any order, and its pairs. Run by `make test-crowd`."""

import sys

import numpy as np
import pytest
from scipy.special import expit

from trl_weaks import pairs_from_comparisons
from trl_weaks.aggregation.comparisons.bradley_terry import Votes

JUDGES = {"ann": 0.95, "bob": 0.75, "eve": 0.65}
EXAMPLES = [{"example_id": str(i), "prompt": f"p{i}"} for i in range(40)]


def comparisons(seed=0) -> list[dict]:
    """Two texts an example, `x` the better one; every judge sees both orders, one always takes the first."""
    rng, rows = np.random.default_rng(seed), []
    for example in EXAMPLES:
        for judge, right in (*JUDGES.items(), ("first", None)):
            for a, b in (("x", "y"), ("y", "x")):
                better = "a" if a == "x" else "b"
                said = "a" if right is None else better if rng.random() < right else "ab".replace(better, "")
                rows.append({"example_id": example["example_id"], "supervisor": judge, "preferred": said})
                rows[-1] |= {"completion_a": a, "completion_b": b}
    return rows


def test_pairs_are_those_of_crowd_kits_scores():
    kit, pandas = pytest.importorskip("crowdkit.aggregation"), pytest.importorskip("pandas")
    rows = [row for row in comparisons() if row["supervisor"] != "first"]  # one-sided: out of the weighting
    frame = pandas.DataFrame(
        {
            "worker": row["supervisor"],
            "left": (row["example_id"], row["completion_a"]),
            "right": (row["example_id"], row["completion_b"]),
            "label": (row["example_id"], row[f"completion_{row['preferred']}"]),
        }
        for row in rows
    )
    items = {item: i for i, item in enumerate(sorted(set(frame["left"])))}
    coded = frame.assign(**{c: frame[c].map(items) for c in ("left", "right", "label")})
    coded["worker"] = coded["worker"].map({name: j for j, name in enumerate(sorted(JUDGES))})
    scores = kit.NoisyBradleyTerry().fit_predict(coded.sort_values(list(coded.columns)))
    made = pairs_from_comparisons(EXAMPLES, comparisons(), aggregator="noisy_bradley_terry")
    assert len(made) == 40
    for pair in made:
        x, y = (scores[items[pair["example_id"], text]] for text in "xy")
        gap = np.log(x / (1 - x)) - np.log(y / (1 - y))
        assert pair["chosen"] == ("x" if gap > 0 else "y")
        assert pair["margin"] == pytest.approx(abs(gap)) and pair["pair_epsilon"] == pytest.approx(expit(-abs(gap)))
    assert np.mean([chosen == "x" for chosen in made["chosen"]]) > 0.9


def test_order_changes_nothing_and_judges_are_reported():
    pytest.importorskip("crowdkit.aggregation")
    import json

    made = pairs_from_comparisons(EXAMPLES, comparisons(), aggregator="noisy_bradley_terry")
    again = pairs_from_comparisons(EXAMPLES, comparisons()[::-1], aggregator="noisy_bradley_terry")
    assert made.to_list() == again.to_list()
    judges = json.loads(made.info.description)["judges"]
    assert judges["first"]["one_sided"] and judges["first"]["reliability"] == 0
    assert all(0 <= judges[name]["reliability"] <= 1 and not judges[name]["one_sided"] for name in JUDGES)


def test_ties_alone_decide_nothing():
    pytest.importorskip("crowdkit.aggregation")
    from trl_weaks.aggregation.comparisons.crowd import noisy_bradley_terry

    _, scores = noisy_bradley_terry(Votes([0], [1], [0], [0.5], [1]), 2)
    assert scores.tolist() == [0, 0]


def test_without_crowd_kit_the_extra_is_named(monkeypatch):
    for module in ("crowdkit", "crowdkit.aggregation"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"crowd-kit.*pip install 'trl-weaks\[crowd\]'"):
        pairs_from_comparisons(EXAMPLES, comparisons(), aggregator="noisy_bradley_terry")
    with pytest.raises(ValueError, match="aggregator='elo' is none of bradley_terry, noisy_bradley_terry"):
        pairs_from_comparisons(EXAMPLES, comparisons(), aggregator="elo")
