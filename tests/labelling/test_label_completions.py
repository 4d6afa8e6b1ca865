"""The dataset that labelling writes: columns, merging, joint choice, resuming, refusals."""

import errno
import math
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset

from trl_weaks import columns
from trl_weaks.aggregation.answers.completions import COMPLETION_AGGREGATORS, CompletionAggregator
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.storage.store import LabelStoreError
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

N = 10


@pytest.fixture(scope="module")
def prompts():
    return datasets.Dataset.from_dict(
        {
            "example_id": [f"e{i}" for i in range(N)],
            "prompt": [f"USER: play {'jazz ' * (i % 4)}at {i} ASSISTANT:" for i in range(N)],
            "gold": list(range(N)),
        }
    )


@pytest.fixture(scope="module")
def ensemble(build):
    return WeakEnsemble([build("neox", 1, "c"), build("gpt2", 0, "a"), build("gpt2", 0, "b")], [2, 1, 1])


@pytest.fixture(scope="module")
def independent(ensemble, prompts):
    return label_completions(ensemble, prompts, num_candidates=3, max_new_tokens=6)


@pytest.fixture(scope="module")
def joint(ensemble, prompts):
    return label_completions(ensemble, prompts, mode="joint", num_candidates=3, max_new_tokens=6)


@pytest.mark.parametrize("mode", ["independent", "joint"])
def test_rows_keep_the_contract(mode, independent, joint, ensemble, prompts):
    dataset = {"independent": independent, "joint": joint}[mode]
    assert dataset.column_names == [*columns.GENERATION, columns.SCORE, columns.FINISHED, "gold"]
    weights: dict[str, float] = {}
    by_name = dict(zip(ensemble.names, ensemble.supervisors, strict=True))
    for row in dataset:
        assert row["prompt"] == prompts[int(row["example_id"][1:])]["prompt"]
        assert row["gold"] == int(row["example_id"][1:])
        weights[row["example_id"]] = weights.get(row["example_id"], 0.0) + sum(row["weak_weights"])
        assert row["weak_supervisors"] == sorted(row["weak_supervisors"])
        (score,) = ensemble.score([row["prompt"]], [row["completion"]])
        assert row["weak_score"] == pytest.approx(score, abs=1e-5)
        for name, offsets, logps in zip(row["weak_supervisors"], row["weak_offsets"], row["weak_logps"], strict=True):
            (read,) = by_name[name].score([row["prompt"]], [row["completion"]])
            last = None if row["weak_finished"] else -1
            assert logps == pytest.approx(read.logps[:last], abs=1e-5) and max(logps) <= 0
            assert offsets == [list(span) for span in read.offsets[:last]]
            assert (offsets[-1] == [len(row["completion"])] * 2) == row["weak_finished"]
    assert weights.keys() == {f"e{i}" for i in range(N)}
    assert all(math.isclose(total, 1.0) for total in weights.values())


def test_independent_keeps_the_best_beam_of_each(independent, ensemble, prompts):
    best = {s.name: [c[0].text for c in s.generate(prompts["prompt"], 3, 6)] for s in ensemble.supervisors}
    rows = {(row["example_id"], row["completion"]): row["weak_supervisors"] for row in independent}
    assert len(rows) == len(independent), "one row per distinct completion"
    for name, texts in best.items():
        for i, text in enumerate(texts):
            assert not text or name in rows[f"e{i}", text]
    assert any(row["weak_supervisors"] == ["a", "b"] for row in independent), "twins share a row"


def test_joint_is_the_argmax_over_all_candidates(joint, ensemble, prompts):
    assert len(joint) == N
    for row, prompt in zip(joint, prompts["prompt"], strict=True):
        given: dict[str, list[str]] = {}
        for supervisor in ensemble.supervisors:
            for text in {c.text for c in supervisor.generate([prompt], 3, 6)[0]} - {""}:
                given.setdefault(text, []).append(supervisor.name)
        texts = sorted(given)
        scores = ensemble.score([prompt] * len(texts), texts)
        best = max(range(len(texts)), key=lambda i: (scores[i], -i))
        assert (row["completion"], row["weak_supervisors"]) == (texts[best], given[texts[best]])


def test_order_of_supervisors_and_rows_does_not_matter(ensemble, prompts, independent):
    turned = WeakEnsemble(ensemble.supervisors[::-1], ensemble.weights[::-1])
    assert label_completions(turned, prompts, num_candidates=3, max_new_tokens=6)[:] == independent[:]


def test_messages(build):
    supervisor = build("llama")
    supervisor.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    chat = [{"role": "user", "content": "play jazz"}]
    data = datasets.Dataset.from_dict({"example_id": ["x"], "prompt": [chat]})
    (row,) = label_completions(WeakEnsemble([supervisor]), data, num_candidates=3, max_new_tokens=4, unfinished="keep")
    assert row["prompt"] == chat and row["completion"][0]["role"] == "assistant"
    (read,) = supervisor.score(["<user>play jazz<assistant>"], [row["completion"][0]["content"]])
    assert row["weak_logps"][0][1:] != [] and len(row["weak_logps"][0]) == len(read.logps)
    talk = [*chat, {"role": "assistant", "content": "no"}]
    whole = datasets.Dataset.from_dict({"example_id": ["x"], "messages": [talk]})
    options = {"num_candidates": 3, "max_new_tokens": 4, "unfinished": "keep"}
    (again,) = label_completions(WeakEnsemble([supervisor]), whole, **options)
    assert again == row  # the last turn is asked for, and does not travel along


def test_second_call_computes_nothing(ensemble, prompts, tmp_path, monkeypatch, independent):
    first = label_completions(ensemble, prompts, num_candidates=3, max_new_tokens=6, output_dir=tmp_path)
    written = (tmp_path / "dataset" / "data-00000-of-00001.arrow").read_bytes()
    for supervisor in ensemble.supervisors:
        monkeypatch.setattr(supervisor, "answer", None)
        monkeypatch.setattr(supervisor, "score_fitting", None)
    again = label_completions(ensemble, prompts, num_candidates=3, max_new_tokens=6, output_dir=tmp_path)
    assert first[:] == again[:] == independent[:]
    assert written == (tmp_path / "dataset" / "data-00000-of-00001.arrow").read_bytes()


def test_changed_configuration_never_mixes(build, prompts, tmp_path):
    one, two = WeakEnsemble([build("gpt2", 0, "a")]), WeakEnsemble([build("gpt2", 5, "a")])
    arguments = {"num_candidates": 2, "max_new_tokens": 4}
    label_completions(one, prompts, **arguments, output_dir=tmp_path)
    for ensemble, changed in ((two, arguments), (one, arguments | {"max_new_tokens": 5}), (one, arguments)):
        reused = label_completions(ensemble, prompts, **changed, output_dir=tmp_path)
        assert reused[:] == label_completions(ensemble, prompts, **changed)[:]
    other = prompts.map(lambda row: {"prompt": row["prompt"] + " please"})
    assert (
        label_completions(one, other, **arguments, output_dir=tmp_path)[:]
        == label_completions(one, other, **arguments)[:]
    )


def test_damaged_lines_are_named_and_made_again(ensemble, prompts, tmp_path, caplog, independent):
    label_completions(ensemble, prompts, num_candidates=3, max_new_tokens=6, output_dir=tmp_path, batch_size=4)
    (shard,) = (tmp_path / "labels").glob("*.jsonl")
    lines = shard.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"e", b"f", 1)
    shard.write_bytes(b"".join(lines)[:-30])
    whole = (tmp_path / "dataset" / "data-00000-of-00001.arrow").read_bytes()
    label_completions(ensemble, prompts, num_candidates=3, max_new_tokens=6, output_dir=tmp_path, batch_size=4)
    assert f"{shard.name}, line 3: damaged" in caplog.text
    assert f"{shard.name}, line {len(lines)}: damaged" in caplog.text
    assert whole == (tmp_path / "dataset" / "data-00000-of-00001.arrow").read_bytes()


def test_empty_answers_are_left_out_and_counted(build, prompts, caplog):
    supervisor, other = build("gpt2", 0, "a"), build("neox", 1, "b")
    made = supervisor.answer
    supervisor.answer = lambda *args, **kwargs: [[("", True) for _ in row] for row in made(*args, **kwargs)]
    rows = label_completions(WeakEnsemble([supervisor, other], [3, 1]), prompts, num_candidates=2, max_new_tokens=4)
    assert f"{N} of {N} best answers of 'a' are empty" in caplog.text
    assert all(row["weak_supervisors"] == ["b"] and row["weak_weights"] == [1.0] for row in rows)
    with pytest.raises(ValueError, match="every completion is empty"):
        label_completions(WeakEnsemble([supervisor]), prompts, num_candidates=2, max_new_tokens=4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.remove_columns("prompt"), "no column 'prompt'"),
        (lambda d: d.rename_column("gold", "completion"), "already has a column 'completion'"),
        (lambda d: d.rename_column("gold", "weak_logps"), "already has a column 'weak_logps'"),
        (lambda d: d.rename_column("gold", "weak_finished"), "already has a column 'weak_finished'"),
        (lambda d: d.rename_column("gold", "tools"), "column 'tools' is read by TRL"),
        (lambda d: d.select([]), "no rows"),
        (lambda d: datasets.DatasetDict(train=d), "not a DatasetDict"),
        (lambda d: datasets.concatenate_datasets([d, d]), "rows 0 and 10: column 'example_id' repeats 'e0'"),
        (
            lambda d: d.map(lambda r: {"example_id": r["gold"] / 2}, features=None, remove_columns="example_id"),
            "row 0: .*holds 0.0; it must be a non-empty string",
        ),
        (
            lambda d: d.map(lambda r: {"messages": [{"role": "assistant", "content": "x"}]}, remove_columns="prompt"),
            "row 0: column 'messages' has nothing before the assistant's message",
        ),
        (lambda d: d.map(lambda r: {"prompt": r["prompt"] * (r["gold"] != 3)}), r"row 3 \(example_id 'e3'\): .*empty"),
        (
            lambda d: d.map(lambda r: {"prompt": r["prompt"] + "x" * 240 * (r["gold"] == 4)}),
            r"row 4 \(example_id 'e4'\): the prompt has \d+ tokens for supervisor 'a'",
        ),
    ],
)
def test_bad_datasets(ensemble, prompts, change, message):
    with pytest.raises(ValueError, match=message):
        label_completions(ensemble, change(prompts), num_candidates=3, max_new_tokens=6)


def test_mixed_prompts_name_the_row(ensemble):
    rows = [{"example_id": "a", "prompt": "text"}, {"example_id": "b", "prompt": [{"role": "user", "content": "x"}]}]
    features = datasets.Features({"example_id": datasets.Value("string"), "prompt": datasets.Json()})
    with pytest.raises(ValueError, match=r"row 1 \(example_id 'b'\): column 'prompt' mixes text and messages"):
        label_completions(ensemble, datasets.Dataset.from_list(rows, features=features))


def test_a_supervisor_of_nan_is_named_and_nothing_is_lost(build, prompts, tmp_path):
    good, broken = build("gpt2", 0, "a"), build("neox", 1, "broken")
    weight = broken.model.get_output_embeddings().weight
    whole = weight.detach().clone()
    weight.data[0, 0] = float("nan")
    arguments = {"num_candidates": 2, "max_new_tokens": 4, "output_dir": tmp_path, "batch_size": 4}
    with pytest.raises(ValueError, match=r"row \d+ \(example_id 'e\d'\): supervisor 'broken' gives a log-probability"):
        label_completions(WeakEnsemble([good, broken]), prompts, **arguments)
    assert any(shard.stat().st_size for shard in (tmp_path / "labels").glob("shard-*"))
    weight.data.copy_(whole)
    ensemble, asked = WeakEnsemble([good, broken]), []
    real, good.answer = good.answer, lambda p, *a, **k: asked.append(len(p)) or real(p, *a, **k)
    made = label_completions(ensemble, prompts, **arguments)
    assert sum(asked) == N - 4, "the first unit's answers of the sound supervisor were kept"
    assert made[:] == label_completions(ensemble, prompts, **arguments | {"output_dir": None})[:]


def test_a_disk_too_full_for_the_progress_is_reported_as_such(ensemble, prompts, tmp_path, monkeypatch):
    def full(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LabelStoreError, match="No space left on device. Everything labelled so far is kept"):
        label_completions(ensemble, prompts, num_candidates=3, max_new_tokens=6, output_dir=tmp_path)


def test_a_disk_too_full_for_the_card_is_reported_as_such(ensemble, prompts, tmp_path, monkeypatch):
    real = Path.write_text

    def full(self, *arguments, **options):
        if self.name == "README.md":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    message = "dataset card cannot be written to .*No space left on device. Everything labelled so far is kept"
    with pytest.raises(LabelStoreError, match=message):
        label_completions(ensemble, prompts, num_candidates=3, output_dir=tmp_path, max_new_tokens=6)


def test_bad_mode(ensemble, prompts):
    with pytest.raises(
        ValueError, match="mode='vote': no completion aggregator 'vote'.* Choose one of independent, joint"
    ):
        label_completions(ensemble, prompts, mode="vote")
    with pytest.raises(ValueError, match="batch_size=0"):
        label_completions(ensemble, prompts, batch_size=0)


def replaced(shard: Path, number: int) -> None:
    """Damage one line of a shard."""
    lines = shard.read_bytes().splitlines(keepends=True)
    lines[number] = lines[number].replace(b"e", b"f", 1)
    shard.write_bytes(b"".join(lines))


@pytest.mark.parametrize("mode", ["independent", "joint"])
def test_answers_made_again_with_another_text_are_read_again(build, prompts, tmp_path, monkeypatch, mode):
    """Another machine or batch may decide a near tie the other way; the kept readings are then of another text."""
    run = {"mode": mode, "num_candidates": 2, "max_new_tokens": 4, "batch_size": 5}
    ensemble = WeakEnsemble([build("gpt2", 0, "a"), build("neox", 1, "b")])
    label_completions(ensemble, prompts, **run, output_dir=tmp_path)
    (shard,) = (tmp_path / "labels").glob("*.jsonl")
    replaced(shard, 0)  # answers of "a" to one prompt
    first, real = ensemble.supervisors[0], ensemble.supervisors[0].answer
    monkeypatch.setattr(first, "answer", lambda *a, **k: [[(t + "!", f) for t, f in row] for row in real(*a, **k)])
    read, score = [], WeakSupervisor.score_fitting
    monkeypatch.setattr(WeakSupervisor, "score_fitting", lambda s, p, *a: read.append(len(set(p))) or score(s, p, *a))
    made = label_completions(ensemble, prompts, **run, output_dir=tmp_path)
    assert read == [5, 5], "the unit of the damaged line, by both supervisors; the other unit stays"
    assert any(text.endswith("!") for text in made["completion"])
    for row in made:
        (expected,) = ensemble.score([row["prompt"]], [row["completion"]])
        assert row["weak_score"] == pytest.approx(expected, abs=1e-5)
    read.clear()
    again = label_completions(ensemble, prompts, **run, output_dir=tmp_path)
    assert read == [] and again[:] == made[:]


PROMPTS = [
    {"example_id": str(i), "prompt": f"USER: play {w} ASSISTANT:"} for i, w in enumerate(("jazz", "some", "", "é"))
]


@pytest.mark.parametrize("unfinished", ["no_eos", "keep", "drop"])
@pytest.mark.parametrize("mode", ["independent", "joint"])
def test_answers_that_were_cut_are_what_was_asked_for(build, unfinished, mode, caplog):
    ensemble = WeakEnsemble([build("gpt2", seed=1), build("llama", seed=2)])
    for supervisor in ensemble.supervisors:  # the first answer of each is cut, the others end as they do
        head = supervisor.model.get_output_embeddings()
        with torch.no_grad():
            head.weight[supervisor.tokenizer.eos_token_id] *= 2
    answers = {s.name: s.answer([row["prompt"] for row in PROMPTS], 3, 8) for s in ensemble.supervisors}
    best = {(name, i): rows[i][0] for name, rows in answers.items() for i in range(len(PROMPTS))}
    cut = {key for key, (text, done) in best.items() if not done and text}
    assert cut and len(cut) < len(best), "the case needs both kinds"
    rows = label_completions(
        ensemble, Dataset.from_list(PROMPTS), mode=mode, num_candidates=3, max_new_tokens=8, unfinished=unfinished
    )
    assert f"{len(cut)} of {len(best)} best answers" in caplog.text
    by_example: dict[str, list[dict]] = {}
    for row in rows:
        by_example.setdefault(row["example_id"], []).append(row)
    for i, prompt in enumerate(PROMPTS):
        found = by_example.get(prompt["example_id"], [])
        if mode == "independent":
            expected = {}
            for name in ensemble.names:
                text, done = best[name, i]
                if text and (done or unfinished != "drop"):
                    expected.setdefault((text, done or unfinished == "keep"), []).append(name)
            assert {(r["completion"], r["weak_finished"]): r["weak_supervisors"] for r in found} == expected
            assert not found or sum(sum(r["weak_weights"]) for r in found) == pytest.approx(1)
        for row in found:
            ended = any(done for rows in answers.values() for text, done in rows[i] if text == row["completion"])
            assert row["weak_finished"] or unfinished == "no_eos" and (mode == "independent" or not ended)
            length = len(row["completion"])
            for name, spans, logps in zip(
                row["weak_supervisors"], row["weak_offsets"], row["weak_logps"], strict=True
            ):
                supervisor = next(s for s in ensemble.supervisors if s.name == name)
                scored = supervisor.score([prompt["prompt"]], [row["completion"]])[0]
                last = None if row["weak_finished"] else -1
                assert logps == pytest.approx(scored.logps[:last], abs=1e-4)
                assert (spans[-1] == [length, length]) == row["weak_finished"]


def test_labels_that_are_made_are_put_together_again_for_another_choice(build, tmp_path):
    """`unfinished` decides rows, not labels: nothing is asked or read again, and verify sees the difference."""
    ensemble = WeakEnsemble([build("gpt2", seed=1), build("llama", seed=2)])
    data = Dataset.from_list(PROMPTS)
    settings = {"num_candidates": 2, "max_new_tokens": 4, "output_dir": tmp_path}
    label_completions(ensemble, data, **settings)
    before = sorted(p.name for p in (tmp_path / "labels").glob("shard*"))
    kept = label_completions(ensemble, data, unfinished="keep", **settings)
    assert sorted(p.name for p in (tmp_path / "labels").glob("shard*")) == before
    assert all(kept["weak_finished"])
    arguments = {"num_candidates": 2, "max_new_tokens": 4, "share": 1.0}
    assert verify_labels(ensemble, data, tmp_path, unfinished="keep", **arguments).different == []
    assert verify_labels(ensemble, data, tmp_path, **arguments).different
    assert "cut at max_new_tokens" in (tmp_path / "README.md").read_text()


def test_an_unknown_choice_is_refused(build):
    with pytest.raises(ValueError, match="unfinished='cut' is not one of"):
        label_completions(WeakEnsemble([build("gpt2")]), Dataset.from_list(PROMPTS), unfinished="cut")


def test_an_aggregator_of_a_users_own_is_a_mode_like_the_others(ensemble, prompts, tmp_path, monkeypatch):
    def two_best(candidates):
        return sorted(candidates, key=lambda c: (-c.score, c.text))[:2]

    monkeypatch.setitem(COMPLETION_AGGREGATORS, "two_best", CompletionAggregator(two_best))
    arguments = {"num_candidates": 3, "max_new_tokens": 6}
    both = label_completions(ensemble, prompts, "two_best", output_dir=tmp_path, **arguments).to_list()
    best = {row["example_id"]: row for row in label_completions(ensemble, prompts, "joint", **arguments)}
    assert len(both) > len(best) == len({row["example_id"] for row in both})
    for example, row in best.items():
        rows = [other for other in both if other["example_id"] == example]
        assert (
            len(rows) <= 2
            and rows[0]["completion"] == row["completion"]
            and rows[0]["weak_score"] == row["weak_score"]
        )
        assert sum(w for other in rows for w in other["weak_weights"]) == pytest.approx(1)
    assert verify_labels(ensemble, prompts, tmp_path, "two_best", share=1.0, **arguments).different == []
    for name, chosen, message in (
        ("none", lambda c: [], "no cand"),
        ("twice", lambda c: [c[0], c[0]], "a candidate twice"),
    ):
        monkeypatch.setitem(COMPLETION_AGGREGATORS, name, CompletionAggregator(chosen))
        with pytest.raises(ValueError, match=rf"mode='{name}', row 0 \(example_id 'e0'\): .* chose {message}"):
            label_completions(ensemble, prompts, name, **arguments)
