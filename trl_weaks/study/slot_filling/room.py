"""Whether every prompt leaves a model room to answer, asked before anything is trained."""

from collections.abc import Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_room(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, str], max_new_tokens: int
) -> None:
    """
    Args:
        model: its config tells the number of positions; one without a limit has room for everything.
        tokenizer: the model's.
        prompts: id of an example -> its prompt.
        max_new_tokens: room that an answer needs, tokens.

    Raises:
        ValueError: a prompt and its answer are longer than the model; names the longest, and the remedy.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or not prompts:
        return
    lengths = {
        name: len(ids) for name, ids in zip(prompts, tokenizer(list(prompts.values()))["input_ids"], strict=True)
    }
    longest = max(lengths, key=lengths.__getitem__)
    if lengths[longest] + max_new_tokens > positions:
        raise ValueError(
            f"The prompt of example {longest!r} has {lengths[longest]} tokens, its answer may have {max_new_tokens}: "
            f"more than the {positions} positions of {model.config.model_type}. Lower `max_new_tokens`, raise "
            "`max_length` in `tiny_models`, use `--prompt short`, or choose a model with more positions."
        )
