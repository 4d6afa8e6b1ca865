"""Chats are read as their template writes them: white space trimmed, words put before an answer, refusals."""

import re
from pathlib import Path

import pytest
import templates
from datasets import Dataset

import trl_weaks
from trl_weaks import labels_from_completions, supervisor_report
from trl_weaks.aggregation.answers.completions import Answered, LeftOut, completion_aggregator, rows_of
from trl_weaks.aggregation.transforms import confidence
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.reading.chat import place
from trl_weaks.supervisors.reading.text import Encoder
from trl_weaks.viewer.from_labels import word_confidences

QUESTION = [{"role": "user", "content": "wake me up at nine"}]
TEXTS = ["five", " five", "five\n", "\n five pm  ", "think", "s", '{"time": "five pm"}', "  ", "", "<assistant>\nfive"]


def answer(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(params=["gpt2", "llama"])
def supervisor(build, request):
    found = build(request.param)
    if request.param == "gpt2":
        found.tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>"})
        found.model.resize_token_embeddings(len(found.tokenizer))
        found.encoder = Encoder(found.tokenizer, "x")
    return found


@pytest.mark.parametrize("name", templates.TEMPLATES)
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_training(supervisor, name, text):
    """TRL tokenises the rendered prompt and the rendered conversation; an answer ends with its end of turn."""
    tokenizer = supervisor.tokenizer
    tokenizer.chat_template = templates.TEMPLATES[name]
    (prompt,) = supervisor.encoder.prompts([QUESTION])
    (made,) = supervisor.encoder.completions([prompt], [text])
    whole = tokenizer.apply_chat_template([*QUESTION, answer(text)], tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if ids[: len(prompt.ids)] != prompt.ids:  # a space of the template's, at the end of the prompt for this tokenizer
        assert name == "spaced" and supervisor.name.startswith("llama")
        return
    last = max(i for i, token in enumerate(ids) if token == tokenizer.eos_token_id)
    assert prompt.ids + made.ids == ids[: last + 1]


@pytest.mark.parametrize("name", templates.TEMPLATES)
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_cover_the_text_and_name_its_characters(supervisor, name, text):
    tokenizer = supervisor.tokenizer
    tokenizer.chat_template = templates.TEMPLATES[name]
    (prompt,) = supervisor.encoder.prompts([QUESTION])
    (made,) = supervisor.encoder.completions([prompt], [text])
    assert len(made.ids) == len(made.offsets) and made.offsets[-1] == (len(text), len(text))
    end = 0
    for token, (start, stop) in zip(made.ids[:-1], made.offsets[:-1], strict=True):
        assert 0 <= start <= end <= stop <= len(text), "no gap, no way back"
        piece = tokenizer.decode([token]).strip()
        assert start == stop or piece in (text[start:stop], "<unk>") or piece == text[start:stop].strip()
        end = stop
    assert end == (len(text) if len(made.ids) > 1 else 0)


@pytest.mark.parametrize("text", [" five", "five\n"])
def test_trimmed_answers_score_as_what_is_left_of_them(supervisor, reference_logps, text):
    supervisor.tokenizer.chat_template = templates.TRIMS
    bare, spaced = supervisor.score([QUESTION] * 2, ["five", text])
    assert spaced.token_ids == bare.token_ids and spaced.logps == bare.logps
    (prompt,) = supervisor.encoder.prompts([QUESTION])
    assert spaced.logps == pytest.approx(reference_logps(supervisor, prompt.ids, spaced.token_ids), abs=1e-4)
    supervisor.tokenizer.chat_template = templates.KEEPS
    assert supervisor.score([QUESTION], [text])[0].token_ids != bare.token_ids


def test_a_template_that_rewrites_answers_has_no_place_for_them():
    def loud(messages):
        return "".join(m["content"].upper() for m in messages)

    assert place(loud, QUESTION, answer("five")) is None
    assert place(loud, QUESTION, answer("42")).kept == 2


def test_the_end_of_turn_is_found_by_a_prompt_that_the_template_takes(build):
    encoder = build("llama").encoder
    encoder.tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    encoder.tokenizer.chat_template = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
    )
    encoder.prompts([[{"role": "system", "content": "be brief"}, *QUESTION]])
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.eos_id(chat=True)) == "<end>"


def test_messages_that_the_template_refuses_name_their_row(build):
    one, other = build("gpt2", name="one"), build("llama", name="other")
    one.tokenizer.chat_template, other.tokenizer.chat_template = templates.KEEPS, templates.REFUSES
    rows = [{"example_id": "a", "prompt": QUESTION}]
    rows += [{"example_id": "b", "prompt": [{"role": "system", "content": "be brief"}, *QUESTION]}]
    message = r"row 1 \(example_id 'b'\): the chat template of supervisor 'other' refuses .*no system role, please"
    with pytest.raises(ValueError, match=message):
        label_completions(WeakEnsemble([one, other]), Dataset.from_list(rows), max_new_tokens=4)


def test_a_scorers_doubt_about_what_its_template_writes_is_none_about_the_answer(supervisor):
    """Rescored confidences are of the answer's tokens; before it the template opens a block of thoughts."""
    supervisor.tokenizer.chat_template = templates.THINKS
    example, text = {"example_id": "1", "prompt": QUESTION}, "at nine"
    answers = [{"example_id": "1", "supervisor": "api", "completion": text}]
    (row,) = labels_from_completions([example], answers, scorers=[supervisor])
    (read,) = supervisor.score([QUESTION], [text])
    own = [logp for span, logp in zip(read.offsets, read.logps, strict=True) if tuple(span) != (0, 0)]
    assert len(own) < len(read.logps) and sum(own) > sum(read.logps) + 0.1
    assert sum(row["weak_logps"][0]) == pytest.approx(sum(own), abs=1e-5)


def test_answers_are_judged_alike_whether_the_template_opens_with_its_block_or_writes_it_into_the_answer(supervisor):
    """The same tokens given the same tokens: only where the prompt ends differs, and a doubt shared by all answers
    would favour the long ones."""
    texts, made = ["at", "at nine in the evening"], []
    others = ["", "  "]
    for template in (templates.THINKS, templates.OPENS):
        supervisor.tokenizer.chat_template = template
        supervisor.encoder = Encoder(supervisor.tokenizer, "x")
        read = supervisor.score([QUESTION] * 2, texts)
        scores = {"x": {text: (found.offsets, found.logps) for text, found in zip(texts, read, strict=True)}}
        answered = Answered({"x": 1.0}, {"x": [(text, True) for text in texts]}, scores)
        (row,) = rows_of(answered, completion_aggregator("joint"), LeftOut())
        (card,) = supervisor_report(Dataset.from_list([{"example_id": "1"} | row])).supervisors
        words = word_confidences(row["completion"], row["weak_offsets"][0], row["weak_logps"][0])
        said = {"confidence": confidence(row | {"weak_score": None}), "score": row["weak_score"]}
        said |= dict(zip(others, [found.mean_logp for found in supervisor.score([QUESTION] * 2, others)], strict=True))
        said |= {"short": read[0].mean_logp, "long": read[1].mean_logp, "card": card["confidence"]}
        made.append((row["completion"], said | dict(words), len(read[0].logps)))
    (text, first, tokens), (same, second, fewer) = made
    assert tokens > fewer, "the block is in the answer, or in the prompt"
    assert text == same and first == pytest.approx(second, abs=1e-5)


def test_no_score_is_a_sum_over_what_the_template_wrote_too():
    """A guard: whoever adds up an answer's log-probabilities takes `logps_of_text` of them."""
    package = Path(trl_weaks.__file__).parent
    found = [path for path in package.rglob("*.py") if re.search(r"sum\(\w+\.logps\)", path.read_text("utf-8"))]
    assert [path.name for path in found] == []


def test_calibration_is_of_the_answer_and_not_of_what_the_template_wrote():
    """Stored labels with a doubtful block before the text, and without: the same confidence after it."""
    rows = [{"example_id": str(i), "prompt": f"q{i}"} for i in range(4)]
    gold, found = {str(i): f"a{i % 3}" for i in range(4)}, []
    for head in ([], [-1.5, -0.5]):
        stored = [
            row
            | {"completion": f"a{i}", "weak_supervisors": ["x"], "weak_weights": [1.0], "weak_finished": True}
            | {
                "weak_offsets": [[[0, 0]] * len(head) + [[0, 2], [2, 2]]],
                "weak_logps": [[*head, -0.1 * (i + 1), -0.05]],
            }
            for i, row in enumerate(rows)
        ]
        made = labels_from_completions(rows, [], labels=Dataset.from_list(stored), gold=gold)
        found.append([row["weak_logps"][0][len(head) :] for row in made])
        assert all(row["weak_logps"][0][: len(head)] == head for row in made)
    assert found[0] == [pytest.approx(one) for one in found[1]]
