"""Tokens as a stock TRL `SFTTrainer` makes them, offsets that cover the text, text that survives the round trip."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import metaspace
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trl_weaks.supervisors.reading.text import Encoder

PROMPT = "USER: wake me up at nine, 你好 ASSISTANT:"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30)


@pytest.fixture(scope="module")
def encoders(build):
    """ByteLevel, ByteLevel behind a beginning-of-sequence token that is also the end, Metaspace with byte fallback."""
    return {
        "gpt2": build("gpt2").encoder,
        "opt": build("opt").encoder,
        "llama": Encoder(metaspace([PROMPT[:24]], 300, ordinary_bytes=True), "llama"),
    }


@pytest.mark.parametrize("shape", ["gpt2", "opt", "llama"])
@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_offsets_cover_the_text(encoders, shape, text):
    encoder = encoders[shape]
    (prompt,) = encoder.prompts([PROMPT])
    (made,) = encoder.completions([prompt], [text])
    assert len(made.ids) == len(made.offsets) and made.ids[-1] == encoder.tokenizer.eos_token_id
    assert made.offsets[-1] == (len(text), len(text))
    end = 0
    for start, stop in made.offsets[:-1]:
        assert 0 <= start <= end and max(start, end) <= stop <= len(text), "no gap, no way back"
        end = stop
    if len(made.ids) > 1:
        assert end == len(text)


@pytest.mark.parametrize("shape", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("text", ["", " {}", '{"date": "tomorrow"}', "\n", "é🙂你好", "in the kitchen "])
def test_tokens_are_those_of_training(encoders, shape, text):
    """TRL tokenises prompt and prompt + completion + eos, and trains on what follows the common beginning."""
    tokenizer = encoders[shape].tokenizer
    (prompt,) = encoders[shape].prompts([PROMPT])
    (made,) = encoders[shape].completions([prompt], [text])
    assert prompt.ids == tokenizer(PROMPT)["input_ids"]
    assert prompt.ids + made.ids == tokenizer(PROMPT + text + tokenizer.eos_token)["input_ids"]
    bos = {"gpt2": None, "opt": "</s>", "llama": "<s>"}[shape]
    assert bos is None or tokenizer.convert_ids_to_tokens(prompt.ids[0]) == bos


@pytest.mark.parametrize("shape", ["gpt2", "opt", "llama"])
@settings(deadline=None, max_examples=60)
@given(text=TEXT)
@example(text="<unk>")
@example(text="a </s> b")
def test_decoding_gives_the_text_back(encoders, shape, text):
    encoder = encoders[shape]
    special = [token.content for token in encoder.tokenizer.added_tokens_decoder.values()]  # dropped by decoding
    if any(token in text for token in special) or (shape == "llama" and "▁" in text):  # ▁ stands for a space there
        return
    (prompt,) = encoder.prompts([PROMPT])
    (made,) = encoder.completions([prompt], [text])
    if prompt.ids + made.ids != encoder.tokenizer(PROMPT + text + encoder.tokenizer.eos_token)["input_ids"]:
        return
    assert encoder.decode(prompt, made.ids, finished=True) == text
    assert encoder.offsets(prompt, made.ids, text, finished=True) == made.offsets


def test_tokens_that_merge_over_the_boundary():
    """`:"` is one token of this vocabulary; a supervisor that has read `:` cannot be asked for it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Fuse()
    backend.train_from_iterator(['a:"b"'] * 3, trainers.BpeTrainer(vocab_size=20, special_tokens=["<e>", "<p>"]))
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", pad_token="<p>"), "x")
    (prompt,) = encoder.prompts(["a:"])
    assert encoder.tokenizer('a:"')["input_ids"][: len(prompt.ids)] != prompt.ids, "the case is real"
    (made,) = encoder.completions([prompt], ['"b"'])
    assert made.ids == encoder.tokenizer('"b"', add_special_tokens=False)["input_ids"] + [0]
    assert made.offsets[0][0] == 0 and made.offsets[-2:] == [(2, 3), (3, 3)] or made.offsets[-2][1] == 3


def test_offsets_of_tokens_that_retokenise_differently(encoders):
    encoder = encoders["gpt2"]
    (prompt,) = encoder.prompts([PROMPT])
    letters = [encoder.tokenizer.convert_tokens_to_ids(c) for c in "light"]
    assert encoder.completions([prompt], ["light"])[0].ids[:-1] != letters, "usually fewer tokens"
    ids = [*letters, encoder.tokenizer.eos_token_id]
    assert encoder.decode(prompt, ids, finished=True) == "light"
    spans = encoder.offsets(prompt, ids, "light", finished=True)
    assert spans == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 5)]
    emoji = encoder.tokenizer("🙂")["input_ids"]
    assert len(emoji) > 1
    spans = encoder.offsets(prompt, [*letters[:2], *emoji, *letters[2:]], "li🙂ght", finished=False)
    assert spans == [(0, 1), (1, 2), *[(2, 3)] * len(emoji), (3, 4), (4, 5), (5, 6)]


def test_cut_letters_and_special_tokens_leave_no_trace(encoders):
    encoder = encoders["gpt2"]
    (prompt,) = encoder.prompts([PROMPT])
    half = encoder.tokenizer("no 🙂")["input_ids"][:-1]
    assert encoder.decode(prompt, half, finished=False) == "no "
    pad, eos = encoder.tokenizer.pad_token_id, encoder.tokenizer.eos_token_id
    word = encoder.tokenizer("no")["input_ids"]
    assert encoder.decode(prompt, [pad, *word, pad, eos], finished=True) == "no"
    spelt = [encoder.tokenizer.convert_tokens_to_ids(c) for c in "no<|endoftext|>no"]
    assert encoder.decode(prompt, spelt, finished=False) == "no"


def test_chat_ends_with_the_templates_end_of_turn(build):
    supervisor = build("llama")
    tokenizer = supervisor.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    encoder = Encoder(tokenizer, "x")
    (prompt,) = encoder.prompts([[{"role": "user", "content": "play jazz"}]])
    assert prompt.text == "<user>play jazz<end>\n<assistant>" and prompt.ids.count(tokenizer.bos_token_id) == 0
    (made,) = encoder.completions([prompt], ["five"])
    assert tokenizer.convert_ids_to_tokens(made.ids[-1]) == "<end>" and made.offsets[-1] == (4, 4)
    assert encoder.eos_id(chat=False) == tokenizer.eos_token_id


def test_a_tokenizer_that_closes_every_text_is_refused(build):
    from tokenizers.processors import TemplateProcessing

    tokenizer = build("llama").tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    with pytest.raises(ValueError, match="adds '</s>' after every text"):
        Encoder(tokenizer, "x")
