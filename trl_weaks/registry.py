"""Registries: what a user's file adds under a name, and the library builds by that name."""

import ast
import difflib
import importlib
import importlib.util
import pkgutil
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")

_FINDING = threading.RLock()


class Registry(MutableMapping[str, T]):
    """
    Named objects of one kind: those of the package by file, then others in the order in which they were registered.

    What the package itself registers stands in files of one of its folders. These are imported when the registry is
    first read, and only those of them that register something in it: a new file needs no line anywhere else, and
    nothing heavy is loaded for a name.

    `register` is a decorator; `REGISTRY[name] = entry` does the same, and `del REGISTRY[name]` frees a name. `choices`
    is live: a config or a parser that holds it sees what is registered later.

    ```python
    >>> COLOURS = Registry("colour")
    >>> @COLOURS.register("red")
    ... class Red: ...
    >>> COLOURS.get("red").__name__, COLOURS.names()
    ('Red', ['red'])
    >>> COLOURS.get("rad")
    Traceback (most recent call last):
    ValueError: no colour 'rad'. Did you mean 'red'? Choose one of red, or register one.

    ```

    Args:
        kind: What is registered, in the singular; errors name it ("loss").
        check: Called with each object and its name before it is registered; raises what it finds wrong.
        package: The folder of the package whose files register something, as a dotted name; default none.
        variable: What those files call this registry.
    """

    def __init__(
        self,
        kind: str,
        check: Callable[[T, str], None] | None = None,
        package: str | None = None,
        variable: str = "",
    ) -> None:
        self.kind = kind
        self.choices = Choices(self)
        self._check = check
        self._package, self._variable, self._finding = package, variable, False
        self._entries: dict[str, T] = {}

    def _all(self) -> dict[str, T]:
        """The entries, those of the package's files among them."""
        if self._package is not None:
            with _FINDING:
                if self._package is not None and not self._finding:  # a file that is being imported may ask
                    self._finding = True
                    try:
                        import_registering(self._package, self._variable)
                        self._own_first(f"{self._package}.")
                        self._package = None
                    finally:
                        self._finding = False
        return self._entries

    def _own_first(self, prefix: str) -> None:
        """The package's own entries by file, then others: in an order that does not tell which file came first."""
        places = {name: str(getattr(entry, "__module__", "")) for name, entry in self._entries.items()}
        own = sorted((name for name in places if places[name].startswith(prefix)), key=places.__getitem__)
        self._entries = {name: self._entries[name] for name in [*own, *(name for name in places if name not in own)]}

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """
        Decorator that registers a class or a function under `name` and returns it unchanged.

        Args:
            name: Default: the object's own attribute `name`, else its `__name__`. One object may have several names.

        Raises:
            ValueError: for a name that is not a plain word, or that another object has already. The same class
                defined again from the same place, as when a file is read twice, takes its former self's place.
        """

        def add(entry: T) -> T:
            named = getattr(entry, "name", None)
            key = name or (named if isinstance(named, str) else getattr(entry, "__name__", None))
            if not isinstance(key, str) or not key.replace("-", "_").isidentifier():
                raise ValueError(f"a {self.kind} is registered under a plain word, not {key!r}")
            own = self._package is not None and str(getattr(entry, "__module__", "")).startswith(f"{self._package}.")
            before = (self._entries if own else self._all()).get(key)
            if before is not None and before is not entry and _origin(before) != _origin(entry):
                raise ValueError(f"there is a {self.kind} {key!r} already, {_describe(before)}; choose another name")
            if self._check is not None:
                self._check(entry, key)
            self._entries[key] = entry
            return entry

        return add

    def get(self, name: str, *default: Any) -> T:
        """The object of that name; without it, `default` if one is given, else a ValueError that names the choices."""
        if name in self._all():
            return self._entries[name]
        if default:
            return default[0]
        raise ValueError(self.unknown(name))

    def unknown(self, name: object) -> str:
        """The sentence of an error for a name nobody registered: the nearest name and all choices."""
        near = difflib.get_close_matches(str(name), self._all(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return (
            f"no {self.kind} {name!r}.{hint} Choose one of {', '.join(self._entries) or 'none yet'}, or register one."
        )

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._all())

    def __getitem__(self, name: str) -> T:
        return self._all()[name]

    def __setitem__(self, name: str, entry: T) -> None:
        self.register(name)(entry)

    def __delitem__(self, name: str) -> None:
        del self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self._all())})"


def import_registering(package: str, variable: str) -> None:
    """
    Import the files of a package that register something, in the order of their names.

    A file is read before it is imported: where `variable` occurs outside of functions and classes, or in front of one
    as a decorator, it registers something. One without a source is imported.

    Args:
        package: Dotted name of the folder.
        variable: What the files call the registry.
    """
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        spec = importlib.util.find_spec(found.name)
        source = spec.loader.get_source(found.name)
        if source is None or _registers(source, variable):
            importlib.import_module(found.name)


def _registers(source: str, variable: str) -> bool:
    if variable not in source:
        return False
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.parse(source).body:
        for part in node.decorator_list if isinstance(node, inner) else [node]:
            for name in ast.walk(part):
                if variable in (getattr(name, "id", None), getattr(name, "attr", None)):
                    return True
    return False


class Choices(list):
    """
    The names of a registry as argparse and dataclass fields expect them: a list, read anew at each use.

    Args:
        registry: Whose names.
        first: Names that come before them, such as a choice that is not registered.
        where: Which objects are meant; default all.
    """

    def __init__(
        self, registry: Registry, first: tuple[str, ...] = (), where: Callable[[Any], bool] = lambda entry: True
    ) -> None:
        super().__init__()
        self._registry, self._first, self._where = registry, first, where

    def _now(self) -> list[str]:
        found = [name for name, entry in self._registry.items() if self._where(entry)]
        return [*self._first, *(name for name in found if name not in self._first)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __contains__(self, name: object) -> bool:
        return name in self._now()

    def __len__(self) -> int:
        return len(self._now())

    def __getitem__(self, place):
        return self._now()[place]

    def __eq__(self, other: object) -> bool:
        return self._now() == other

    def __repr__(self) -> str:
        return repr(self._now())

    def __deepcopy__(self, memo: dict) -> "Choices":
        return self  # a copy must not stand still

    def __reduce__(self):
        return list, (self._now(),)

    __hash__ = None


def _origin(entry: object) -> tuple:
    """Where it was defined; of an object that holds a function of the user's, where that was."""
    if not hasattr(entry, "__qualname__"):
        held = [value for value in getattr(entry, "__dict__", {}).values() if hasattr(value, "__qualname__")]
        own = [value for value in held if not str(value.__module__).startswith("trl_weaks.")]
        return type(entry), *(map(_origin, own) if own else [id(entry)])
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", id(entry))


def _describe(entry: object) -> str:
    return ".".join(str(part) for part in _origin(entry)) if hasattr(entry, "__qualname__") else repr(entry)
