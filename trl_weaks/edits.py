"""What was changed in a model after it was made, and stands neither in its weights nor in its configuration.

A model of the same class and configuration is made again without weights; modules of another class, and attributes and
rotary frequencies of other values, are what somebody put there: a scaled output layer, `self_attn.scaling *= 2`,
another activation. A model as it was made has none, on every device and in every dtype.
"""

import contextlib
import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import nn

SIMPLE = (bool, int, float, str)
# Read in training only, or while a model is made.
IDLE = {"training", "gradient_checkpointing", "padding_idx", "p", "inplace", "device", "dtype"}
ADAPTED = ("base_layer", "original_module")  # where adapters keep the module that they are put around
FOLLOWING = ("dynamic", "longrope")  # frequencies that follow the text, see `inference.padding`


def edits(model: nn.Module) -> list[str]:
    """One line for each change, in a fixed order; empty for a model as its configuration describes it.

    Adapters are no edits. A model whose class cannot be made from its configuration alone tells nothing.
    """
    plain = _made_again(model)
    if plain is None:
        return []
    expected, found = _modules(plain), _modules(model)
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        lines += _differences(path, expected.get(path), found.get(path))
    return lines + [line for path, module in sorted(found.items()) for line in _frequencies(path, module)]


def _made_again(model: nn.Module) -> nn.Module | None:
    with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]), torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))
    return None


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by path, those that adapters surround where they would be without, and adapters left out."""
    found, adapters = {}, []
    for path, module in model.named_modules():
        inside = next((a for a in reversed(adapters) if path.startswith(f"{a}.")), None)
        rest = path[len(inside) + 1 :] if inside is not None else ""
        if isinstance(getattr(type(module), "disable_adapters", None), property):
            adapters.append(path)
        elif inside is None or rest.partition(".")[0] in ADAPTED:
            found[".".join(part for part in path.split(".") if part not in (*ADAPTED, "token_adapter"))] = module
    return found


def _differences(path: str, expected: nn.Module | None, found: nn.Module | None) -> Iterator[str]:
    if found is None:
        yield f"{path} is gone"
        return
    ours = _attributes(found)
    if expected is None or _kind(found) != _kind(expected):
        yield f"{path} is {_kind(found)} {sorted(ours.items())}"
        return
    for name, value in _attributes(expected).items():
        if name in ours and ours[name] != value:
            yield f"{path}.{name} is {ours[name]}"


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _attributes(module: nn.Module) -> dict[str, str]:
    return {
        name: repr(value)
        for name, value in vars(module).items()
        if type(value) in SIMPLE and not name.startswith("_") and name not in IDLE and "dropout" not in name
    }


def _frequencies(path: str, module: nn.Module) -> Iterator[str]:
    """Buffers that no checkpoint holds and that are not, up to rounding, those of a module made again."""
    names = [n for n in module._non_persistent_buffers_set if getattr(module, n).is_floating_point()]
    if not names or any(kind in str(getattr(module, "rope_type", "")) for kind in FOLLOWING):
        return
    with contextlib.suppress(Exception), torch.device("cpu"):
        again = type(module)(module.config)
        for name in sorted(names):
            value, wanted = getattr(module, name).detach().float().cpu(), getattr(again, name).float()
            coarse = 1e-4 if getattr(module, name).dtype in (torch.float32, torch.float64) else 1e-2
            if value.shape != wanted.shape or not torch.allclose(value, wanted, rtol=coarse, atol=1e-12):
                yield f"{path}.{name} is {hashlib.sha256(value.numpy().tobytes()).hexdigest()}"
