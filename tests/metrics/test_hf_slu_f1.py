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
