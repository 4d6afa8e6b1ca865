"""Supervisors of several shapes, tiny, with tokenizers trained in place; nothing is downloaded."""

from tiny import causal_lm
from tiny_tokenizers import byte_level, metaspace
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


def tokenizer_of(shape: str) -> PreTrainedTokenizerFast:
    if shape == "opt":
        return byte_level(CORPUS, "</s>", bos="</s>", vocabulary=300)
    if shape in ("llama", "gemma", "gemma2"):
        return metaspace(CORPUS[:2], 150)
    return byte_level(CORPUS, "<|endoftext|>")


def model_of(shape: str, vocab: int, seed: int = 0, **changes):
    """Far from uniform, so that errors show and beams do not tie."""
    kind, own = KINDS[shape]
    sizes = {"width": 32, "layers": 2, "heads": 4, "positions": 256}
    return causal_lm(kind, vocab, seed=seed, noise=0.15, **sizes | own | changes).eval()
