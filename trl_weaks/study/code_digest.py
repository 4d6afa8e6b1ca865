"""What a stage's key needs to know of code: a callable's source, and the values that it carries along."""

import functools
import hashlib
import inspect
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from trl_weaks.study.stages import fingerprint


def code_digest(thing: Any) -> str:
    """Digest of a callable of the user's: its source (its name where there is none) and the values it carries.

    Those are default arguments, what a closure, a partial or a decorator holds, the object of a method, and the
    attributes of an object that is called. What the code calls or reads in turn is not seen; after a change there,
    rename it or choose another output folder.
    """
    return fingerprint(_seen(thing, ()))


def code_module(thing: Any) -> str:
    """The module where a callable of the user's, or the function that an object holds, was written."""
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        thing = next((value for value in getattr(thing, "__dict__", {}).values() if inspect.isroutine(value)), thing)
    return getattr(thing, "__module__", None) or type(thing).__module__


def _seen(thing: Any, above: tuple[int, ...]) -> Any:
    """A callable as plain values; `above` are those that it is part of, so that a circle ends."""
    if id(thing) in above:
        return "itself"
    above = (*above, id(thing))
    if isinstance(thing, functools.partial):
        return ["partial", *(_plain(part, above) for part in (thing.func, thing.args, thing.keywords))]
    is_code = inspect.isroutine(thing) or inspect.isclass(thing)
    code = thing if is_code else type(thing)
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):
        source = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', repr(code))}"
    carried = [getattr(code, "__defaults__", None), getattr(code, "__kwdefaults__", None)]
    carried += [cell.cell_contents for cell in getattr(code, "__closure__", None) or ()]
    carried += [vars(thing)[name] for name in ("__wrapped__",) if name in getattr(thing, "__dict__", {})]
    owner = getattr(thing, "__self__", None)
    carried += [] if owner is None or inspect.ismodule(owner) else [owner]
    carried += [] if is_code else [_attributes(thing)]
    return [source, [_plain(value, above) for value in carried]]


def _attributes(thing: Any) -> dict[str, Any]:
    slots = [name for base in type(thing).__mro__ for name in getattr(base, "__slots__", ())]
    return {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name, None) for name in slots}}


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy() if value.dtype == torch.bfloat16 else value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, above) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(repr(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item, above) for item in value]
    if callable(value) or hasattr(value, "__dict__"):
        return _seen(value, above)
    return repr(value)
