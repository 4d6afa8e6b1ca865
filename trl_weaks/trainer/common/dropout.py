"""Dropout wherever a model keeps it: in modules, as numbers of its layers, or read from its configuration."""

import inspect
import re
from collections.abc import Sequence
from functools import cache

from torch import nn


def silence_functional_dropout(model: nn.Module) -> None:
    """Sets to 0 the dropout that OPT and others apply without a module; `disable_dropout=True` of TRL reaches
    `nn.Dropout` modules only.

    Such layers call `F.dropout` with a float of their own (`attn_dropout`, `hidden_dropout`, `layerdrop` and others).

    Raises:
        ValueError: a layer reads its dropout from the model's configuration, which is the caller's.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        read = [name for name in _rates_of_config(module) if "drop" in name]
        if read:
            raise ValueError(
                f"`disable_dropout=True` cannot reach {type(module).__name__}, which reads `{read[0]}` from the "
                f"model's configuration; the configuration is the caller's. Set `model.config.{read[0]} = 0.0`, and "
                f"that of a reference beside it; of a model given by name, `model_init_kwargs={{'{read[0]}': 0.0}}`."
            )


def first_dropout(model: nn.Module, but: Sequence[nn.Module] = ()) -> str | None:
    """The first module that drops something, or adds noise while it is trained, as routers of experts do ("jitter");
    some keep the rate as a number instead of in a module of its own, or read it from the configuration.

    Args:
        but: Modules that are left out with all that they hold.
    """
    left_out = {id(inner) for module in but for inner in module.modules()}
    for name, module in model.named_modules():
        if id(module) in left_out:
            continue
        numbers = {key: value for key, value in vars(module).items() if isinstance(value, float)}
        rates = {key: value for key, value in numbers.items() if "drop" in key or "jitter" in key}
        if isinstance(module, nn.modules.dropout._DropoutNd):
            rates["p"] = module.p
        for key, rate in {**rates, **_rates_of_config(module)}.items():
            if rate > 0.0:
                return f"{name or type(module).__name__}: {key}={rate}"
    return None


def _rates_of_config(module: nn.Module) -> dict[str, float]:
    """Rates above 0 that a layer's forward pass reads from the configuration."""
    found = {name: getattr(module.config, name, None) for name in _read_from_config(type(module))}
    return {name: rate for name, rate in found.items() if type(rate) in (int, float) and rate > 0}


@cache
def _read_from_config(kind: type[nn.Module]) -> tuple[str, ...]:
    """What the layer's forward pass reads as `self.config.NAME`, as far as its code is at hand."""
    try:
        return tuple(re.findall(r"\bself\.config\.(\w*(?:drop|jitter)\w*)", inspect.getsource(kind.forward)))
    except (OSError, TypeError):
        return ()
