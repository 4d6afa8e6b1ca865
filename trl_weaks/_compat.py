"""Private names of transformers and accelerate that are read below the trainers; theirs stand in `trainer._compat`.

`tests/trainer/test_compat.py` is the contract of both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState


def attention_of(config: Any) -> str:
    """The attention that a model's configuration chose: "sdpa", "eager", "flash_attention_2" and the like."""
    return config._attn_implementation


def exchanges_attention(model: Any) -> bool:
    """Whether a model's attention may be replaced by another of transformers' interface."""
    return bool(getattr(model, "_supports_sdpa", False) and model._can_set_attn_implementation())


def was_read(parameter: Any) -> bool:
    """Whether a checkpoint gave a parameter of a model fresh from `from_pretrained`, and nobody drew it at random."""
    return getattr(parameter, "_is_hf_initialized", False)


def expected_to_miss(model: Any) -> list[str]:
    """Patterns of parameters that checkpoints of this model lack by its design."""
    return list(model._keys_to_ignore_on_load_missing or ())


def is_adapted(model: Any) -> bool:
    """Whether transformers put an adapter into the model, rather than a `PeftModel` around it."""
    return getattr(model, "_hf_peft_config_loaded", False)


@contextmanager
def without_deepspeed_config() -> Iterator[None]:
    """Inside, transformers does not know of DeepSpeed's settings, under which it would load models in pieces."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    found = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if found is not None:
            deepspeed.set_hf_deepspeed_config(found)


def accelerate_state() -> dict[str, Any]:
    """What accelerate knows of its processes, to be put back by `restore_accelerate_state`."""
    return dict(PartialState._shared_state)


def restore_accelerate_state(state: dict[str, Any]) -> None:
    """Forget what trainers made since asked of accelerate."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._shared_state.update(state)
