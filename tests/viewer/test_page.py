"""The page holds what the labels say, joined on ids, and nothing of the data is markup."""

import json
import math
import re

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.report.page import _said as said
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.slot_filling import SlotFilling
from trl_weaks.viewer.from_labels import page_of_labels, word_confidences
from trl_weaks.viewer.page import Answer, Page, Shown


def data_of(html: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def completions() -> Dataset:
    examples = [{"example_id": e, "prompt": f"prompt {e}"} for e in ("b", "a", "c")]
    answers = [
        {"example_id": e, "supervisor": s, "completion": t, "confidence": c}
        for e, s, t, c in [
            ("a", "ann", " play jazz", 0.5),
            ("a", "bob", " play jazz", 0.9),
            ("a", "eve", " stop", 0.4),
            ("b", "ann", " on", 1.0),
        ]
    ]
    return labels_from_completions(examples, answers)


def test_completions_are_grouped_by_example_with_words_and_scores():
    page = page_of_labels(completions(), {"a": " play jazz"})
    assert [e.id for e in page.examples] == ["b", "a"]
    a = page.examples[1]
    assert [(x.by, x.text, x.score) for x in a.answers] == [
        ("ann", " play jazz", 1.0),
        ("bob", " play jazz", 1.0),
        ("eve", " stop", 0.0),
    ]
    assert a.disagreement == pytest.approx(1 / 3) and a.aggregate.text == " play jazz"
    assert page.examples[0].disagreement == 0 and page.examples[0].gold is None
    assert "".join(w for w, _ in a.answers[0].words) == " play jazz"


@pytest.mark.parametrize("text", ["play jazz", " play  jazz ", "a", "\n x\ty", "naïve 你好 🙂"])
def test_words_spell_the_text_and_their_product_is_the_answers(text):
    offsets = [[i, i + 1] for i in range(len(text))] + [[len(text)] * 2]
    logps = [-0.1 * (i + 1) for i in range(len(offsets))]
    words = word_confidences(text, offsets, logps)
    assert "".join(word for word, _ in words) == text
    assert math.fsum(math.log(p) for _, p in words) == pytest.approx(math.fsum(logps))
    assert len(words) == max(1, len(text.split()))


def votes():
    features = Features(
        {"example_id": Value("string"), "text": Value("string"), "label": ClassLabel(names=["no", "yes"])}
        | {"weak_probs": Sequence(Sequence(Value("float64"))), "weak_supervisors": Sequence(Value("string"))}
    )
    rows = {"example_id": ["1", "2"], "text": ["t", "u"], "label": [0, 0], "weak_supervisors": [["a", "b"]] * 2}
    rows["weak_probs"] = [[[0.2, 0.8], [0.9, 0.1]], [[0.7, 0.3], [float("nan")] * 2]]
    return Dataset.from_dict(rows, features=features)


def test_classes():
    page = page_of_labels(votes(), {"1": "yes"})
    one, two = page.examples
    assert [(x.by, x.text, x.score) for x in one.answers] == [
        ("a", "yes 0.80, no 0.20", 1.0),
        ("b", "no 0.90, yes 0.10", 0.0),
    ]
    assert (one.gold, one.disagreement, one.aggregate.text) == ("yes", pytest.approx(0.7), "no 0.55, yes 0.45")
    assert [x.by for x in two.answers] == ["a"] and two.disagreement == 0


EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\u2028'


def test_an_answer_that_is_gold_is_right_where_an_f1_gives_it_nothing():
    task, nothing = SlotFilling(SlotFillingConfig()), Example("1", "put on something", ())
    assert task.score(" {}", nothing)["slu_f1"] == 0
    scores = [
        said(task, nothing, {"completion": text})["score"] for text in (task.completion(nothing), "{}", " wrong")
    ]
    assert scores == [1, 1, 0]


def test_nothing_of_the_data_is_markup():
    page = Page(EVIL, EVIL, [EVIL], [Shown("1", EVIL, [Answer(EVIL, EVIL, words=[(EVIL, float("nan"))])])])
    html = page.html()
    assert html.count("<script") == 2 and "<img" not in html
    shown = data_of(html)
    assert shown["examples"][0]["prompt"] == EVIL and shown["examples"][0]["answers"][0]["words"] == [[EVIL, None]]
    assert "innerHTML" not in html and "http:" not in html.replace("http://www.w3.org/2000/svg", "")


def test_gold_may_know_more_examples_than_a_page_shows():
    """As that of a study's half B does, where it is larger than the page."""
    (shown,) = page_of_labels(votes(), {"1": "yes", "2": "no"}, limit=1).examples
    assert (shown.id, shown.gold) == ("1", "yes")
    gold = {str(row): " play jazz" for row in completions()["example_id"]}
    (said,) = page_of_labels(completions(), gold, limit=1).examples
    assert len(gold) > 1 and said.gold == " play jazz"
    with pytest.raises(ValueError, match="gold has the id '3', which no label has"):
        page_of_labels(votes(), {"1": "yes", "3": "no"}, limit=1)


def test_a_limit_is_told():
    page = page_of_labels(completions(), limit=1)
    assert page.about.startswith("1 of 2 examples") and len(page.examples) == 1


def test_numbers_that_a_report_has_too_are_rounded_once():
    """4 / 21 is 0.190 there; by way of 0.1905 it would be 0.191 here."""
    row = {"label": "mine", "pgr": 4 / 21, "low": -math.inf, "high": 0.5, "reason": None}
    shown = data_of(
        Page("t", "a", ["s"], [Shown("1", "p", [Answer("s", "x", confidence=4 / 21)])], forest=[row]).html()
    )
    assert f"{shown['forest'][0]['pgr']:.3f}" == f"{4 / 21:.3f}" == "0.190" and shown["forest"][0]["low"] is None
    assert shown["examples"][0]["answers"][0]["confidence"] == 0.1905  # thousands of them: kept short


def test_two_thousand_examples_are_a_small_file(tmp_path):
    labels = labels_from_completions(
        [{"example_id": str(i), "prompt": f"prompt number {i}"} for i in range(2000)],
        [
            {"example_id": str(i), "supervisor": s, "completion": f" play song {i % 7} tomorrow", "confidence": 0.5}
            for i in range(2000)
            for s in ("a", "b", "c")
        ],
    )
    path = page_of_labels(labels).write(tmp_path / "deep" / "view.html")
    assert path.stat().st_size < 2_500_000


def test_labels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="a report needs 'weak_probs'"):
        page_of_labels(Dataset.from_dict({"text": ["a"]}))
