"""Alternatives of a server: read from both forms, stored, and learnt by a student of another tokenizer."""

import math

import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk
from scripted_server import chat

from trl_weaks import alternatives_as_rows
from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.labelling.sources.token_logprobs import read_logprobs

EXAMPLES = [{"example_id": "1", "prompt": "play"}, {"example_id": "2", "prompt": "stop"}]
CHAT = {"example_id": "1", "prompt": [{"role": "user", "content": "play"}]}
TOP = ((" ja", -0.25, [(" ja", -0.25), (" ro", -2.0)]), ("zz", -0.5, [("zz", -0.5), ("", -2.5)]))
STORED = [[(" ja", -0.25), (" ro", -2.0)], [("zz", -0.5), ("", -2.5)]]


def answer(example="1", supervisor="api", tokens=TOP, text=" jazz", **more):
    logprobs = chat(text, tokens)["choices"][0]["logprobs"]
    return {"example_id": example, "supervisor": supervisor, "completion": text, "logprobs": logprobs, **more}


def pairs(top):
    return [[(a["token"], a["logp"]) for a in place] for place in top]


FORMS = {
    "chat": answer()["logprobs"],
    "completions": {
        "tokens": [" ja", "zz"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": [{" ro": -2.0, " ja": -0.25}, {"zz": -0.5, "": -2.5}],
    },
    "bytes": [
        {"token": "?", "bytes": list(b" ja"), "logprob": -0.25, "top_logprobs": [
            {"token": "?", "bytes": list(b" ja"), "logprob": -0.25},
            {"token": "?", "bytes": list("é".encode())[:1], "logprob": -1.0},  # half a character
            {"token": " ro", "logprob": -2.0}, {"token": "x", "logprob": -math.inf}]},
        {"token": "zz", "logprob": -0.5, "top_logprobs": [
            {"token": "zz", "logprob": -0.5}, {"token": "", "logprob": -2.5}]},
    ],
    "equal texts": [
        {"token": " ja", "logprob": -0.25, "top_logprobs": [
            {"token": " ro", "logprob": math.log(0.5 * math.exp(-2))}, {"token": " ja", "logprob": -0.25},
            {"token": " ro", "logprob": math.log(0.5 * math.exp(-2))}]},
        {"token": "zz", "logprob": -0.5, "top_logprobs": [
            {"token": "zz", "logprob": -0.5}, {"token": "", "logprob": -2.5}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_alternatives_of_both_forms_are_texts_with_their_log_probabilities(form):
    read = read_logprobs(FORMS[form], " jazz", "row")
    assert [[text for text, _ in place] for place in read.top] == [[text for text, _ in place] for place in STORED]
    for place, expected in zip(read.top, STORED, strict=True):
        assert [p for _, p in place] == pytest.approx([p for _, p in expected], abs=1e-12)


def test_no_alternatives_are_none():
    assert read_logprobs({"tokens": ["x"], "token_logprobs": [-1], "top_logprobs": None}, "x", "row").top is None
    assert read_logprobs(chat("jazz")["choices"][0]["logprobs"], "jazz", "row").top is None


@pytest.mark.parametrize(
    "top, message",
    [
        ([{"token": "x", "logprob": 0.5}], "an alternative of token 'x' has the log-probability 0.5"),
        ([{"token": "x", "logprob": math.nan}], "log-probability nan"),
        ([{"token": "x", "logprob": None}], "log-probability None"),
        ([{"token": "x"}], "neither texts nor a list of tokens"),
        ("xyz", "neither texts nor a list of tokens"),
    ],
)
def test_bad_alternatives(top, message):
    with pytest.raises(ValueError, match=message):
        read_logprobs([{"token": "x", "logprob": -1, "top_logprobs": top}], "x", "row")
    if message.startswith("an alt"):
        with pytest.raises(ValueError, match="2 tokens but 1 lists"):
            read_logprobs({"tokens": ["x", "y"], "token_logprobs": [-1, -1], "top_logprobs": [{}]}, "xy", "row")


def test_they_are_stored_beside_the_tokens(tmp_path):
    plain = {"example_id": "1", "supervisor": "ann", "completion": " jazz", "confidence": 0.5}
    labels = labels_from_completions(EXAMPLES, [answer(), plain, answer("2", finish_reason="length")])
    labels.save_to_disk(tmp_path / "labels")
    labels.to_parquet(tmp_path / "labels.parquet")
    for kept in (load_from_disk(str(tmp_path / "labels")), Dataset.from_parquet(str(tmp_path / "labels.parquet"))):
        one, two = kept
        assert one["weak_supervisors"] == ["ann", "api"] and one["weak_top_logps"][0] is None
        assert pairs(one["weak_top_logps"][1]) == [*STORED, []] and len(one["weak_offsets"][1]) == 3
        assert pairs(two["weak_top_logps"][0]) == STORED and len(two["weak_offsets"][0]) == 2, (
            "a cut answer has no end"
        )
    joined = labels_from_completions(EXAMPLES, [answer(supervisor="other", tokens=(), confidence=1.0)], labels=labels)
    assert [t and pairs(t) for t in joined[0]["weak_top_logps"]] == [None, [*STORED, []], None]
    assert "weak_top_logps" not in labels_from_completions(EXAMPLES, [plain]).column_names


def test_rows_continue_the_answer_and_leave_out_what_is_no_text():
    labels = labels_from_completions(EXAMPLES, [answer(), answer("2", "b")], weights={"api": 1, "b": 1})
    rows = alternatives_as_rows(labels)
    assert rows["example_id"][:] == ["1/api/0", "1/api/0", "1/api/1", "2/b/0", "2/b/0", "2/b/1"]
    assert rows["prompt"][:3] == ["play", "play", "play ja"] and rows["completion"][:3] == [" ja", " ro", "zz"]
    first = math.exp(-0.25) / (math.exp(-0.25) + math.exp(-2))
    assert [w for (w,) in rows["weak_weights"]] == pytest.approx([first, 1 - first, 1] * 2)
    assert rows["weak_supervisors"][:3] == [["api/0"], ["api/1"], ["api/0"]] and not any(rows["weak_finished"][:])
    assert rows["weak_logps"][:] == [[[0.0]]] * 6 and rows["weak_offsets"][1] == [[[0, 3]]]
    sure = alternatives_as_rows(labels, below=0.7)  # exp(-0.25) is 0.78, exp(-0.5) is 0.61
    assert sure["example_id"][:] == ["1/api/1", "2/b/1"]
    assert len(concatenate_datasets([labels, rows])) == 8


MARKS = ("<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "<turn|>", "</s>", "<eos>", "[EOS]", "<end_of_turn>",
         "<end_of_utterance>", "<endoftext>", "[SEP]", "[/INST]", " </s>", "[end of text]", "")  # fmt: skip


@pytest.mark.parametrize("end", [*MARKS, "###"])
def test_an_end_of_the_answer_is_no_text_to_learn_however_the_server_writes_it(end):
    """The student must not be taught to spell the mark: what is left is the share of the other alternatives."""
    top = [(end, -0.4), (".", -1.2), ("!", -2.0)]
    labels = labels_from_completions(
        EXAMPLES[:1], [answer(tokens=((" jazz", -0.1, []), (".", -1.2, top)), text=" jazz.")]
    )
    rows = alternatives_as_rows(labels, ends=["###"])
    assert rows["completion"][:] == [".", "!"] and rows["prompt"][:] == ["play jazz"] * 2
    assert [w for (w,) in rows["weak_weights"]] == pytest.approx([1 / (1 + math.exp(-0.8)), 1 / (1 + math.exp(0.8))])
    with pytest.raises(ValueError, match="give a list"):
        alternatives_as_rows(labels, ends="###")


@pytest.mark.parametrize(
    "text", ["<p>", "</div>", "[1]", "<span", "<", "|>", "<strong>", "s", " eos", "[x]", "\n", "<b>"]
)
def test_text_that_looks_like_a_mark_is_an_alternative(text):
    labels = labels_from_completions(
        EXAMPLES[:1], [answer(tokens=((" jazz", -1.0, [(text, -0.4), (" jazz", -1.0)]),))]
    )
    assert alternatives_as_rows(labels)["completion"][:] == [text, " jazz"]


def test_tokens_inside_a_character_are_left_out():
    half = list("é".encode())
    tokens = [
        {"token": "?", "bytes": half[:1], "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -2}]},
        {"token": "?", "bytes": half[1:], "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -2}]},
        {"token": "s", "logprob": -0.5, "top_logprobs": [{"token": "t", "logprob": -2}]},
    ]
    row = {"example_id": "1", "supervisor": "api", "completion": "és", "logprobs": tokens}
    rows = alternatives_as_rows(labels_from_completions(EXAMPLES, [row]))
    assert list(zip(rows["prompt"], rows["completion"], strict=True)) == [("play", "a"), ("playé", "t")]


@pytest.mark.parametrize(
    "labels, message",
    [
        (lambda: labels_from_completions(EXAMPLES, [answer(tokens=())]), "ask servers for alternatives"),
        (lambda: labels_from_completions([CHAT], [answer()]), "the prompt is messages"),
    ],
)  # fmt: skip
def test_what_has_no_alternatives_or_no_text_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        alternatives_as_rows(labels())
    with pytest.raises(ValueError, match="no token has alternatives and a probability below 0.1"):
        alternatives_as_rows(labels_from_completions(EXAMPLES, [answer()]), below=0.1)


def test_a_student_of_another_tokenizer_learns_what_the_server_said(build, tmp_path):
    """Their cross-entropy is least where the student's probabilities are the server's, of those it listed."""
    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer, WeakSupervisor

    student = build("llama")
    server = {" rock": 0.6, " root": 0.25, " hello": 0.1}
    a, b = student.tokenizer([" rock", " root"], add_special_tokens=False)["input_ids"]
    assert len(a) > 2 and a[0] == b[0] and a != b, "several tokens of the student, which begin alike"
    top = [(text, math.log(p)) for text, p in server.items()]
    labels = labels_from_completions(EXAMPLES[:1], [answer(tokens=((" rock", top[0][1], top),), text=" rock")])
    settings = WeakSupervisionConfig(
        str(tmp_path), max_steps=150, learning_rate=5e-3, per_device_train_batch_size=3, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", weak_loss="naive", gamma_max=0.0, lr_scheduler_type="cosine", seed=1,
    )  # fmt: skip
    trainer = WeakSupervisionTrainer(
        model=student.model,
        args=settings,
        train_dataset=alternatives_as_rows(labels),
        processing_class=student.tokenizer,
    )
    trainer.train()
    read = WeakSupervisor(student.model.eval(), student.tokenizer, "student")
    for text, p in server.items():
        (scored,) = read.score(["play"], [text])
        assert math.exp(math.fsum(scored.logps[:-1])) == pytest.approx(p / 0.95, abs=0.02), text


def test_they_train_beside_the_labels(build, tmp_path):
    """The stored column is carried past the trainer, and both kinds of rows are one dataset."""
    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

    student = build("gpt2")
    labels = labels_from_completions(EXAMPLES, [answer(), answer("2")])
    settings = WeakSupervisionConfig(
        str(tmp_path), max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1
    )
    both = concatenate_datasets([labels, alternatives_as_rows(labels)])
    trainer = WeakSupervisionTrainer(
        model=student.model, args=settings, train_dataset=both, processing_class=student.tokenizer
    )
    assert len(trainer.train_dataset) == len(both) == 8
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])


def test_alternatives_teach_as_much_as_their_example():
    labels = labels_from_completions(EXAMPLES, [answer()]).add_column("triage_weight", [0.25])
    assert set(alternatives_as_rows(labels)["triage_weight"]) == {0.25}


@pytest.mark.parametrize("said", ["<|>", "<||>", "[s]", "<im_width>", "<endofloop>", "<p>"])
def test_what_is_text_is_no_end(said):
    tokens = ((" ja", -0.25, [(" ja", -0.25), (said, -2.0)]), ("zz", -0.5, [("zz", -0.5)]))
    made = alternatives_as_rows(labels_from_completions(EXAMPLES, [answer(tokens=tokens)]))
    assert said in made["completion"][:]


def told(tokens):
    """Tokens, log-probabilities and alternatives in the form of chat completions."""
    return [
        {"token": t, "logprob": p, "top_logprobs": [{"token": a, "logprob": q} for a, q in top]}
        for t, p, top in tokens
    ]


def test_a_log_probability_that_is_not_told_is_none(caplog):
    """OpenAI's -9999 says that a token was not among the 20 most probable ones, and nothing else."""
    untold = told([("x", -0.1, [("x", -0.1), ("y", -9999.0)]), ("z", -9999.0, [("a", -0.3)])])
    example = {"example_id": "1", "supervisor": "api", "completion": "xz", "logprobs": untold}
    (row,) = labels_from_completions(EXAMPLES, [example])
    assert row["confidence_source"] == [None] and math.fsum(row["weak_logps"][0]) == 0
    assert "1 answers have a token whose log-probability is not told (-9999)" in caplog.text
    drawn = [example, example | {"completion": "other", "logprobs": None}, example]
    (row,) = labels_from_completions(EXAMPLES, drawn)
    assert row["confidence_source"] == ["samples"] and math.exp(row["weak_logps"][0][0]) == pytest.approx(2 / 3)
    read = read_logprobs(untold[:1], "x", "row")
    assert read.top == [[("x", -0.1)]] and read.logps == [-0.1]
    assert read_logprobs([*told([("\n", -9999.0, [])]), *untold[:1]], "x", "row").logps == [-0.1], "stripped"


@pytest.mark.parametrize("token", [" Paris", "\n Paris"])
def test_alternatives_lose_the_white_space_that_their_answer_lost(token):
    head = token.removesuffix("Paris")
    top = [(token, -0.2), (f"{head}London", -2.0), ("Rome", -3.0), (head, -4.0), ("</s>", -5.0)]
    given = {"example_id": "1", "supervisor": "api", "completion": "Paris", "logprobs": told([(token, -0.2, top)])}
    labels = labels_from_completions([{"example_id": "1", "prompt": "Capital: "}], [given])
    assert pairs(labels[0]["weak_top_logps"][0]) == [[("Paris", -0.2), ("London", -2.0)], []]
    rows = alternatives_as_rows(labels)
    said = [row["prompt"] + row["completion"] for row in rows]
    assert said == ["Capital: Paris", "Capital: London"]


def test_white_space_behind_an_answer_is_cut_from_alternatives_too():
    top = [("Paris\n", -0.5), ("Paris", -1.5), ("Rome.", -3.0), ("Oslo\n", -4.0), ("\n", -5.0)]
    read = read_logprobs(told([("Paris\n", -0.5, top)]), "Paris", "row")
    both = math.log(math.exp(-0.5) + math.exp(-1.5))
    assert read.top == [[("Paris", pytest.approx(both)), ("Rome.", -3.0), ("Oslo", -4.0)]]
