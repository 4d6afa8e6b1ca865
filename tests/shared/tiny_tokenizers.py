"""Tokenizers of the tests' tiny models, trained in place; their padding token is `<pad>`.

Where the cutting itself is what a test is about, its vocabulary stands in the test.
"""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BYTES = [f"<0x{i:02X}>" for i in range(256)]


def byte_level(
    texts: list[str], eos: str, *, bos: str | None = None, vocabulary: int = 320, every_byte: bool = True
) -> PreTrainedTokenizerFast:
    """GPT-2's way; `bos` opens every text. Without `every_byte`, letters that `texts` lacks are dropped."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<pad>", bos or eos, eos]))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if every_byte else []
    _train(backend, texts, vocabulary, special, initial_alphabet=alphabet)
    if bos:
        _open_with(backend, bos)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token="<pad>")


def metaspace(texts: list[str], vocabulary: int, *, ordinary_bytes: bool = False) -> PreTrainedTokenizerFast:
    """Llama's way: a leading space is a letter, unknown letters are bytes, `<s>` opens every text.

    The bytes are added tokens, or ordinary ones of the vocabulary as in published models.
    """
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    _train(backend, texts, vocabulary, special + (BYTES if ordinary_bytes else []))
    if ordinary_bytes:  # trained as special tokens, so that each has an id
        described = json.loads(backend.to_str())
        described["added_tokens"] = described["added_tokens"][: len(special)]
        backend = Tokenizer.from_str(json.dumps(described))
    else:
        backend.add_tokens(BYTES)
    _open_with(backend, "<s>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def word_level(
    words: list[str], *, eos: str | None = None, more: tuple[str, ...] = (), bos: str | None = None
) -> PreTrainedTokenizerFast:
    """One token a word, padded on the left; `more` tokens stand before the words, and `bos`, one of them, opens."""
    vocabulary = ["<pad>", "<unk>", *([eos] if eos else []), *more, *words]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        _open_with(backend, bos)
    names = {"pad_token": "<pad>", "unk_token": "<unk>"} | ({"eos_token": eos} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **names)


def _train(backend: Tokenizer, texts: list[str], vocabulary: int, special: list[str], **settings) -> None:
    given = {"vocab_size": vocabulary, "special_tokens": special, "show_progress": False}
    backend.train_from_iterator(texts, trainers.BpeTrainer(**given, **settings))


def _open_with(backend: Tokenizer, bos: str) -> None:
    opened = [(bos, backend.token_to_id(bos))]
    backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=opened)
