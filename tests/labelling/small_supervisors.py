"""Supervisors of several shapes, tiny, with tokenizers trained in place; nothing is downloaded."""

from tiny import causal_lm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "USER: turn on the light in the kitchen ASSISTANT:",
    '{"date": "tomorrow", "time": "five pm"}',
    "wake me up at nine, play some jazz; hello wörld 你好 🙂 é",
]
KINDS = {  # shape -> transformers' name, and what is its own
    "gpt2": ("gpt2", {}),
    "opt": ("opt", {}),
    "neox": ("gpt_neox", {}),
    "llama": ("llama", {"kv_heads": 2}),
    "qwen2": ("qwen2", {"kv_heads": 2}),
    "gemma": ("gemma", {"kv_heads": 1, "head_dim": 8}),
    "gemma2": ("gemma2", {"kv_heads": 2, "head_dim": 8, "sliding_window": 16}),
}


def byte_level(bos: str | None = None, eos: str = "<|endoftext|>", vocab: int = 320) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", *([bos] if bos and bos != eos else []), eos]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet)
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token="<pad>")


def metaspace() -> PreTrainedTokenizerFast:
    """Llama's way: a leading space is a letter, unknown letters are bytes, `<s>` opens every text."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    backend.train_from_iterator(CORPUS[:2], trainers.BpeTrainer(vocab_size=150, special_tokens=special))
    backend.add_tokens([f"<0x{i:02X}>" for i in range(256)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tokenizer_of(shape: str) -> PreTrainedTokenizerFast:
    if shape == "opt":
        return byte_level(bos="</s>", eos="</s>", vocab=300)
    return metaspace() if shape in ("llama", "gemma", "gemma2") else byte_level()


def model_of(shape: str, vocab: int, seed: int = 0, **changes):
    """Far from uniform, so that errors show and beams do not tie."""
    kind, own = KINDS[shape]
    sizes = {"width": 32, "layers": 2, "heads": 4, "positions": 256}
    return causal_lm(kind, vocab, seed=seed, noise=0.15, **sizes | own | changes).eval()
