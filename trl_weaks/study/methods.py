"""Methods of a study as data: one way to train the student on weak labels."""

import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS
from trl_weaks.commands.errors import did_you_mean
from trl_weaks.losses import LOSSES
from trl_weaks.study.code_digest import code_digest, code_module
from trl_weaks.study.config import ROWS
from trl_weaks.study.files import file_digest

ON_GOLD_OF_A = "strong_on_a"  # the student that is trained on half A's gold

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Method:
    """One way to train the student on weak labels; a row of the report.

    Args:
        name: key in `results.json`, and of the folder.
        label: what the report calls it; default the name.
        labels: of completions: `"independent"` (each supervisor's best completion), `"joint"` (Eq. 6), or another
            registered completion aggregator. Of classes: `"independent"`, `"trusted"` (votes weighted by trust
            heads that learn on the validation split), `"boosted"` (weighted by boosting on that split), or
            `"annotators"` (votes of simulated annotators, from gold of half B; see `trl_weaks.study.annotators`).
        transform: the labels as a `Dataset` -> the labels to train on: filtered, relabelled or reweighted, with
            no row more of any `example_id`. The weights of what is left are made to sum to one again.
        after: a row whose trained student the transform reads, `"strong_on_a"` for the student trained on half A's
            gold: the transform is then called as `transform(labels, trained)`, with a [`TrainedStudent`].
        aggregator: how the supervisors' answers become one label: a registered name; of completions the same as
            `labels`, of classes the `pooling`.
        loss: a registered name of `weak_loss`, or a loss `(logits, targets, progress) -> (n,)` of your own.
        settings: of the student's trainer, over those of the preset.
        supervisors: whose labels; empty for all. PGR is measured against these.
        min_supervisors: fewer cannot do. With fewer it is left out of `field`, and refused where it is asked for.

    Example:

    >>> Method("confident", transform=lambda labels: labels.filter(lambda row: max(row["weak_weights"]) > 0.4)).label
    'confident'
    """

    name: str
    label: str = ""
    labels: str = "independent"
    transform: Callable[..., Dataset] | None = None
    aggregator: str | None = None
    loss: str | Callable[..., Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    supervisors: Sequence[str] = ()
    after: str = ""
    min_supervisors: int = 1

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a method's name is made of letters, digits and _ - . (not in front); got {self.name!r}."
            )
        if self.name in ROWS:
            raise ValueError(f"a method cannot be called {self.name!r}: the report has a row of that name.")
        for name in ("transform", "loss"):
            value = getattr(self, name)
            if value is not None and not callable(value) and not (name == "loss" and isinstance(value, str)):
                raise ValueError(f"method {self.name!r}: `{name}` is {value!r}, which cannot be called.")
        self._check_plain()
        if self.after and self.transform is None:
            raise ValueError(f"method {self.name!r}: `after={self.after!r}` is for a `transform`, and there is none.")
        if not isinstance(self.min_supervisors, int) or self.min_supervisors < 1:
            raise ValueError(
                f"method {self.name!r}: min_supervisors={self.min_supervisors!r} is a number, at least 1."
            )
        object.__setattr__(self, "label", self.label or self.name)

    def _check_plain(self) -> None:
        if not isinstance(self.label, str):
            raise ValueError(f"method {self.name!r}: `label` is {self.label!r}; it must be text.")
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"method {self.name!r}: `settings` is {self.settings!r}; it must be a dict.")
        if isinstance(self.supervisors, str):
            raise ValueError(f"method {self.name!r}: `supervisors` is text; give a list: [{self.supervisors!r}].")
        if len(set(self.supervisors)) < len(self.supervisors):
            raise ValueError(f"method {self.name!r}: `supervisors` names one twice: {list(self.supervisors)}.")
        for given, setting in (("loss", "weak_loss"), ("aggregator", "pooling")):
            if getattr(self, given) is not None and setting in self.settings:
                raise ValueError(
                    f"method {self.name!r}: `{given}` and `settings[{setting!r}]` decide the same; remove one."
                )

    def over(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The student's settings with this method's over them."""
        own = {"weak_loss": self.loss} if isinstance(self.loss, str) else {}
        return dict(settings) | own | dict(self.settings)

    @property
    def custom_loss(self) -> Callable[..., Any] | None:
        return self.loss if callable(self.loss) else None

    def spec(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a stage's key needs to know: the values, and the digest of what is code.

        Args:
            settings: of the student's trainer, which the key knows; what they name may be the user's code.
        """
        code = {
            name: code_digest(getattr(self, name)) for name in ("transform", "loss") if callable(getattr(self, name))
        }
        plain = {name: getattr(self, name) for name in ("name", "labels", "aggregator")}
        loss = {"loss": self.loss} if isinstance(self.loss, str) else {}
        loss |= {"after": self.after} if self.after else {}
        code |= {f"{name}, registered": digest for name, digest in self._registered(settings or {})}
        return plain | loss | code | {"settings": dict(self.settings), "supervisors": list(self.supervisors)}

    def _registered(self, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What the user registered under the names that this method uses: its code counts as the method's own."""
        named = self.over(settings)
        loss, pooling = named.get("weak_loss"), self.aggregator or named.get("pooling")
        aggregators = [(AGGREGATORS, pooling), (COMPLETION_AGGREGATORS, self.aggregator or self.labels)]
        for registry, name in ((LOSSES, loss), *aggregators):
            found = registry.get(name, None) if isinstance(name, str) else None
            if found is not None and not code_module(found).startswith("trl_weaks."):
                yield name, code_digest(found)


def choose_methods(
    names: Sequence[str | Method],
    known: Mapping[str, Method],
    headline: Sequence[str],
    supervisors: Collection[str] = (),
    field: Mapping[str, Method] | None = None,
    annotators: Mapping[str, Method] | None = None,
) -> list[Method]:
    """Methods by name, each once; `headline`, `all`, `field` and `annotators` stand for their lists, `*.py` for a
    file's `METHODS`.

    Args:
        names: what the user asked for; a [`Method`] stands for itself.
        known: every method of `all`, by name.
        headline: names of the rows a first run shows.
        supervisors: names that a method's `supervisors` may have.
        field, annotators: methods of these groups, by name.

    Raises:
        ValueError: a name is unknown (lists the known ones), two methods have one name, a method names a supervisor
            that the study has not, or needs more of them.
    """
    groups = {"all": known, "field": field or {}, "annotators": annotators or {}}
    every = {name: method for group in reversed(groups.values()) for name, method in group.items()}
    wanted: dict[str, Method] = {}
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str | Method):
            raise ValueError(f"a method is a name or a `Method`, not {name!r}.")
        given = [name] if isinstance(name, Method) else _read_methods(name) if name.endswith(".py") else None
        if given is None:
            group = headline if name == "headline" else groups.get(name) or [name]
            given = [every[one] for one in group if one in every]
            if name in groups:
                given = [method for method in given if not _lacks(method, supervisors, f"`--methods {name}`")]
            unknown = [one for one in group if one not in every and one not in ROWS]
            if unknown:
                names = list(dict.fromkeys(["headline", *(g for g in groups if groups[g]), *every, *ROWS]))
                hint = did_you_mean(unknown[0], names)
                raise ValueError(f"Unknown method {unknown[0]!r}.{hint} Known: {', '.join(names)}.")
        for method in given:
            if method.name in supervisors:
                raise ValueError(f"the method {method.name!r} has the name of a supervisor; choose another.")
            if wanted.setdefault(method.name, method) != method:
                raise ValueError(f"two methods are called {method.name!r}; rename one.")
            same = [one.name for one in wanted.values() if one.label == method.label and one is not method]
            if same and same[0] != method.name:
                raise ValueError(
                    f"the methods {same[0]!r} and {method.name!r} have one label, {method.label!r}: nobody could tell "
                    "their rows apart. Change one."
                )
            reason = _lacks(method, supervisors)
            if reason:
                raise ValueError(f"{reason}. Add supervisors, or leave the method out.")
            missing = sorted(set(method.supervisors) - set(supervisors))
            if missing:
                raise ValueError(
                    f"method {method.name!r}: there is no supervisor {missing[0]!r}; there are {sorted(supervisors)}."
                )
    return in_order(wanted)


def _lacks(method: Method, supervisors: Collection[str], group: str = "") -> str | None:
    """Why there are too few supervisors for a method, if there are; a warning that a group of methods goes without."""
    count = len(method.supervisors or supervisors)
    if not count or count >= method.min_supervisors:
        return None
    reason = f"method {method.name!r} needs {method.min_supervisors} supervisors or more, and has {count}"
    if group:
        logger.warning("%s: %s; it is left out.", group, reason)
    return reason


def in_order(methods: Mapping[str, Method]) -> list[Method]:
    """The methods, each after the one whose student it reads, else as they came.

    Raises:
        ValueError: a method comes after one that is not there, or after itself.
    """
    found: dict[str, Method] = {}

    def add(method: Method, above: tuple[str, ...]) -> None:
        if method.name in above:
            raise ValueError(f"methods in a circle, each after the next: {' > '.join([*above, method.name])}.")
        if method.after and method.after != ON_GOLD_OF_A:
            if method.after not in methods:
                raise ValueError(
                    f"method {method.name!r} reads the student of {method.after!r}, which is not among the methods; "
                    f"add {method.after!r}."
                )
            add(methods[method.after], (*above, method.name))
        found.setdefault(method.name, method)

    for method in methods.values():
        add(method, ())
    return list(found.values())


def _read_methods(path: str) -> list[Method]:
    """The `METHODS` of a file.

    Raises:
        ValueError: no such list, or something in it that is no [`Method`].
        FileNotFoundError: no such file.
    """
    module = load_module(Path(path))
    found = getattr(module, "METHODS", None)
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"{path} has no list METHODS = [Method(...), ...].")
    for number, method in enumerate(found):
        if not isinstance(method, Method):
            raise ValueError(f"{path}: METHODS[{number}] is a {type(method).__name__}, not a `Method`.")
    return list(found)


def load_module(path: Path) -> Any:
    """A user's file as a module; run again where its text has changed. It finds modules that lie beside it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be run; says why.
    """
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    name, digest = f"trl_weaks_user_{path.stem}", file_digest(path)
    known = sys.modules.get(name)
    if getattr(known, "__file__", None) == str(path) and getattr(known, "trl_weaks_digest", None) == digest:
        return known
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    module.trl_weaks_digest = digest
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # bytecode of old text may lie beside it
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module
