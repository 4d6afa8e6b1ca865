"""What a student's card says of its study; tests/hub pushes whole studies and loads them again."""

from types import SimpleNamespace

import numpy as np
import pytest

from trl_weaks.study.config import CompletionStudyConfig
from trl_weaks.study.report.push import Student, check_push, student_card, students
from trl_weaks.study.report.results import ACCURACY, score_systems
from trl_weaks.study.report.study import NOT_STUDENTS

CARD = """---
library_name: transformers
tags:
- lora
- trl
---

# Model Card for naive

```python
generator = pipeline("text-generation", model="naive")
```
"""
TASK = SimpleNamespace(kind="completions", name="sums", report_title="Weak-to-strong: sums")


def results(seeds, ceiling=0.9):
    rng = np.random.default_rng(0)
    rates = {"ann": ("weak", 0.4), "bob": ("weak", 0.5), "naive": ("method", 0.7), "ceiling": ("ceiling", ceiling)}
    systems = [
        {"name": n, "label": f"system {n}", "role": role, "samples": rng.uniform(size=(seeds, 400)) < rate}
        for n, (role, rate) in rates.items()
    ]
    found = score_systems(systems, measure=ACCURACY, resamples=200)
    return found | {"seeds": list(range(seeds))}


def made(folder, found, seed=0, merged=False):
    (folder / "naive").mkdir()
    (folder / "naive" / "README.md").write_text(CARD)
    student = Student("naive", SimpleNamespace(seed=seed), folder / "naive", "me/sums-naive")
    config = CompletionStudyConfig(stages=[], push_to_hub=None)
    return student_card(config, TASK, student, found, "me/sums-labels", merged)


@pytest.mark.parametrize("seeds", [1, 3])
def test_metric_pgr_and_interval_are_in_the_model_index(tmp_path, seeds):
    found = results(seeds)
    row = found["methods"]["naive"]
    card = made(tmp_path, found, seed=seeds - 1)
    metrics = {one.metric_type: one for one in card.data.eval_results}
    assert metrics["pgr"].metric_value == round(row["pgr"], 6) and 0.2 < row["pgr"] < 0.9
    assert metrics["pgr"].metric_args == {"interval_95": [round(end, 6) for end in row["pgr_interval"]]}
    assert metrics["accuracy"].metric_value == round(row["accuracy_per_seed"][-1], 6)
    interval = [round(end, 6) for end in row["accuracy_interval"]]  # of the mean over seeds, where there are several
    assert metrics["accuracy"].metric_args == ({"interval_95": interval} if seeds == 1 else None)
    assert 'model="me/sums-naive"' in card.text and "# Model Card for sums-naive" in card.text
    assert "| taught by | `ann`, `bob` |" in card.text and card.data.license is None
    assert "lora" in card.data.tags, "the adapter went as it is"


@pytest.mark.parametrize("end", [None, np.inf])
def test_an_interval_without_bounds_is_told_and_is_no_interval_of_the_model_index(tmp_path, end):
    """As `results.json` has it, or as it was computed."""
    found = results(1)
    low = end if end is None else -end
    found["methods"]["naive"] |= {"accuracy_interval": [low, end], "pgr_interval": [0.1, end]}
    card = made(tmp_path, found)
    assert [one.metric_args for one in card.data.eval_results] == [None, None]
    assert "[−∞, +∞] |" in card.text and "[+0.100, +∞] |" in card.text


def test_a_merged_adapter_is_a_model_and_a_refused_pgr_says_why(tmp_path):
    card = made(tmp_path, results(1, ceiling=0.3), merged=True)
    assert card.data.tags == ["trl"] and card.data.library_name == "transformers"
    assert [one.metric_type for one in card.data.eval_results] == ["accuracy"]
    assert "| refused |" in card.text and "the ceiling (0." in card.text


def named(*systems, push="me/sums"):
    stage = SimpleNamespace(after=[SimpleNamespace(folder=None)])
    run = SimpleNamespace(systems=dict.fromkeys(("ann", *systems, "ceiling", *NOT_STUDENTS), stage), seed=0)
    return SimpleNamespace(push_to_hub=push, supervisor_names=["ann"]), [run]


def test_students_alone_go_and_names_that_cannot_be_are_refused():
    assert [one.repository for one in students(*named("naive", "my own"))] == ["me/sums-naive", "me/sums-my-own"]
    for systems, message in (
        (["a b", "a-b"], "a b and a-b would both be me/sums-a-b"),
        (["labels"], "the labels and labels would both be"),
        (["x" * 96], "the Hub takes no repository"),
    ):
        with pytest.raises(ValueError, match=message):
            students(*named(*systems))


def test_without_an_account_nothing_starts(monkeypatch):
    def nobody(self):
        raise OSError("no token")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", nobody)
    with pytest.raises(ValueError, match="`push_to_hub`: the Hub does not say whose account this is; .*no token"):
        check_push(*named("naive"))
    check_push(*named("naive", push=None))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"push_to_hub": "sums"}, "`push_to_hub` is OWNER/NAME; got 'sums'"),
        ({"push_to_hub": "a/b/c"}, "`push_to_hub` is OWNER/NAME"),
        ({"push_to_hub": "me/sums"}, "`push_to_hub` needs the stage `report`"),
        ({"hub_license": "mit"}, "`hub_license` has no effect without `push_to_hub`"),
        ({"hub_private_repo": True}, "`hub_private_repo` has no effect without `push_to_hub`"),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        CompletionStudyConfig(stages=[], **given)
