"""`evaluate.load` from the folder inside the package, offline."""

import pytest

from trl_weaks.metrics.hf_slu_f1 import slu_f1_metric_path
from trl_weaks.metrics.slu_f1 import slu_f1

evaluate = pytest.importorskip("evaluate")

PREDICTIONS = [[["event_name", "dance"], ["date", "friday"]], []]
REFERENCES = [[["event_name", "dance class"], ["date", "friday"]], [["date", "today"]]]


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return evaluate.load(slu_f1_metric_path(), cache_dir=str(tmp_path_factory.mktemp("cache")))


def test_equals_the_function(metric):
    for average in ("micro", "macro"):
        result = metric.compute(predictions=PREDICTIONS, references=REFERENCES, average=average)
        assert result == slu_f1(PREDICTIONS, REFERENCES, average)


def test_grows_by_batches(metric):
    for predicted, gold in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=predicted, reference=gold)
    assert metric.compute()["slu_f1"] == slu_f1(PREDICTIONS, REFERENCES)["slu_f1"]


@pytest.mark.parametrize("bad", [5, 2.5, True, None, ["x"], {"a": 1}])
@pytest.mark.parametrize("column", ["predictions", "references"])
def test_a_filler_that_is_no_string_names_its_row(metric, bad, column):
    """Stored, one number among strings would turn the whole column into something else, and the score into 0."""
    rows = {"predictions": [[["a", "x"]], [["b", "y"]]], "references": [[["a", "x"]], [["b", "y"]]]}
    assert metric.compute(**rows)["slu_f1"] == 1.0
    rows[column] = [[["a", "x"]], [["b", bad]]]
    with pytest.raises(ValueError, match=rf"{column}\[1\]: .* is not a \(type, filler\) pair of strings"):
        metric.compute(**rows)
    metric.add(prediction=[["a", "x"]], reference=[["a", "x"]])
    with pytest.raises(ValueError, match=rf"{column}\[1\]"):
        metric.add(prediction=rows["predictions"][1], reference=rows["references"][1])
    assert metric.compute()["slu_f1"] == 1.0  # what was sound is still there
