"""Preparing rows in batches is preparing them one at a time, whatever columns travel with them."""

import copy
import json
import math

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.trainer.completions.preparation import TEXT, prepare_rows, student_offsets


def prepared(student, tokenizer, arguments, rows: Dataset) -> Dataset:
    trainer = WeakSupervisionTrainer(
        model=student(), args=WeakSupervisionConfig(**arguments), train_dataset=rows, processing_class=tokenizer
    )
    return trainer.train_dataset


def test_a_batch_is_its_rows_one_by_one(student, weak_rows, tokenizer, arguments):
    weak_rows[0]["completion"] = weak_rows[0]["completion"].replace("five", "fünf 🕔")
    end = len(weak_rows[0]["completion"])
    weak_rows[0] |= {"weak_offsets": [[[0, end], [end, end]]], "weak_logps": [[-0.5, -0.1]]}
    together = prepared(student, tokenizer, arguments, Dataset.from_list(weak_rows))
    for number, row in enumerate(weak_rows):
        offsets = tokenizer(row["prompt"] + row["completion"] + "<eos>", return_offsets_mapping=True)["offset_mapping"]
        alone = {name: [values] for name, values in together[number].items()} | {TEXT: [row["completion"]]}
        ((ids, found),) = student_offsets([together[number]], [row["completion"]], tokenizer, None)
        assert ids == together[number]["input_ids"]
        start, end = len(row["prompt"]), len(row["completion"])
        assert found == [tuple(min(max(edge - start, 0), end) for edge in span) for span in offsets]
        again = prepare_rows(alone, tokenizer, None, "word", "confidence")
        assert again["weak_unit_ids"] == [together[number]["weak_unit_ids"]]
        assert again["weak_unit_logps"] == [together[number]["weak_unit_logps"]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("split", ["uniform", "eq8"])
def test_a_prompt_without_tokens_leaves_the_first_token_to_nobody(student, arguments, perfect, split, packed):
    """The tokenizer drops the prompt "\\n": nothing predicts the answer's first token, which counts in no mean.

    Of "abcd" = "ab", "##cd" the second token keeps its own half of -0.6; "ef" has all of its -0.2.
    """
    vocabulary = {"<pad>": 0, "<unk>": 1, "<eos>": 2, "ab": 3, "##cd": 4, "ef": 5}
    raw = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")
    rows = [
        perfect[number] | {"prompt": prompt, "completion": "abcd ef", "weak_offsets": [[[0, 4], [4, 7], [7, 7]]]}
        for number, prompt in enumerate(["\n", "ef ef "])
    ]
    rows = [row | {"weak_logps": [[-0.6, -0.2, -0.4]], "weak_weights": [1.0]} for row in rows]
    given = arguments | {"confidence_split": split, "max_length": 16, "packing": packed, "confidence_unit": "span"}
    found = prepared(student, words, given, Dataset.from_list(rows))
    (first, second) = list(found) if not packed else [
        {"weak_unit_logps": found[0]["weak_unit_logps"][a:b], "weak_unit_ids": found[0]["weak_unit_ids"][a:b]}
        for a, b in ((6, 10), (0, 6))
    ]  # fmt: skip
    assert first["weak_unit_ids"] == [-1, 0, 1, 2] and second["weak_unit_ids"] == [-1, -1, 0, 0, 1, 2]
    half = -0.3 if split == "uniform" else -0.6 + math.log(0.5)
    assert [logps[0] for logps in first["weak_unit_logps"]] == pytest.approx([0.0, half, -0.2, -0.4])
    assert [logps[0] for logps in second["weak_unit_logps"]] == pytest.approx([0.0, 0.0, -0.6, -0.6, -0.2, -0.4])


def test_columns_of_the_user_and_a_selection_of_rows_stay_in_place(student, perfect, tokenizer, arguments):
    order = [5, 2, 7, 0]
    named = perfect.add_column("source", [str(number) for number in range(len(perfect))])
    found = prepared(student, tokenizer, arguments, named.select(order))
    assert found["source"] == [str(number) for number in order]
    for row, number in zip(found, order, strict=True):
        assert row["completion"].removesuffix("<eos>") == perfect[number]["completion"]
        assert row["weak_offsets"] == perfect[number]["weak_offsets"]
        assert sum(unit >= 0 for unit in row["weak_unit_ids"]) == sum(label != -100 for label in row["labels"])


def test_an_error_names_the_example_of_its_row(student, weak_rows, tokenizer, arguments):
    weak_rows[7]["weak_offsets"] = [[[0, 9999]] for _ in weak_rows[7]["weak_supervisors"]]
    weak_rows[7]["weak_logps"] = [[-0.1] for _ in weak_rows[7]["weak_supervisors"]]
    with pytest.raises(ValueError, match=f"{weak_rows[7]['example_id']!r}"):
        prepared(student, tokenizer, arguments, Dataset.from_list(weak_rows))


TEMPLATE = """{%- if tools %}{% for tool in tools %}tool {{ tool.function.name }}: {{ tool.function.description }}
{% endfor %}{% endif -%}
{% for message in messages %}{{ message.content }}{% if message.role == "assistant" %}<eos>{% endif %}{% endfor %}"""
TOOLS = [{"type": "function", "function": {"name": "alarm", "description": "wakes"}}]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "text"])
def test_tools_are_rendered_as_trl_renders_them(student, perfect, tokenizer, arguments, tools):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = TEMPLATE
    rows = [
        row
        | {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
            "tools": tools,
        }
        for row in perfect
    ]
    with_tools = prepared(student, chat, arguments, Dataset.from_list(rows))
    without = prepared(student, chat, arguments, Dataset.from_list(rows).remove_columns("tools"))
    for ours, plain in zip(with_tools, without, strict=True):
        added = len(ours["input_ids"]) - len(plain["input_ids"])
        assert chat.decode(ours["input_ids"][:added]) == "tool alarm: wakes\n"
        for column in ("input_ids", "labels", "weak_unit_ids", "weak_unit_logps"):
            assert ours[column][added:] == plain[column]


TRIMS = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


@pytest.mark.parametrize("unit", ["word", "span"])
@pytest.mark.parametrize("text", [" five pm", "five pm\n", "\n five pm  ", "   "])
def test_white_space_that_the_template_trims_keeps_its_confidence(student, tokenizer, arguments, unit, text):
    """Llama 3's and Gemma's templates trim. Nothing of a supervisor's log-probability may be lost with the space."""
    spans = [[i, i + 1] for i in range(len(text))] + [[len(text)] * 2]
    logps = [-0.1 * (i + 1) for i in range(len(spans))]
    row = {
        "example_id": "e",
        "prompt": [{"role": "user", "content": "when?"}],
        "completion": [{"role": "assistant", "content": text}],
        "weak_supervisors": ["ann"],
        "weak_weights": [1.0],
        "weak_offsets": [spans],
        "weak_logps": [logps],
        "weak_score": -1.0,
    }
    template, tokenizer.chat_template = tokenizer.chat_template, TRIMS
    try:
        (found,) = prepared(student, tokenizer, {**arguments, "confidence_unit": unit}, Dataset.from_list([row]))
        ((ids, offsets),) = student_offsets([row], [text], tokenizer, None)
    finally:
        tokenizer.chat_template = template
    assert ids == found["input_ids"]
    kept, bare = text.strip(), tokenizer("five pm")["input_ids"]
    read = [(token, span) for token, span, label in zip(ids, offsets, found["labels"], strict=True) if label != -100]
    assert [token for token, _ in read][:-1] == (bare if kept else []), "the student reads no white space"
    lead = len(text) - len(text.lstrip())
    pieces = tokenizer("five pm", return_offsets_mapping=True)["offset_mapping"] if kept else []
    assert [span for _, span in read] == [(a + lead, b + lead) for a, b in pieces] + [(len(text),) * 2]
    sums = {u: p[0] for u, p in zip(found["weak_unit_ids"], found["weak_unit_logps"], strict=True) if u >= 0}
    assert sum(sums.values()) == pytest.approx(sum(logps))


MARKED = "{% for m in messages %}<{{ m.role }}>\n{% if loop.last and m.role == 'assistant' %}BLOCK{% endif %}TEXT<eos>"
MARKED += "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
BLOCK = "<think>\n\n</think>\n\n"  # Qwen3 writes it before the last answer, and not into the prompt


def marked(block: str, trims: bool) -> str:
    return MARKED.replace("BLOCK", block).replace("TEXT", f"{{{{ m.content{' | trim' * trims} }}}}")


def told(student, tokenizer, arguments, block, trims, rows):
    """What is taught of each row: of the block's tokens, and of each unit of the answer with its tokens."""
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = marked(block, trims)
    found = []
    for row in prepared(student, chat, arguments, Dataset.from_list(rows)):
        taught = [
            (token, unit, logps)
            for token, unit, logps in zip(row["input_ids"], row["weak_unit_ids"], row["weak_unit_logps"], strict=True)
            if unit >= 0
        ]
        count = len(tokenizer(block)["input_ids"]) if block else 0
        first = taught[count][1]
        answer = [(token, unit - first, logps) for token, unit, logps in taught[count:]]
        found.append(([(unit, logps) for _, unit, logps in taught[:count]], answer))
    return found


@pytest.mark.parametrize("trims", [False, True], ids=["keeps", "trims"])
@pytest.mark.parametrize("unit", ["word", "span"])
@pytest.mark.parametrize("text", ["yes", " five pm", "\n five pm ", "éa b"])
def test_doubt_about_an_answer_is_not_taught_of_what_the_template_writes_before_it(
    student, tokenizer, arguments, unit, text, trims
):
    """The block is certain; the answer's tokens have the same units and sums as without it."""
    length = len(text)
    letters = [[i, i + 1] for i in range(length)] + [[length] * 2]
    row = {
        "example_id": "e", "prompt": [{"role": "user", "content": "when?"}],
        "completion": [{"role": "assistant", "content": text}],
        "weak_supervisors": ["ann", "bob"], "weak_weights": [0.5, 0.5],
        "weak_offsets": [[[0, length], [length] * 2], letters],
        "weak_logps": [[math.log(0.5), 0.0], [-0.1 * (i + 1) for i in range(length + 1)]],
    }  # fmt: skip
    given = {**arguments, "confidence_unit": unit}
    ((nothing, plain),) = told(student, tokenizer, given, "", trims, [row])
    ((block, answer),) = told(student, tokenizer, given, BLOCK, trims, [row])
    assert not nothing and answer == plain
    assert [logps for _, logps in block] == [[0.0, 0.0]] * len(block) and len({u for u, _ in block}) == len(block) > 3
    sums = {unit: logps for _, unit, logps in answer}
    whole = [sum(logps) for logps in zip(*sums.values(), strict=True)]
    assert whole == pytest.approx([math.log(0.5), sum(row["weak_logps"][1])])


@pytest.mark.parametrize("reads", ["", BLOCK], ids=["plain supervisor", "supervisor with the block"])
def test_a_supervisor_that_reads_the_same_block_is_heard_of_block_and_answer(student, tokenizer, arguments, reads):
    """Its doubt about the block is the block's, and nobody's where the student's template writes none."""
    from trl_weaks import WeakSupervisor

    own = copy.deepcopy(tokenizer)
    own.chat_template = marked(reads, False)
    supervisor = WeakSupervisor(student(initializer_range=0.5), own, "same")
    prompt = [{"role": "user", "content": "when?"}]
    (read,) = supervisor.score([prompt], ["five pm"])
    head = [logp for span, logp in zip(read.offsets, read.logps, strict=True) if tuple(span) == (0, 0)]
    own_answer = read.logps[len(head) :]
    assert len(head) == (len(tokenizer(BLOCK)["input_ids"]) if reads else 0)
    row = {
        "example_id": "e", "prompt": prompt, "completion": [{"role": "assistant", "content": "five pm"}],
        "weak_supervisors": ["same"], "weak_weights": [1.0],
        "weak_offsets": [[list(span) for span in read.offsets]], "weak_logps": [list(read.logps)],
    }  # fmt: skip
    given = {**arguments, "confidence_unit": "span"}
    ((block, answer),) = told(student, tokenizer, given, BLOCK, False, [row])
    assert [logps[0] for _, _, logps in answer] == pytest.approx(own_answer)
    assert sum({unit: logps[0] for unit, logps in block}.values()) == pytest.approx(sum(head))
    ((_, alone),) = told(student, tokenizer, given, "", False, [row])
    assert alone == answer
