"""How much fits into memory at once: a stated number of tokens, and as many logits as go with them."""

from transformers import PreTrainedModel

MAX_TOKENS = 16_384
WIDTH = 4096  # logits that weigh as much as one token in flight; 16,384 tokens allow 0.25 GiB of them in float32


def most_logits(model: PreTrainedModel, max_tokens: int) -> int:
    """Rows of logits over the vocabulary that a budget of tokens allows, at least one."""
    return max(1, max_tokens * WIDTH // model.config.get_text_config().vocab_size)


def at_once(model: PreTrainedModel, max_tokens: int, tokens: int, logits: int) -> int:
    """Items of so many tokens and rows of logits each that a batch may hold, at least one."""
    return max(1, min(max_tokens // tokens, most_logits(model, max_tokens) // logits))
