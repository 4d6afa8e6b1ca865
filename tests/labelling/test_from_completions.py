"""Answers from elsewhere: rows, weights and confidences against plain counting; a student that trains on them."""

import json
import math

import numpy as np
import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from scipy.optimize import minimize_scalar
from tiny import causal_lm

from trl_weaks import ServerSupervisor, WeakEnsemble
from trl_weaks.aggregation.answers.confidence import calibrator, most_frequent
from trl_weaks.inference.sampling import Sampling
from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.labelling.sources.token_logprobs import read_logprobs

EXAMPLES = [{"example_id": "007", "prompt": "play", "topic": "music"}, {"example_id": "7", "prompt": "stop"}]


def answer(example: str, supervisor: str, completion, **more) -> dict:
    return {"example_id": example, "supervisor": supervisor, "completion": completion, **more}


def test_equal_answers_share_a_row_and_weights_sum_to_one():
    labels = labels_from_completions(
        EXAMPLES,
        [
            answer("007", "eve", " jazz"),
            answer("007", "ann", " jazz"),
            answer("007", "bob", " rock"),
            answer("7", "bob", " ok"),
        ],
        weights={"ann": 1, "bob": 2, "eve": 1},
    )
    rows = {(row["example_id"], row["completion"]): row for row in labels}
    assert set(rows) == {("007", " jazz"), ("007", " rock"), ("7", " ok")}
    assert rows["007", " jazz"]["weak_supervisors"] == ["ann", "eve"]
    assert rows["007", " jazz"]["weak_weights"] == [0.25, 0.25]
    assert rows["007", " rock"]["weak_weights"] == [0.5] and rows["7", " ok"]["weak_weights"] == [1.0]
    assert rows["007", " jazz"]["topic"] == "music"


def test_the_order_of_answers_does_not_matter():
    given = [answer("007", n, t) for n, t in (("ann", " a"), ("bob", " b"), ("eve", " a"))] + [
        answer("7", "ann", " c")
    ]
    one = labels_from_completions(EXAMPLES, given).to_list()
    assert labels_from_completions(EXAMPLES, given[::-1]).to_list() == one


def test_each_source_of_confidence_in_its_order():
    spelled = {"content": [{"token": " ja", "logprob": -0.1}, {"token": "zz", "logprob": -0.2}]}
    labels = labels_from_completions(
        EXAMPLES,
        [
            answer("007", "a", " jazz", confidence=0.5, logprobs=spelled),
            answer("007", "b", " jazz", logprobs=spelled),
            *(answer("007", "c", text) for text in (" jazz", " jazz", " rock")),
            answer("007", "d", " jazz"),
        ],
    )
    (row,) = labels
    assert row["confidence_source"] == ["stated", "logprobs", "samples", None]
    sums = [math.exp(math.fsum(logps)) for logps in row["weak_logps"]]
    assert sums == pytest.approx([0.5, math.exp(-0.3), 2 / 3, 1.0])
    assert row["weak_offsets"][1] == [[0, 3], [3, 5], [5, 5]]
    assert all(spans[-1] == [5, 5] for spans in row["weak_offsets"])


@pytest.mark.parametrize(
    "reason",
    "length max_tokens MAX_TOKENS content_filter abort model_length model_context_window_exceeded SAFETY".split(),
)
def test_an_answer_that_was_cut_teaches_no_end(reason):
    labels = labels_from_completions(
        EXAMPLES,
        [answer("007", "a", " jazz", finish_reason=reason), answer("007", "b", " jazz", finish_reason="stop")],
    )
    by_end = {row["weak_finished"]: row for row in labels}
    assert by_end[False]["weak_offsets"] == [[[0, 5]]] and by_end[True]["weak_offsets"] == [[[0, 5], [5, 5]]]
    assert by_end[False]["weak_supervisors"] == ["a"]


def test_samples_converge_to_the_models_own_probability(build):
    """One new token, so that the exact distribution over texts is a sum over the vocabulary."""
    supervisor = build("llama", seed=3)
    prompt = "play some"
    (drawn,) = supervisor.answer([prompt], num_candidates=4000, max_new_tokens=1, sampling=Sampling(1.0, 1.0, 0))
    text, share = most_frequent([t for t, _ in drawn])
    ids = supervisor.tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        probs = supervisor.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    by_text: dict[str, float] = {}
    encoded = supervisor.encode([prompt], ["p"])[0]
    for token, p in enumerate(probs.tolist()):
        finished = token == supervisor.tokenizer.eos_token_id
        made = supervisor.encoder.decode(encoded, [token], finished)
        by_text[made] = by_text.get(made, 0.0) + p
    assert share == pytest.approx(by_text[text], abs=4 * math.sqrt(0.25 / 4000))


def test_scorers_read_what_has_no_confidence(build):
    scorers = [build("gpt2", seed=1), build("llama", seed=2)]
    examples = [{"example_id": "1", "prompt": "USER: play jazz ASSISTANT:"}]
    text = " at nine tomorrow"
    (row,) = labels_from_completions(examples, [answer("1", "api", text)], scorers=scorers)
    assert row["confidence_source"] == ["rescored"]
    sums = [math.fsum(s.score([examples[0]["prompt"]], [text])[0].logps) for s in scorers]
    assert math.fsum(row["weak_logps"][0]) == pytest.approx(sum(sums) / 2, abs=1e-5)
    for same in (WeakEnsemble(scorers), tuple(scorers)):
        assert labels_from_completions(examples, [answer("1", "api", text)], scorers=same).to_list() == [row]


@pytest.mark.parametrize("gold", [None, {"7": " play some jazz"}])
def test_a_cut_answer_is_not_charged_for_an_end(build, gold):
    """Its log-probabilities are those of its own tokens, as in rows of `label_completions`."""
    reader, text = build("gpt2"), " play some jazz"
    (score,) = reader.score([EXAMPLES[1]["prompt"]], [text])
    assert score.offsets[-1] == (len(text), len(text)) and score.logps[-1] < -0.5
    for reason, tokens in (("stop", score.logps), ("length", score.logps[:-1])):
        given = answer("7", "api", text) | {"finish_reason": reason}
        (row,) = labels_from_completions(EXAMPLES, [given], scorers=[reader], gold=gold, calibration="isotonic")
        assert row["weak_finished"] == (reason == "stop")
        assert ([len(text)] * 2 in row["weak_offsets"][0]) == row["weak_finished"]
        if gold is None:
            assert math.fsum(row["weak_logps"][0]) == pytest.approx(math.fsum(tokens), abs=1e-5)


def test_answers_too_long_for_every_scorer_are_counted(build, caplog):
    answers = [answer("007", "api", "x" * 1000), answer("7", "api", " jazz")]
    labels = labels_from_completions(EXAMPLES, answers, scorers=build("gpt2"))
    assert labels["confidence_source"][:] == [[None], ["rescored"]]
    assert "1 of 2 answers without a confidence are too long for every scorer" in caplog.text


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_is_per_supervisor_and_keeps_the_shape_of_an_answer(method):
    rng = np.random.default_rng(0)
    n = 600
    examples = [{"example_id": str(i), "prompt": f"p{i}"} for i in range(n)]
    right = rng.random(n) < 0.6
    answers = [answer(str(i), "bold", " yes" if r else " no", confidence=0.99) for i, r in enumerate(right)]
    answers += [answer(str(i), "fair", " yes" if r else " no", confidence=0.6) for i, r in enumerate(right)]
    gold = {str(i): " yes" for i in range(n)}
    labels = labels_from_completions(examples, answers, gold=gold, calibration=method)
    for row in labels.select(range(5)):
        assert [math.exp(math.fsum(logps)) for logps in row["weak_logps"]] == pytest.approx(
            [right.mean()] * 2, abs=0.02
        )


def test_temperature_against_a_plain_search():
    rng = np.random.default_rng(1)
    stated = rng.uniform(0.05, 0.99, 300)
    correct = rng.random(300) < 1 / (1 + np.exp(-np.log(stated / (1 - stated)) / 2.5))

    def loss(temperature: float) -> float:
        p = [1 / (1 + math.exp(-math.log(c / (1 - c)) / temperature)) for c in stated]
        return -sum(math.log(q) if r else math.log(1 - q) for q, r in zip(p, correct, strict=True))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    fitted = calibrator(stated, correct)
    assert fitted(0.9) == pytest.approx(1 / (1 + math.exp(-math.log(9) / best)), abs=1e-5)


def test_isotonic_pools_violators_by_hand():
    fitted = calibrator([0.2, 0.4, 0.6, 0.6, 0.8], [0, 1, 0, 0, 1], "isotonic")
    assert fitted(0.2) == pytest.approx(1 / 7)  # 0, kept 1 / (5 + 2) away
    assert fitted(0.4) == fitted(0.6) == pytest.approx(1 / 3)  # 1, 0 and 0 together
    assert fitted(0.9) == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    "logprobs",
    [
        {
            "content": [
                {"token": "h\\xc3", "bytes": [104, 195], "logprob": -1},
                {"token": "\\xa9", "bytes": [169], "logprob": -2},
            ]
        },
        {"tokens": ["\n", "hé", "<|im_end|>"], "token_logprobs": [-0.5, -3, -0.25]},
        json.dumps([{"token": " hé", "logprob": -3}]),
    ],
)
def test_both_forms_of_log_probabilities_are_placed(logprobs):
    read = read_logprobs(logprobs, "hé", "row")
    assert all(0 <= a <= b <= 2 for a, b in read.offsets)
    inside = [p for (a, _), p in zip(read.offsets, read.logps, strict=True) if a < 2]
    assert math.fsum(inside) == -3
    assert (len(read.offsets) > len(inside)) == ("im_end" in str(logprobs))


def test_a_student_trains_on_them(tmp_path, build):
    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

    tokenizer = build("gpt2").tokenizer
    student = causal_lm("llama", len(tokenizer), inner=16)
    labels = labels_from_completions(EXAMPLES, [answer("007", "a", " jazz", confidence=0.5), answer("7", "a", " ok")])
    settings = WeakSupervisionConfig(
        str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1
    )
    trainer = WeakSupervisionTrainer(model=student, args=settings, train_dataset=labels, processing_class=tokenizer)
    trainer.train()
    # soft-label probability of the emitted token: each answer's confidence is shared among its tokens
    assert 0.5 < trainer.state.log_history[0]["weak/confidence"] < 1


BAD = [
    (EXAMPLES[:1] * 2, [answer("007", "a", "x")], {}, "'007' is there twice"),
    ([{"example_id": "1"}], [answer("1", "a", "x")], {}, "examples, row 0: there is no column 'prompt'"),
    ([{"example_id": "", "prompt": "p"}], [answer("1", "a", "x")], {}, "column 'example_id' holds ''"),
    ([{"example_id": "1", "prompt": ""}], [answer("1", "a", "x")], {}, "column 'prompt' is empty"),
    ([{"example_id": "1", "prompt": "p", "completion": 1}], [answer("1", "a", "x")], {}, "a column 'completion'"),
    (EXAMPLES, [], {}, "answers: there are no rows"),
    (EXAMPLES, [{"example_id": "7", "completion": "x"}], {}, "answers, row 0: there is no column 'supervisor'"),
    (EXAMPLES, [answer("8", "a", "x")], {}, "answers, row 0: no example has the id '8'"),
    (EXAMPLES, [answer("7", "a", 5)], {}, "must be a string or a list of one message"),
    (EXAMPLES, [answer("7", "a", None)], {}, "every answer is empty or an abstention"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0)], {}, "column 'confidence' holds 0"),
    (EXAMPLES, [answer("7", "a", "x", confidence=1.2)], {}, "column 'confidence' holds 1.2"),
    (EXAMPLES, [answer("7", "a", "x", confidence="high")], {}, "column 'confidence' holds 'high'"),
    (EXAMPLES, [answer("7", "a", "x", confidence=True)], {}, "holds True"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0.5)] * 2, {}, "2 times and states a confidence"),
    (EXAMPLES, [answer("7", "a", "x", logprobs={"tokens": ["y"], "token_logprobs": [-1]})], {},
     r"answers, row 0 .example_id '7'.: the tokens .* spell 'y', which"),
    (EXAMPLES, [answer("7", "a", "x", logprobs={"tokens": ["x"], "token_logprobs": [1]})], {}, "log-probability 1"),
    (EXAMPLES, [answer("7", "a", "x", logprobs={"tokens": ["x"], "token_logprobs": [None]})], {}, "bility None"),
    (EXAMPLES, [answer("7", "a", "x", logprobs={"tokens": ["x"], "token_logprobs": []})], {}, "1 tokens but 0"),
    (EXAMPLES, [answer("7", "a", "x", logprobs={"top": 1})], {}, "none of the two forms"),
    (EXAMPLES, [answer("7", "a", "x")], {"weights": {"b": 1}}, "weights: unknown supervisors"),
    (EXAMPLES, [answer("7", "a", "x")], {"weights": {"a": 0}}, "supervisor 'a' has 0"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0.5)], {"gold": {"9": "x"}}, "gold has the id '9'"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0.5)], {"gold": {"007": "x"}}, "gold has no example"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0.5)], {"gold": {"7": "x"}, "calibration": "platt"}, "'platt'"),
    (EXAMPLES, [answer("7", "a", "\ud83d")], {}, r"answers, row 0 .example_id '7'.: column 'completion' holds"),
    (EXAMPLES, [answer("7", "a", [{"role": "assistant", "content": "\ude00"}])], {}, "column 'completion' holds"),
    (EXAMPLES, [answer("7", "a", "x", logprobs=[{"token": "\ud83d", "logprob": -1}])], {},
     r"answers, row 0 .example_id '7'.: column 'logprobs' has the token '.ud83d', which holds half"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0.5)], {"gold": {"7": "\ud83d"}}, "gold: the label of '7' holds"),
    ([{"example_id": "1", "prompt": "p"}, {"example_id": "2", "prompt": [{"role": "user", "content": "p"}]}],
     [answer("1", "a", "x")], {}, r"examples, row 1 .example_id '2'.: column 'prompt' mixes text and messages"),
    ([{"example_id": "1", "prompt": [{"role": "user"}]}], [answer("1", "a", "x")], {}, "row 0 .*holds a list"),
    ([{"example_id": "1", "prompt": {"role": "user", "content": "p"}}], [answer("1", "a", "x")], {}, "holds a dict"),
    ([{"example_id": "1", "prompt": [{"role": "user", "content": None}]}], [answer("1", "a", "x")], {},
     "row 0 .*column 'prompt' has a message whose content is None, which is no text"),
    ([{"example_id": "1", "prompt": [{"role": "assistant", "content": "p"}]}], [answer("1", "a", "x")], {},
     "ends with an assistant message"),
    (EXAMPLES, [answer("7", "a", "x")], {"scorers": ["small"]}, "scorers: 'small' cannot read the answers of others"),
    (EXAMPLES, [answer("7", "a", "x")], {"scorers": "small"}, "scorers: 'small' cannot read"),
    (EXAMPLES, [answer("7", "a", "x", confidence=0.5)], {"scorers": [ServerSupervisor("http://localhost:9/v1", "m")]},
     "scorers: a ServerSupervisor cannot read the answers of others; give a list of local models"),
    ({"a": 1}, [answer("7", "a", "x")], {}, "is a dict"),
    ("nowhere.csv", [answer("7", "a", "x")], {}, "no such file"),
]  # fmt: skip


def test_abstentions_among_several_answers_are_counted(caplog):
    """Two of ten samples that are equal are not sure of anything; an abstention by itself is nothing to tell."""
    samples = [*(answer("007", "s", " jazz") for _ in range(2)), *(answer("007", "s", None) for _ in range(8))]
    labels_from_completions(EXAMPLES, [*samples, answer("7", "s", None), answer("7", "ann", " ok")])
    assert "8 abstentions are left out of a supervisor's several answers" in caplog.text
    caplog.clear()
    labels_from_completions(EXAMPLES, [answer("7", "s", None), answer("7", "ann", " ok")])
    assert not caplog.text.count("abstentions")


def test_answers_that_look_alike_are_counted(caplog):
    texts = {"a": " é", "b": " e\N{COMBINING ACUTE ACCENT}", "c": "é", "d": "x"}
    answers = [answer("1", name, text) for name, text in texts.items()]
    assert len(labels_from_completions([{"example_id": "1", "prompt": "p"}], answers)) == 4
    assert "2 answers differ from another one" in caplog.text


@pytest.mark.parametrize(
    "end, mine", [("<|im_end|>", True), (" </s>\n", True), ("[EOS]", True), ("is", False), (".", False)]
)
def test_only_a_mark_of_the_end_may_stand_behind_the_text(end, mine):
    """Of 'Paris' the answer 'Par' is a part, whose end nobody gave a probability."""
    said = [{"token": "Par", "logprob": -1.0}, {"token": end, "logprob": -0.5}]
    if mine:
        assert read_logprobs(said, "Par", "row").offsets == [[0, 3], [3, 3]]
    else:
        with pytest.raises(
            ValueError, match="row: the tokens of the log-probabilities spell 'Par.*, which is not 'Par'"
        ):
            read_logprobs(said, "Par", "row")


@pytest.mark.parametrize(
    "logprobs, message",
    [
        ("{bad", "row: column 'logprobs' is not JSON"),
        ([{"token": "Par", "logprob": -1, "bytes": [300]}], "row: column 'logprobs' is malformed .the bytes of token"),
    ],
)
def test_half_a_json_and_no_bytes_are_named(logprobs, message):
    with pytest.raises(ValueError, match=message):
        read_logprobs(logprobs, "Par", "row")


GOLD_ROWS = [{"example_id": 1, "completion": 5}]


@pytest.mark.parametrize(
    "table", [list, pandas.DataFrame, Dataset.from_list, lambda rows: {1: 5}, lambda rows: {"1": "5"}]
)
def test_gold_is_any_table(table):
    answers = [answer("1", "a", "5", confidence=0.6)]
    (row,) = labels_from_completions([{"example_id": 1, "prompt": "p"}], answers, gold=table(GOLD_ROWS))
    assert sum(row["weak_logps"][0]) > math.log(0.9), "it is right, so its confidence rises"


def test_halves_of_a_character_among_the_tokens_are_read_by_their_bytes():
    """A server that counts in UTF-16 shows halves as lone surrogates; alternatives that are halves have no row."""
    smile = "\N{GRINNING FACE}".encode()
    halves = [
        {
            "token": "\ud83d",
            "logprob": -0.5,
            "bytes": list(smile[:2]),
            "top_logprobs": [{"token": "\ud83d", "logprob": -0.5}],
        },
        {"token": "\ude00", "logprob": -0.1, "bytes": list(smile[2:])},
    ]
    (row,) = labels_from_completions(
        [{"example_id": "1", "prompt": "p"}], [answer("1", "a", "\N{GRINNING FACE}", logprobs=halves)]
    )
    assert row["weak_logps"][0][:2] == [-0.5, -0.1] and "weak_top_logps" not in row


def test_gold_that_is_no_text_is_named():
    with pytest.raises(ValueError, match="gold answer None of '1' is no text"):
        labels_from_completions([{"example_id": 1, "prompt": "p"}], [answer("1", "a", "x")], gold={"1": None})


@pytest.mark.parametrize("examples, answers, options, message", BAD)
def test_bad_input(examples, answers, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        labels_from_completions(examples, answers, **options)


def test_tables_of_every_kind_give_the_same(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [answer("007", "a", " jazz", confidence=0.5), answer("7", "b", "stop, now")]
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    frame.to_parquet(tmp_path / "a.parquet")
    expected = labels_from_completions(EXAMPLES, rows).to_list()
    for table in (frame, Dataset.from_list(rows), tmp_path / "a.csv", tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        assert labels_from_completions(EXAMPLES, table).to_list() == expected


def test_calibration_of_an_answer_that_is_hardly_believed():
    """A temperature near 0 makes odds that no number holds: the label is finite all the same."""
    fitted = calibrator([0.9, 0.8, 0.7], [1, 1, 1])
    assert 0 < fitted(1e-12) < 1e-300 and fitted(0.9) > 0.999
    surely = [answer(str(i), "ann", " yes", confidence=0.9) for i in range(5)]
    rows = [{"example_id": str(i), "prompt": "p"} for i in range(6)]
    labels = labels_from_completions(
        rows, [*surely, answer("5", "ann", " no", confidence=1e-11)], gold={str(i): "yes" for i in range(5)}
    )
    assert math.isfinite(labels[5]["weak_logps"][0][0]) and labels[5]["weak_logps"][0][0] < -300


def test_carried_columns_are_kept_whole():
    """A column that the first example lacks, and the types of a `Dataset`; texts with line separators inside."""
    later = [{"example_id": "a", "prompt": "p"}, {"example_id": "b", "prompt": "p", "topic": "t"}]
    given = [answer("a", "ann", " x"), answer("b", "ann", " x")]
    assert labels_from_completions(later, given)["topic"][:] == [None, "t"]
    features = Features(
        {"example_id": Value("int64"), "prompt": Value("string"), "label": ClassLabel(names=["no", "yes"])}
    )
    typed = Dataset.from_dict({"example_id": [7, 8], "prompt": ["p", "p"], "label": [1, 0]}, features=features)
    labels = labels_from_completions(typed, [answer("7", "ann", " x")])
    assert labels.features["label"] == features["label"] and labels[0]["label"] == 1
    assert labels.features["example_id"] == Value("string") and labels["example_id"][:] == ["7"]


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0c", "\u2029"])
def test_lines_of_json_end_at_line_ends_alone(tmp_path, odd):
    path = tmp_path / "examples.jsonl"
    lines = [json.dumps({"example_id": i, "prompt": f"p{odd}q"}, ensure_ascii=False) for i in "ab"]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\n", encoding="utf-8", newline="")
    labels = labels_from_completions(path, [answer("a", "ann", " x"), answer("b", "ann", " x")])
    assert labels["prompt"][:] == [f"p{odd}q"] * 2


@pytest.mark.parametrize("reasons", [["length", "stop"], ["stop", "length"]])
def test_of_equal_samples_one_that_ended_is_believed(reasons):
    (row,) = labels_from_completions(EXAMPLES, [answer("7", "ann", " x", finish_reason=reason) for reason in reasons])
    assert row["weak_finished"] and row["weak_offsets"] == [[[0, 2], [2, 2]]]
