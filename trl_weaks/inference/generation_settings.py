"""What a checkpoint's generation settings mean for labels: every field of `GenerationConfig` has one rule.

- `HONOURED`: decides which answers are found, as in `model.generate`. Scores are the model's own log-probabilities
  whatever is set here.
- `ASKED`: the caller's argument, or the tokenizer's token, takes its place.
- `WITHOUT_EFFECT`: decides how an answer is computed, or what is returned beside it, but not the answer.
- `REFUSED`: would change answers in a way that depends on the clock or the batch, that hides what the model said, or
  that is another search than the one asked for.

The lists are complete for the installed `transformers` (a test compares them with the class).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import GenerationConfig, PreTrainedModel

HONOURED = {  # name: the value that does nothing (None always does nothing)
    "early_stopping": False,
    "length_penalty": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "renormalize_logits": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
}
BEAMS_ONLY = ("early_stopping", "length_penalty")
# These look at the tokens before, where padding would stand among them: rows of one length are decoded together.
READ_THE_PROMPT = (
    "min_length", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "sequence_bias",
    "forced_bos_token_id",
)  # fmt: skip
ASKED = (
    "max_length", "max_new_tokens", "do_sample", "num_beams", "num_return_sequences", "temperature", "top_k", "top_p",
    "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
WITHOUT_EFFECT = (
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory",
    "compile_config", "disable_compile", "continuous_batching_config", "remove_invalid_values", "output_attentions",
    "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate", "decoder_start_token_id",
    "use_mtp", "speculation_type", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "prompt_lookup_num_tokens", "max_matching_ngram_size", "transformers_version",
)  # fmt: skip
REFUSED = {  # name: (the value that does nothing, why any other is refused)
    "max_time": (None, "answers would be cut by the clock"),
    "stop_strings": (None, "answers would end without an end token; give the tokens that end them (eos_token_id)"),
    "token_healing": (False, "it changes the prompt's last token"),
    "guidance_scale": (1.0, "it is another distribution than the one that is read"),
    "watermarking_config": (None, "labels would carry the mark"),
    "forced_eos_token_id": (None, "it ends answers that the model does not end"),
    "encoder_repetition_penalty": (1.0, "`generate` applies it to the first rows of a batch only"),
    "encoder_no_repeat_ngram_size": (0, "`generate` applies it to encoder-decoder models only"),
    "penalty_alpha": (0.0, "contrastive search is neither beam search nor sampling"),
    "dola_layers": (None, "it is another distribution than the one that is read"),
    "num_beam_groups": (1, "group beam search is another search than the one documented"),
    "diversity_penalty": (0.0, "group beam search is another search than the one documented"),
    "constraints": (None, "constrained beam search is another search than the one documented"),
    "force_words_ids": (None, "constrained beam search is another search than the one documented"),
}  # fmt: skip


def decoding_config(
    own: GenerationConfig | None,
    supervisor: str,
    num_candidates: int,
    max_new_tokens: int,
    ends: list[int],
    pad_id: int,
    drawn: bool = False,
) -> GenerationConfig:
    """All that `generate` is asked for: the checkpoint's settings that are honoured, and the caller's arguments.

    Args:
        own: the checkpoint's settings; None for none.
        supervisor: its name, for errors.
        num_candidates: beams, or draws.
        ends: ids of the tokens that end an answer.
        drawn: whether candidates are drawn, one row each, instead of searched for.

    Raises:
        ValueError: a setting that is refused, with its name, the reason and the remedy.
    """
    kept = honoured(own, supervisor)
    if (least := kept.get("min_new_tokens", 0)) > max_new_tokens:
        raise ValueError(
            f"supervisor {supervisor!r}: generation_config.min_new_tokens={least} is more than max_new_tokens="
            f"{max_new_tokens}; raise max_new_tokens, or set model.generation_config.min_new_tokens = None."
        )
    if drawn:
        kept = {name: value for name, value in kept.items() if name not in BEAMS_ONLY}
    beams = 1 if drawn else num_candidates
    return GenerationConfig(
        **kept,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(ends),
        pad_token_id=pad_id,
    )


def honoured(own: GenerationConfig | None, supervisor: str) -> dict:
    """The checkpoint's settings that decide its answers, those that do nothing left out.

    Raises:
        ValueError: a setting that is refused.
    """
    for name, (nothing, reason) in REFUSED.items():
        value = getattr(own, name, None)
        if value is not None and value != nothing:
            raise ValueError(
                f"supervisor {supervisor!r}: its checkpoint sets generation_config.{name}={value!r}, which labelling "
                f"does not follow: {reason}. Set model.generation_config.{name} = None."
            )
    values = {name: getattr(own, name, None) for name in HONOURED}
    return {name: v for name, v in values.items() if v is not None and v != HONOURED[name]}


def check_model_config(config: object, supervisor: str) -> None:
    """Refuse generation settings written into the model's own configuration, which `transformers` does not read."""
    for name, nothing in {**HONOURED, **{name: value for name, (value, _) in REFUSED.items()}}.items():
        value = getattr(config, name, None)
        if value is not None and value != nothing:
            raise ValueError(
                f"supervisor {supervisor!r}: model.config.{name}={value!r} is a generation setting in the wrong "
                f"place, where it is not read; move it to model.generation_config.{name}, or remove it."
            )


def reads_the_prompt(config: GenerationConfig) -> bool:
    """Whether a setting looks at the tokens before the next one, so that padding must not stand among them."""
    return any(getattr(config, name) not in (None, HONOURED[name]) for name in READ_THE_PROMPT)


@contextmanager
def these_alone(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """For a while the model has no settings but these; `generate` fills what is not named from the model's own."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before
