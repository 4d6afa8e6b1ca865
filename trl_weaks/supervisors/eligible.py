"""Which models can be supervisors, and which prompts fit into their context."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..distributed import refuse_pieces


def check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse models that cannot answer prompts, and tokenizers of another model."""
    if model.config.is_encoder_decoder:
        raise ValueError(f"supervisor {name!r}: encoder-decoder models are not supported; use a decoder-only model.")
    if any(c.is_prompt_learning for c in getattr(model, "peft_config", {}).values()):
        raise ValueError(f"supervisor {name!r}: prompt-learning adapters are not supported; merge or use LoRA.")
    refuse_pieces(model, name)
    rows, ids = model.get_input_embeddings().weight.shape[0], len(tokenizer)
    if ids > rows:
        raise ValueError(
            f"supervisor {name!r}: the tokenizer has {ids} tokens but the model only {rows} embeddings; they do not "
            "belong together, or model.resize_token_embeddings was forgotten."
        )


def has_room(context: int | None, prompt: int, answer: int) -> bool:
    """Whether a context of so many tokens (None: without end) holds a prompt and its answer."""
    return context is None or prompt + max(answer, 1) <= context


def check_room(context: int | None, supervisor: str, prompt: int, answer: int, name: str, what: str) -> None:
    """Refuse a prompt (tokens) that leaves no room for its answer (tokens) in a context of so many tokens."""
    if not has_room(context, prompt, answer):
        raise ValueError(
            f"{name}: the prompt has {prompt} tokens for supervisor {supervisor!r}, whose context holds {context}; "
            f"there is no room for {what}. Shorten or remove the row, or ask for fewer tokens."
        )
