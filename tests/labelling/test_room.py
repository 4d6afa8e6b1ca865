"""An answer that fits into one supervisor's context and not into another's is left out, counted, and stops nothing."""

import pytest
from datasets import Dataset

from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.preferences import build_preferences, preference_report
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble

PROMPTS = [f"USER: play jazz at {i} ASSISTANT:" for i in range(4)]
LONG = "tomorrow " * 12
RUN = {"num_candidates": 2, "max_new_tokens": 4, "batch_size": 2}


def data():
    return Dataset.from_list([{"example_id": f"e{i}", "prompt": prompt} for i, prompt in enumerate(PROMPTS)])


@pytest.fixture
def supervisors(build, monkeypatch):
    """The first gives a long answer to the second prompt; the other, which spells, cannot hold it."""
    first, other = build("gpt2", 0, "first"), build("llama", 1, "other")
    longest = max(len(p.ids) for p in other.encoder.prompts(PROMPTS))
    other.context = longest + 20
    real = first.answer

    def answer(prompts, *arguments, **options):
        made = real(prompts, *arguments, **options)
        return [[(LONG, True), *row[1:]] if p == PROMPTS[1] else row for p, row in zip(prompts, made, strict=True)]

    monkeypatch.setattr(first, "answer", answer)
    return [first, other]


def test_what_fits_is_scored_as_ever(supervisors):
    first, other = supervisors
    pairs = PROMPTS[:2], ["five", LONG]
    assert first.score_fitting(*pairs) == first.score(*pairs)
    assert other.score_fitting(*pairs) == [other.score(PROMPTS[:1], ["five"])[0], None]
    with pytest.raises(ValueError, match="no room for the completion"):
        other.score(*pairs)
    (p,), (five,) = other.encoder.prompts(PROMPTS[:1]), other.score(PROMPTS[:1], ["five"])
    other.context = len(p.ids) + len(five.token_ids)
    assert other.score_fitting(PROMPTS[:1], ["five"]) == [five]
    other.context -= 1
    assert other.score_fitting(PROMPTS[:1], ["five"]) == [None]
    assert other.score_fitting([], []) == []


def test_a_prompt_is_tokenised_once_for_all_its_candidates(supervisors, monkeypatch):
    supervisor, asked = supervisors[0], []
    real = supervisor.encoder.prompts
    monkeypatch.setattr(supervisor.encoder, "prompts", lambda p, n=None: asked.append(list(p)) or real(p, n))
    order = [0, 0, 1, 1, 1, 0]
    texts = ["five", "nine", "five", "nine", "ten", "ten"]
    read = supervisor.score([PROMPTS[i] for i in order], texts)
    assert asked == [[PROMPTS[0], PROMPTS[1], PROMPTS[0]]]
    for i, text, together in zip(order, texts, read, strict=True):
        (alone,) = supervisor.score([PROMPTS[i]], [text])
        assert alone.token_ids == together.token_ids and alone.logps == pytest.approx(together.logps, abs=1e-5)


@pytest.mark.parametrize("mode", ["independent", "joint"])
def test_labels_without_the_long_answer(supervisors, tmp_path, caplog, monkeypatch, mode):
    ensemble = WeakEnsemble(supervisors, [3, 1])
    rows = label_completions(ensemble, data(), mode, output_dir=tmp_path, **RUN)
    assert set(rows["example_id"]) == {"e0", "e1", "e2", "e3"} and LONG not in rows["completion"]
    assert "1 answers were left out: they are too long for the context of 'other'" in caplog.text
    assert "context of 'first'" not in caplog.text
    card = (tmp_path / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("| other |")]
    heads = next(row for row in card.splitlines() if "| too long for it |" in row)
    assert dict(zip(heads.split(" | "), line.split(" | "), strict=True))["too long for it"] == "1"
    own = [row for row in rows if row["example_id"] == "e1"]
    assert sum(sum(row["weak_weights"]) for row in own) == pytest.approx(1.0)
    if mode == "independent":
        assert [row["weak_supervisors"] for row in own] == [["other"]]
    for row in rows:
        assert row["weak_score"] == pytest.approx(ensemble.score([row["prompt"]], [row["completion"]])[0], abs=1e-5)
    planted = "row 1 (example_id 'e1'): 'first' gives other candidates by plain forward passes"
    assert set(verify_labels(ensemble, data(), tmp_path, mode, share=1, **RUN).different) <= {planted}
    for supervisor in supervisors:
        monkeypatch.setattr(supervisor, "score_fitting", None)
    assert label_completions(ensemble, data(), mode, output_dir=tmp_path, **RUN)[:] == rows[:], "kept, not read again"


def test_nothing_left_says_why(supervisors, monkeypatch):
    for supervisor in supervisors:
        monkeypatch.setattr(supervisor, "answer", lambda prompts, *a, **k: [[(LONG, True)] for _ in prompts])
    with pytest.raises(ValueError, match=r"too long for the context of \['other'\]; ask for fewer tokens"):
        label_completions(WeakEnsemble(supervisors), data(), **RUN)


def test_pairs_without_the_long_answer(build, supervisors, monkeypatch, caplog):
    student, real = build("opt", 3, "student"), build("opt", 3, "student").answer

    def answer(prompts, *arguments, **options):
        return [[*row, (LONG, True)] for row in real(prompts, *arguments, **options)]

    monkeypatch.setattr(student, "answer", answer)
    options = RUN | {"num_candidates": 3, "temperature": 1.0}
    pairs = build_preferences(student, WeakEnsemble(supervisors), data(), **options)
    report = preference_report(pairs)
    assert report["too_long"] == 4 and "'too_long': 4" in caplog.text
    assert len(pairs) and LONG not in [*pairs["chosen"], *pairs["rejected"]]
