"""Registries: what a user's file adds under a name, and the library builds by that name."""

import difflib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")


class Registry(MutableMapping[str, T]):
    """
    Named objects of one kind, in the order in which they were registered.

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
    """

    def __init__(self, kind: str, check: Callable[[T, str], None] | None = None) -> None:
        self.kind = kind
        self.choices = Choices(self)
        self._check = check
        self._entries: dict[str, T] = {}

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
            own = getattr(entry, "name", None)
            key = name or (own if isinstance(own, str) else getattr(entry, "__name__", None))
            if not isinstance(key, str) or not key.replace("-", "_").isidentifier():
                raise ValueError(f"a {self.kind} is registered under a plain word, not {key!r}")
            before = self._entries.get(key)
            if before is not None and before is not entry and _origin(before) != _origin(entry):
                raise ValueError(f"there is a {self.kind} {key!r} already, {_describe(before)}; choose another name")
            if self._check is not None:
                self._check(entry, key)
            self._entries[key] = entry
            return entry

        return add

    def get(self, name: str, *default: Any) -> T:
        """The object of that name; without it, `default` if one is given, else a ValueError that names the choices."""
        if name in self._entries:
            return self._entries[name]
        if default:
            return default[0]
        raise ValueError(self.unknown(name))

    def unknown(self, name: object) -> str:
        """The sentence of an error for a name nobody registered: the nearest name and all choices."""
        near = difflib.get_close_matches(str(name), self._entries, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return (
            f"no {self.kind} {name!r}.{hint} Choose one of {', '.join(self._entries) or 'none yet'}, or register one."
        )

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __setitem__(self, name: str, entry: T) -> None:
        self.register(name)(entry)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}: {', '.join(self._entries)})"


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
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", id(entry))


def _describe(entry: object) -> str:
    return ".".join(str(part) for part in _origin(entry)) if hasattr(entry, "__qualname__") else repr(entry)
