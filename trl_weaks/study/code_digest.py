"""What a stage's key needs to know of code: a callable's own code, what that calls and reads, and what it carries."""

import argparse
import copyreg
import dis
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from trl_weaks.study.files import file_digest
from trl_weaks.study.stages import fingerprint

INSTALLED = {Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
PACKAGE = Path(__file__).resolve().parents[1]
CARRIERS = (
    *(str, list, tuple, Mapping, Set, functools.partial, Enum, SimpleNamespace, argparse.Namespace),
    *(np.ndarray, torch.Tensor, pd.Series, pd.DataFrame, pd.Index, Dataset),
)
LONG = 1000  # bytes that are hashed rather than written out
NOT_CODE = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __qualname__ __firstlineno__ __static_attributes__ _abc_impl".split()
)


def code_digest(thing: Any) -> str:
    """Digest of a callable of the user's: what it does, as it is loaded now, and the values it carries.

    Those are default arguments, what a closure, a partial or a decorator holds, the object of a method, and the
    attributes of an object that is called. Of the user's own files it follows what the code names in turn: functions,
    classes and their bases, and plain values, whichever module of theirs they stand in. Comments and layout do not
    count. What it reads at run time (a file, another process) is not seen, nor is a change within installed packages.
    Objects of compiled code are what pickle would keep of them; of those that it refuses (a lock, an open file), their
    kind.
    """
    return fingerprint(_Seen().plain(thing))


def code_module(thing: Any) -> str:
    """The module where a callable of the user's, or the function that an object holds, was written."""
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        thing = next((value for value in getattr(thing, "__dict__", {}).values() if inspect.isroutine(value)), thing)
    return getattr(thing, "__module__", None) or type(thing).__module__


class _Seen:
    """Callables as plain values; each object once, so that circles end."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Any]] = {}  # holds the objects: a freed one's id may be another's

    def plain(self, value: Any) -> Any:
        if isinstance(value, bytes | bytearray) and len(value) > LONG:
            return hashlib.sha256(value).hexdigest()
        if value is None or isinstance(value, str | int | float | bool | complex | bytes | bytearray):
            return repr(value)
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
        if isinstance(value, np.ndarray) and value.dtype != object:
            data = np.ascontiguousarray(value).tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
        if id(value) in self._known:
            return self._known[id(value)][0]
        self._known[id(value)] = len(self._known), value
        if isinstance(value, np.ndarray):  # of objects
            return ["objects", list(value.shape), self._collection(value.ravel().tolist())]
        if not isinstance(value, Mapping | Set | list | tuple):
            return self._code(value) if callable(value) or hasattr(value, "__dict__") else self._pickled(value)
        found = self._collection(value)
        del self._known[id(value)]  # equal ones may be one object or several
        return found

    def _collection(self, values: Any) -> Any:
        if isinstance(values, Mapping):
            written = {key: key if isinstance(key, str) else f"{type(key).__name__} {key!r}" for key in values}
            return {written[key]: self.plain(item) for key, item in values.items()}
        if isinstance(values, Set):
            return sorted(repr(item) for item in values)
        return [self.plain(item) for item in values]

    def _code(self, thing: Any) -> Any:
        if isinstance(thing, functools.partial):
            return ["partial", *(self.plain(part) for part in (thing.func, thing.args, thing.keywords))]
        if isinstance(thing, FunctionType):
            return self._function(thing)
        if isinstance(thing, type):
            return self._class(thing) if _is_users(thing) else _name(thing)
        if isinstance(thing, staticmethod | classmethod | property):
            parts = [thing.fget, thing.fset] if isinstance(thing, property) else [thing.__func__]
            return [self.plain(part) for part in parts]
        if inspect.ismethod(thing):
            return [self.plain(thing.__func__), self.plain(thing.__self__)]
        if inspect.isroutine(thing):  # of C, such as a method of an object or a cache around a function
            owner, inner = getattr(thing, "__self__", None), getattr(thing, "__wrapped__", None)
            return [_name(thing), None if isinstance(owner, ModuleType) else self.plain(owner), self.plain(inner)]
        attributes = _attributes(thing)
        if not _is_users(type(thing)) and (not attributes or _keeps_more(thing)):
            return self._pickled(thing)
        return [self.plain(type(thing)), self.plain(attributes)]

    def _pickled(self, value: Any) -> Any:
        """What pickle keeps of an object whose state no attribute shows; how it shows itself where pickle refuses."""
        try:
            make = copyreg.dispatch_table.get(type(value))
            found = make(value) if make else value.__reduce_ex__(4)
        except Exception:
            return _shown(value)
        if isinstance(found, str):
            return found
        parts = [list(part) if isinstance(part, Iterator) else part for part in found]
        return [_name(type(value)), _name(parts[0]), *(self.plain(part) for part in parts[1:])]

    def _function(self, function: FunctionType) -> Any:
        carried = [function.__defaults__, function.__kwdefaults__]
        carried += [_contents(cell) for cell in function.__closure__ or ()]
        carried += [vars(function)[name] for name in ("__wrapped__",) if name in vars(function)]
        read = self._read(function) if _is_users(function) else {}
        return [_instructions(function.__code__), [self.plain(value) for value in carried], read]

    def _class(self, kind: type) -> Any:
        own = {name: self.plain(value) for name, value in sorted(vars(kind).items()) if name not in NOT_CODE}
        return [_name(kind), [self.plain(base) for base in kind.__bases__], own]

    def _read(self, function: FunctionType) -> dict[str, Any]:
        """What a function names of the modules of the user's."""
        names, found = sorted(set(_names(function.__code__))), {}
        for name in names:
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType) and _is_users(value):
                found |= {f"{name}.{one}": self._of_user(vars(value)[one]) for one in names if one in vars(value)}
            elif name in function.__globals__:
                found[name] = self._of_user(value)
        return found | {name: file_digest(path) for name, path in _imported(function.__code__)}

    def _of_user(self, value: Any) -> Any:
        """A value of a module of the user's; of a package's code and objects, what they are called."""
        if inspect.isroutine(value) or isinstance(value, type | ModuleType):
            return self.plain(value) if _is_users(value) else _name(value)
        followed = isinstance(value, CARRIERS) or _is_users(type(value)) or not hasattr(value, "__dict__")
        return self.plain(value) if followed else _name(type(value))


def _is_users(thing: Any) -> bool:
    """Whether code is neither of this package nor of the standard library or an installed one."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or ""
    if name.partition(".")[0] in ("trl_weaks", "builtins") or name in sys.builtin_module_names:
        return False
    file = getattr(thing if isinstance(thing, ModuleType) else sys.modules.get(name), "__file__", None)
    if file is None:
        return name == "__main__" or isinstance(thing, FunctionType)  # of a notebook, or of text that was run
    return not _is_installed(file)


def _is_installed(file: str) -> bool:
    path = Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in (*INSTALLED, PACKAGE))


def _instructions(code: CodeType) -> Any:
    """What code does, without the places of its lines."""
    constants = [_instructions(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount, code.co_flags]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), constants, repr(names), code.co_kwonlyargcount]


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _imported(code: CodeType) -> Iterator[tuple[str, str]]:
    """Modules of the user's that code imports where it stands: name and file."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _imported(one)
    for name in {step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"}:
        try:
            found = find_spec(name)
        except (ImportError, ValueError):
            continue
        if found is not None and found.origin and Path(found.origin).is_file() and not _is_installed(found.origin):
            yield name, found.origin


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "<not made yet>"


def _keeps_more(thing: Any) -> bool:
    """Whether a class says by itself what pickle is to keep, as compiled ones do."""
    names = "__reduce__", "__reduce_ex__", "__getstate__"
    own = any(getattr(type(thing), name, None) is not getattr(object, name, None) for name in names)
    return own or type(thing) in copyreg.dispatch_table


def _attributes(thing: Any) -> dict[str, Any]:
    slots = [name for base in type(thing).__mro__ for name in getattr(base, "__slots__", ())]
    return {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name, None) for name in slots}}


def _name(thing: Any) -> str:
    if isinstance(thing, ModuleType):
        return thing.__name__
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _shown(value: Any) -> str:
    """A value as it shows itself, unless that tells where in memory it lies."""
    shown = repr(value)
    return _name(type(value)) if re.search(r" at 0x[0-9a-f]+", shown) else shown
