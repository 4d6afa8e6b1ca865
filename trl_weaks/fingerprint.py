"""Short digests that say whether two labels were made by the same supervisor under the same settings.

All that changes what a supervisor says belongs into its key, and nothing that does not: weights to the last bit, the
active adapters and their scaling, configurations, the whole tokenizer, modules and attributes that are not what the
configuration says, foreign code in the forward pass, and the version of the algorithms here. Training mode, caches,
folders and adapters that rest do not.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .edits import edits

logger = logging.getLogger(__name__)

ALGORITHM = 2  # of scoring and decoding: one more whenever the same supervisor gives other labels than before
PIECE = 1 << 22  # values of a weight hashed at a time
# Code of these libraries in a forward pass does not change what a model says, or shows in what is hashed anyway.
FAMILIAR = ("torch", "transformers", "accelerate", "peft", "trl", "trl_weaks", "deepspeed", "liger_kernel", "torchao")
FAMILIAR += ("bitsandbytes", "awq", "gptqmodel", "auto_gptq", "hqq", "optimum", "compressed_tensors", "eetq", "aqlm")
FAMILIAR += ("vptq", "kernels", "flash_attn", "xformers", "fla", "mamba_ssm", "causal_conv1d", "unsloth", "apex")


class AdapterState(Protocol):
    """What a key has to know about adapters, see `supervisors.adapters`."""

    base: nn.Module

    def in_use(self) -> AbstractContextManager[None]: ...

    def described(self) -> tuple[list, dict[str, str | None]]: ...


class Labeller(Protocol):
    """A model and its tokenizer; where something else runs the model (None), its config and an identity instead."""

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase


def digest(*parts: object) -> str:
    """16 hexadecimal digits of SHA-256 over the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def supervisor_fingerprint(supervisor: Labeller) -> str:
    """Digest of all that decides what a supervisor says."""
    model = supervisor.model
    config = (supervisor.config if model is None else model.config).to_diff_dict()
    # Saving a model, which one process of several does, writes `architectures` and `dtype` into its configuration.
    for volatile in ("_name_or_path", "transformers_version", "use_cache", "architectures", "dtype"):
        config.pop(volatile, None)
    generation = getattr(supervisor if model is None else model, "generation_config", None)
    config["generation"] = generation.to_diff_dict() if generation else {}  # e.g. a repetition penalty
    for volatile in ("transformers_version", "use_cache", "_from_model_config"):
        config["generation"].pop(volatile, None)
    weights = supervisor.identity if model is None else _weights(model, getattr(supervisor, "adapters", None))
    foreign = [] if model is None else foreign_code(model)
    about = json.dumps(config, sort_keys=True, default=str)
    variant, edited = getattr(supervisor, "variant", None), [] if model is None else edits(model)
    facts = (about, weights, tokenizer_facts(supervisor.tokenizer), foreign, variant)
    return digest(ALGORITHM, *facts, *filter(None, [edited]))


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> list:
    """What decides how a fast tokenizer reads and writes: all of its backend but the padding, and what lies around."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for volatile in ("truncation", "padding"):
        backend.pop(volatile, None)
    split = bool(getattr(tokenizer, "split_special_tokens", False))
    return [backend, tokenizer.special_tokens_map, tokenizer.chat_template, split]


def foreign_code(model: nn.Module) -> list[str]:
    """Hooks, and modules and `forward`s that are neither the model's nor a library's own, such as steering; by name.

    What they do cannot be hashed, only who they are.
    """
    known = tuple(f"{package}." for package in (*FAMILIAR, type(model).__module__.partition(".")[0]))
    everywhere = [*_global_forward_pre_hooks.values(), *_global_forward_hooks.values()]
    found = [("every module", _name(code)) for code in everywhere]
    for path, module in model.named_modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        forward = vars(module).get("forward") or type(module).forward
        found += [(path or type(model).__name__, _name(code)) for code in (*hooks, forward)]
    return [f"{where}: {name}" for where, name in found if not name.startswith(known)]


def refuse_unknown_code(supervisors: Iterable[Any]) -> None:
    """Refuse to keep labels of models that foreign code steers, unless the supervisor's `variant` says how.

    A chat template that asks for today's date, as Llama 3.1's does, is named in a warning.

    Raises:
        ValueError: names the supervisor, the module and the code.
    """
    for supervisor in supervisors:
        if "strftime_now" in str(supervisor.tokenizer.chat_template):
            logger.warning(
                "the chat template of %r writes today's date into prompts, so kept labels may be of several days, and "
                "training reads another one; put a fixed date in the place of strftime_now(...).",
                supervisor.name,
            )
        found = [] if supervisor.model is None else foreign_code(supervisor.model)
        if found and getattr(supervisor, "variant", None) is None:
            raise ValueError(
                f"supervisor {supervisor.name!r}: {found[0]} changes its forward pass, and kept labels could not be "
                "told from those of another such change. Say what it does in `variant=` (any text, another one for "
                "another steering), remove it, or label without an output_dir."
            )


def _name(code: Any) -> str:
    code = getattr(code, "func", code)  # a functools.partial
    code = code if hasattr(code, "__qualname__") else type(code)
    return f"{code.__module__}.{code.__qualname__}"


def _weights(model: PreTrainedModel, adapters: AdapterState | None) -> str:
    """Digest of names, shapes, types and values of all weights that are read, and of what the adapters are."""
    hashed = hashlib.sha256()
    with nullcontext() if adapters is None else adapters.in_use():
        facts, names = ([], {}) if adapters is None else adapters.described()
        hashed.update(json.dumps(facts).encode())
        inside = next((f"{path}." for path, m in model.named_modules() if path and m is _base(adapters)), "")
        weights = {name.removeprefix(inside): value for name, value in model.state_dict().items()}
        kept = {names.get(name, name): value for name, value in weights.items()}
        read = sorted(name for name in kept if name is not None)
        with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter: as quick as there are cores
            for name, value in zip(read, pool.map(_value_digest, [kept[name] for name in read]), strict=True):
                hashed.update(f"{name} {value}".encode())
        # What no checkpoint holds is made from the configuration, here and there with another rounding; its type is
        # not: `model.to(bfloat16)` coarsens rotary frequencies, which `from_pretrained(dtype=...)` leaves alone.
        floats = [(n.removeprefix(inside), b.dtype) for n, b in model.named_buffers() if b.is_floating_point()]
        called = {(names.get(name, name), dtype) for name, dtype in floats}
        types = {f"{name.rpartition('.')[2]} {dtype}" for name, dtype in called if name is not None}
        hashed.update(" ".join(sorted(types)).encode())
    return hashed.hexdigest()


def _base(adapters: AdapterState | None) -> nn.Module | None:
    return None if adapters is None else adapters.base


def _value_digest(value: Any) -> str:
    """Digest of a weight's shape, type and bits."""
    hashed = hashlib.sha256()
    for part in _plain(value):
        hashed.update(f"{tuple(part.shape)} {part.dtype}".encode())
        for piece in part.detach().reshape(-1).split(PIECE):
            hashed.update(piece.cpu().contiguous().view(torch.uint8).numpy())
    if not isinstance(value, torch.Tensor):
        hashed.update(repr(value).encode())
    return hashed.hexdigest()


def _plain(value: Any) -> Iterator[torch.Tensor]:
    """The tensors that a value is made of: itself, or the parts of a quantised one."""
    if isinstance(value, torch.Tensor) and hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from _plain(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value
