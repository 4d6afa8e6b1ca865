"""Whether students of completions know when they are wrong: by loops, in a report, and where nothing was kept."""

import math

import numpy as np
import pytest
from readable import unreadable

from trl_weaks.metrics.calibration import expected_calibration_error
from trl_weaks.study.pipeline.predictions import CONFIDENCES
from trl_weaks.study.report.diagnostics.base import Diagnostics, diagnose, diagnostics_section
from trl_weaks.study.report.diagnostics.completions import own_answers

SAID = ["call ann now", "play", "", "stop it"]
GOLD = ["call dan now", "play ", "wait", "stop it"]
KEPT = [
    {"mean_logp": -0.5, "word_logps": [-0.1, -1.0, -0.2]},
    {"mean_logp": -0.1, "word_logps": [-0.05]},
    {"mean_logp": -2.0, "word_logps": []},
    {"mean_logp": None, "word_logps": None},  # longer than the context
]


def test_words_and_whole_answers_against_gold():
    found = {name: value for name, (value,) in own_answers([KEPT], [SAID], [GOLD]).items()}
    sure, right = np.exp([-0.1, -1.0, -0.2, -0.05]), [True, False, True, True]
    assert found["word_ece"] == pytest.approx(expected_calibration_error(sure, right))
    assert found["word_brier"] == pytest.approx(np.mean((sure - right) ** 2))
    assert (found["word_confidence"], found["word_accuracy"]) == pytest.approx((sure.mean(), 0.75))
    assert found["wrong"] == 0.5, "white space at the ends aside"
    assert found["wrong_surer_half"] == 0.5, "of three that were read, the surest two"
    assert found["area_under_risk"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_where_no_answer_was_read_nothing_is_said_of_its_confidence():
    found = own_answers([[KEPT[3]] * 4], [SAID], [GOLD])
    assert found["wrong"] == [0.5] and all(math.isnan(v) for name, (v,) in found.items() if name != "wrong")
    entry = {"word_distance": [0.1], "answers": found}
    told = diagnose(Diagnostics({"m": entry}), {"m": [0.5], "w": [0.4]}, {"m": ["w"]})
    text = diagnostics_section(told, {"m": "M"})
    assert "does a student know when it is wrong?" in text and unreadable(text) == []
    assert "| M | – | – | – | – | 0.5000 | – | – |" in text
    del entry["answers"]
    text = diagnostics_section(diagnose(Diagnostics({"m": entry}), {"m": [0.5], "w": [0.4]}, {"m": ["w"]}), {"m": "M"})
    assert "does a student know" not in text
    assert CONFIDENCES not in text
