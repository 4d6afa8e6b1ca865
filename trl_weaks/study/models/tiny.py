"""Small causal language models built in place: tokenizers trained on given texts, models from configs. No network.

Four kinds, each tokenizing in its own way, so that labels must travel between tokenizers as they do between real ones:

- `gpt2`: byte-level BPE; a beginning-of-text token exists and is never added.
- `opt`: byte-level BPE; "</s>" is end and beginning of text and is put in front of every text, as the real OPT's does.
- `gpt_neox`: BPE over white-space marks, bytes for characters it has not seen (the real one is byte-level; ours is a
  third kind on purpose).
- `llama`: byte-level BPE that keeps digits apart; nothing is added.

Every text comes back from every tokenizer unchanged (for `gpt_neox`: every text without the mark U+2581), a newline is
always a token of its own, and offsets tile the text.
"""

import json
from collections.abc import Iterable
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

Architecture = Literal["gpt2", "opt", "gpt_neox", "llama"]

_TEXT = "<|endoftext|>"
_SPECIAL: dict[str, dict[str, str]] = {
    "gpt2": {"bos_token": _TEXT, "eos_token": _TEXT, "unk_token": _TEXT, "pad_token": "<|pad|>"},
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "gpt_neox": {"bos_token": _TEXT, "eos_token": _TEXT, "unk_token": _TEXT, "pad_token": "<|padding|>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|pad|>"},
}
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACE = "\u2581"


def train_tokenizer(
    kind: Architecture, texts: Iterable[str], vocab_size: int, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind, trained on the texts.

    Args:
        kind: the architecture whose way of tokenizing is wanted.
        texts: prompts and completions, or texts like them.
        vocab_size: upper bound of the vocabulary, special tokens included; at least 400: 256 bytes, letters, the rest.
        model_max_length: longest input, in tokens.

    Raises:
        ValueError: an unknown kind or a vocabulary too small for all bytes.
    """
    if kind not in _SPECIAL:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(_SPECIAL)}")
    if vocab_size < 400:
        raise ValueError(f"vocab_size {vocab_size}: at least 400 are needed, so that any text can be represented")
    special = list(dict.fromkeys(_SPECIAL[kind].values()))
    if kind == "gpt_neox":
        backend = _metaspace(texts, vocab_size, special)
    else:
        backend = _byte_level(texts, vocab_size, special, digits_apart=kind == "llama")
    if kind == "opt":
        start = _SPECIAL[kind]["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, backend.token_to_id(start))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **_SPECIAL[kind],
    )


def _byte_level(texts: Iterable[str], vocab_size: int, special: list[str], digits_apart: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # the byte-level cut leaves a run of newlines and spaces whole
    steps = [pre_tokenizers.Split("\n", "isolated"), byte_level]
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), *steps] if digits_apart else steps)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _metaspace(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    def dressed(backend: Tokenizer) -> Tokenizer:
        # "_" and punctuation stand alone, so that slot names and JSON marks are shared between slots
        cut = pre_tokenizers.Split(Regex(r"\n|[^\w\s]|_"), "isolated")
        mark = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never")
        backend.pre_tokenizer = pre_tokenizers.Sequence([cut, mark])
        backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
        return backend

    backend = dressed(Tokenizer(models.BPE()))
    size = vocab_size - len(_BYTES)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    trained = json.loads(backend.to_str())["model"]
    vocabulary = trained["vocab"] | {byte: len(trained["vocab"]) + i for i, byte in enumerate(_BYTES)}
    merges = [tuple(merge) for merge in trained["merges"]]
    rebuilt = dressed(Tokenizer(models.BPE(vocabulary, merges, unk_token=special[0], byte_fallback=True)))
    rebuilt.add_special_tokens(special)
    return rebuilt


def build_model(
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int,
    layers: int,
    heads: int,
    max_length: int,
    seed: int,
) -> PreTrainedModel:
    """A randomly initialised float32 causal language model without dropout, in evaluation mode.

    Args:
        architecture: its shape; feed-forward width is 4 x hidden (Llama: 8/3 x hidden, rounded up to a multiple of 8).
        tokenizer: gives the vocabulary size and the special tokens.
        hidden_size: width, a multiple of `heads`.
        max_length: most positions, in tokens.
        seed: of the initialisation; the global random state is left as it was.

    Raises:
        ValueError: an unknown architecture, a width that the heads do not divide, or a tokenizer without pad token.
    """
    if architecture not in _SPECIAL:
        raise ValueError(f"architecture {architecture!r}: choose one of {', '.join(_SPECIAL)}")
    if hidden_size % (2 * heads):
        raise ValueError(f"hidden_size {hidden_size} must be an even multiple of heads {heads}")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError("the tokenizer needs a pad token of its own, different from the end-of-sequence token")
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = _config(architecture, hidden_size, layers, heads, max_length, common)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _config(
    architecture: Architecture, hidden: int, layers: int, heads: int, positions: int, common: dict[str, int | None]
) -> PreTrainedConfig:
    if architecture == "gpt2":
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(n_embd=hidden, n_layer=layers, n_head=heads, n_positions=positions, **off, **common)
    # In all four one matrix reads and writes tokens, as in GPT-2 and small Llamas: a token copied is the token read.
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    common = {"max_position_embeddings": positions, "attention_dropout": 0.0, **shape, **common}
    if architecture == "opt":
        return OPTConfig(ffn_dim=4 * hidden, word_embed_proj_dim=hidden, dropout=0.0, layerdrop=0.0, **common)
    if architecture == "gpt_neox":
        return GPTNeoXConfig(intermediate_size=4 * hidden, hidden_dropout=0.0, tie_word_embeddings=True, **common)
    shape = {"num_key_value_heads": heads, "tie_word_embeddings": True}
    return LlamaConfig(intermediate_size=-(-hidden // 3) * 8, **shape, **common)
