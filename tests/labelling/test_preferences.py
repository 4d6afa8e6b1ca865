"""`build_preferences` with tiny models of three shapes and three tokenizers."""

import logging
import math

import pytest
from datasets import Dataset

from trl_weaks.labelling.preferences import build_preferences, preference_report
from trl_weaks.labelling.storage.store import LabelStoreError
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.scores import Scored
from trl_weaks.supervisors.supervisor import WeakSupervisor

PROMPTS = [f"USER: wake me up at {word} ASSISTANT:" for word in ("nine", "noon", "five pm", "seven", "midnight")]
SHORT = {"num_candidates": 4, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def student(build):
    return build("llama", seed=5, name="student")


@pytest.fixture(scope="module")
def ensemble(build):
    return WeakEnsemble([build("gpt2", 1), build("opt", 2), build("neox", 3)], [0.5, 0.2, 0.3])


def prompts(n=5):
    return Dataset.from_list([{"example_id": f"e{i}", "prompt": PROMPTS[i], "gold": i} for i in range(n)])


class Planted(WeakSupervisor):
    """A real supervisor whose answers, or whose readings, are planted."""

    def __init__(self, inner, answers=None, scores=None):
        super().__init__(inner.model, inner.tokenizer, inner.name)
        self.answers, self.scores, self.calls = answers, scores, []

    def answer(self, prompts, num_candidates=5, max_new_tokens=64, names=None, **more):
        self.calls.append(list(prompts))
        if self.answers is None:
            return super().answer(prompts, num_candidates, max_new_tokens, names, **more)
        return [[(text, True) for text in self.answers(p)] for p in prompts]

    def score_fitting(self, prompts, completions, names=None):
        self.calls.append(list(zip(prompts, completions, strict=True)))
        if self.scores is None:
            return super().score_fitting(prompts, completions, names)
        return [
            Scored([0, 0], [self.scores(p, c)] * 2, [(0, 0)] * 2) for p, c in zip(prompts, completions, strict=True)
        ]


def planted_ensemble(build, *scores, weights=None):
    shapes = ("gpt2", "opt", "neox")
    planted = [
        Planted(build(shape, 1, f"s{i}"), scores=s) for i, (shape, s) in enumerate(zip(shapes, scores, strict=False))
    ]
    return WeakEnsemble(planted, weights)


@pytest.fixture(scope="module")
def pairs(student, ensemble):
    return build_preferences(student, ensemble, prompts(), **SHORT)


def test_chosen_and_rejected_are_best_and_worst_by_brute_force(student, ensemble, pairs):
    answers = {
        p: [c.text for c in row if c.text] for p, row in zip(PROMPTS, student.generate(PROMPTS, 4, 8), strict=True)
    }
    assert len(pairs) >= 4
    for row in pairs:
        texts = sorted(set(answers[row["prompt"]]))
        joint = []
        for text in texts:
            total = 0.0
            for supervisor, weight in zip(ensemble.supervisors, ensemble.weights, strict=True):
                logps = supervisor.score([row["prompt"]], [text])[0].logps
                total += weight * sum(logps) / len(logps)
            joint.append(total)
        best, worst = max(joint), min(joint)
        if row["margin"] < 0:  # the supervisors' votes turned the pair round
            best, worst = worst, best
        assert (texts[joint.index(best)], texts[joint.index(worst)]) == (row["chosen"], row["rejected"])
        assert row["chosen_score"] == pytest.approx(best, abs=1e-4)
        assert row["rejected_score"] == pytest.approx(worst, abs=1e-4)
        assert row["margin"] == pytest.approx(best - worst, abs=1e-4)


def test_columns_and_report(pairs):
    assert {"example_id", "prompt", "gold", "chosen", "rejected"} < set(pairs.column_names)
    assert all(0 <= epsilon < 0.5 for epsilon in pairs["pair_epsilon"])
    assert sum(pairs["pair_weight"]) / len(pairs) == pytest.approx(1.0)
    report = preference_report(pairs)
    assert report["prompts"] == 5 and report["candidates"] == 20 and report["pairs"] == len(pairs)
    assert report["pairs"] + report["too_few"] + report["equal_scores"] + report["below_margin"] == 5
    assert report["mean_epsilon"] == pytest.approx(sum(pairs["pair_epsilon"]) / len(pairs))
    assert report["margin_quartiles"][0] == min(pairs["margin"]) and report["margin_quartiles"][4] == max(
        pairs["margin"]
    )


def test_order_of_supervisors_and_rows_changes_nothing(build, student, ensemble, pairs):
    turned = WeakEnsemble([build("neox", 3), build("gpt2", 1), build("opt", 2)], [0.3, 0.5, 0.2])
    again = build_preferences(student, turned, prompts().select([4, 2, 0, 1, 3]), **SHORT)
    by_id = {row["example_id"]: row for row in again}
    assert len(again) == len(pairs)
    for row in pairs:
        other = by_id[row["example_id"]]
        assert {k: other[k] for k in ("chosen", "rejected", "gold")} == {
            k: row[k] for k in ("chosen", "rejected", "gold")
        }
        for column in ("chosen_score", "rejected_score", "margin", "pair_epsilon", "pair_weight"):
            assert other[column] == pytest.approx(row[column], abs=1e-4)


@pytest.mark.parametrize("turn", range(4))
def test_planted_best_and_worst_are_found_wherever_they_stand(build, turn):
    quality = {" fine": -2.0, " best": -0.1, " worst": -9.0, " poor": -4.0}
    order = list(quality)[turn:] + list(quality)[:turn]
    student = Planted(build("llama", 0), answers=lambda p: order)
    scores = [lambda p, c, scale=scale: scale * quality[c] for scale in (1.0, 2.0, 0.5)]
    pairs = build_preferences(student, planted_ensemble(build, *scores), prompts(), num_candidates=4)
    assert pairs["chosen"] == [" best"] * 5 and pairs["rejected"] == [" worst"] * 5
    assert pairs["chosen_score"] == pytest.approx([-0.1 * 3.5 / 3] * 5)
    assert pairs["pair_epsilon"] == pytest.approx([0.1] * 5)  # they agree up to scale: the shared error is left


def test_disagreement_becomes_doubt_and_a_lost_vote_swaps(build):
    """One loud supervisor outweighs two by its raw margin; asked one by one, two of three prefer the other."""
    student = Planted(build("llama", 0), answers=lambda p: [" a", " b"])
    loud = lambda p, c: {" a": -1.0, " b": -31.0}[c]  # noqa: E731
    quiet = lambda p, c: {" a": -2.0, " b": -1.0}[c]  # noqa: E731
    pairs = build_preferences(student, planted_ensemble(build, loud, quiet, quiet), prompts(1), num_candidates=2)
    row = pairs[0]
    assert (row["chosen"], row["rejected"]) == (" b", " a") and row["margin"] < 0
    assert 0.3 < row["pair_epsilon"] < 0.5
    assert preference_report(pairs)["swapped"] == 1


def test_what_is_left_out_is_counted(build, caplog):
    answers = {
        PROMPTS[0]: [" a", " b", " a", " a"],  # duplicates
        PROMPTS[1]: [" a", " a", " a", " a"],  # one distinct candidate
        PROMPTS[2]: ["", " c", " d", " e"],  # an empty one, and equal scores
        PROMPTS[3]: [" c", " near", " d", " e"],  # below the margin
        PROMPTS[4]: ["", "", "", ""],
    }
    quality = {" a": -1.0, " b": -3.0, " c": -2.0, " d": -2.0, " e": -2.0, " near": -1.9}
    student = Planted(build("llama", 0), answers=answers.__getitem__)
    ensemble = planted_ensemble(build, *[lambda p, c: quality[c]] * 3)
    with caplog.at_level(logging.WARNING):
        pairs = build_preferences(student, ensemble, prompts(), num_candidates=4, min_margin=0.5)
    assert [(r["example_id"], r["chosen"], r["rejected"]) for r in pairs] == [("e0", " a", " b")]
    report = preference_report(pairs)
    assert {
        k: report[k] for k in ("candidates", "duplicates", "empty", "too_few", "equal_scores", "below_margin")
    } == {
        "candidates": 20,
        "duplicates": 5,
        "empty": 5,
        "too_few": 2,
        "equal_scores": 1,
        "below_margin": 1,
    }
    assert "1 pairs from 5 prompts" in caplog.text and "too_few" in caplog.text


def test_nothing_left_is_an_error_with_the_counts(build):
    student = Planted(build("llama", 0), answers=lambda p: [" a", " a"])
    with pytest.raises(ValueError, match="no pair is left of 5 prompts.*'too_few': 5"):
        build_preferences(student, planted_ensemble(build, lambda p, c: -1.0), prompts(), num_candidates=2)


def test_a_killed_run_resumes_to_the_same_pairs_without_redoing_work(build, student, ensemble, pairs, tmp_path):
    class Killed(Exception):
        pass

    class Mortal(Planted):
        lives = 2

        def score_fitting(self, *arguments):
            if self.lives == 0:
                raise Killed
            self.lives -= 1
            return super().score_fitting(*arguments)

    run = {"num_candidates": 3, "max_new_tokens": 4, "batch_size": 1}
    whole = build_preferences(student, ensemble, prompts(), **run)
    mortal = WeakEnsemble([Mortal(build("gpt2", 1)), build("opt", 2), build("neox", 3)], [0.5, 0.2, 0.3])
    with pytest.raises(Killed):
        build_preferences(student, mortal, prompts(), output_dir=tmp_path, **run)
    watched = Planted(student)
    resumed = build_preferences(watched, ensemble, prompts(), output_dir=tmp_path, **run)
    assert len(watched.calls) == 2  # of five; the third was answered before the kill
    assert resumed.to_list() == whole.to_list()
    idle = Planted(student)
    again = build_preferences(idle, ensemble, prompts(), output_dir=tmp_path, **run)
    assert idle.calls == [] and again.to_list() == whole.to_list()
    assert preference_report(again) == preference_report(whole)
    other = WeakEnsemble(ensemble.supervisors, [0.2, 0.2, 0.6])  # weights enter last: nothing is answered again
    build_preferences(idle, other, prompts(), output_dir=tmp_path, **run)
    assert idle.calls == []
    build_preferences(idle, ensemble, prompts(), output_dir=tmp_path, **{**run, "num_candidates": 2})
    assert len(idle.calls) == 5  # another configuration


def test_a_folder_that_cannot_be_written_keeps_the_candidates(student, ensemble, tmp_path):
    run = {"num_candidates": 3, "max_new_tokens": 4, "output_dir": tmp_path}
    (tmp_path / "dataset.new").write_text("in the way")
    with pytest.raises(LabelStoreError, match="pairs cannot be written.*labelled so far is kept"):
        build_preferences(student, ensemble, prompts(2), **run)
    (tmp_path / "dataset.new").unlink()
    idle = Planted(student)
    assert len(build_preferences(idle, ensemble, prompts(2), **run)) == 2
    assert idle.calls == []


def test_sampling_is_reproducible_and_leaves_the_random_state_alone(student, ensemble):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run = {**SHORT, "temperature": 1.0}
    one = build_preferences(student, ensemble, prompts(), seed=1, **run)
    assert torch.equal(torch.rand(1), expected)
    assert one.to_list() == build_preferences(student, ensemble, prompts(), seed=1, **run).to_list()
    assert one.to_list() != build_preferences(student, ensemble, prompts(), seed=2, **run).to_list()


def test_messages_stay_messages(build):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    supervisors = [build("llama", 5, "student"), build("gpt2", 1), build("opt", 2)]
    for supervisor in supervisors:
        supervisor.tokenizer.chat_template = template
    chat = Dataset.from_list([{"example_id": "a", "prompt": [{"role": "user", "content": "wake me at nine"}]}])
    pairs = build_preferences(supervisors[0], WeakEnsemble(supervisors[1:]), chat, **SHORT)
    assert pairs[0]["chosen"][0]["role"] == pairs[0]["rejected"][0]["role"] == "assistant"
    assert pairs[0]["chosen"][0]["content"] != pairs[0]["rejected"][0]["content"]


BAD = [
    ({"num_candidates": 1}, prompts, "num_candidates=1: a pair needs at least 2"),
    ({"temperature": 0.0}, prompts, "temperature=0.0 must be positive"),
    ({"temperature": math.nan}, prompts, "temperature=nan"),
    ({"min_margin": -1.0}, prompts, "min_margin=-1.0"),
    ({"shared_error": 0.5}, prompts, "shared_error=0.5"),
    ({"batch_size": 0}, prompts, "batch_size=0"),
    ({}, lambda: prompts().add_column("chosen", ["x"] * 5), "already has a column 'chosen'"),
    ({}, lambda: prompts().remove_columns("prompt"), "no column 'prompt'"),
    ({}, lambda: prompts().select([]), "no rows"),
    ({}, lambda: Dataset.from_list([{"example_id": "a", "prompt": "x"}] * 2), "repeats 'a'"),
    ({"max_new_tokens": 500}, prompts, "context"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_refused_before_any_work(case, student, ensemble):
    changes, dataset, message = BAD[case]
    watched = Planted(student)
    with pytest.raises(ValueError, match=message):
        build_preferences(watched, ensemble, dataset(), **{**SHORT, **changes})
    assert watched.calls == []


def test_answers_made_again_with_another_text_are_read_again(student, ensemble, tmp_path, monkeypatch):
    run = {"num_candidates": 3, "max_new_tokens": 4, "batch_size": 5}
    build_preferences(student, ensemble, prompts(), output_dir=tmp_path, **run)
    (shard,) = (tmp_path / "candidates").glob("*.jsonl")
    lines = shard.read_bytes().splitlines(keepends=True)
    assert sum(b'"stage":"generate"' in line for line in lines) == 5 and b'"stage":"score"' in lines[6]
    for number in (1, 6):  # an answer, and one supervisor's scores: the others' scores are of the old answer
        lines[number] = lines[number].replace(b"e", b"f", 1)
    shard.write_bytes(b"".join(lines))
    real = student.answer
    other = Planted(student, answers=lambda p: [text + "!" for text, _ in real([p], 3, 4)[0]])
    made = build_preferences(other, ensemble, prompts(), output_dir=tmp_path, **run)
    assert made.to_list() == build_preferences(other, ensemble, prompts(), **run).to_list()
