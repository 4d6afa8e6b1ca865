"""Several weak supervisors and their weights; the joint score of a completion (Eq. 6)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..fingerprint import tokenizer_facts
from .classifier import WeakClassifier
from .loading import classifies, name_of
from .reading.messages import Completion, Prompt
from .scores import Scored
from .supervisor import WeakSupervisor


class WeakEnsemble:
    """N weak supervisors with weights that sum to one, kept in the order of their names.

    Args:
        supervisors: with distinct names; their order does not matter.
        weights: one positive weight for each, in the order given; normalised to sum to one. Equal weights by
            default (*ours*; the paper's are hand-set and differ between losses, decoding and preferences).

    Raises:
        ValueError: no supervisor, two of one name, one model under two names, or a weight that is not positive and
            finite.
    """

    def __init__(self, supervisors: Sequence[WeakSupervisor], weights: Sequence[float] | None = None):
        if not supervisors:
            raise ValueError("an ensemble needs at least one supervisor.")
        names = [s.name for s in supervisors]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two supervisors are called {twice[0]!r}; give each WeakSupervisor its own name.")
        for i, one in enumerate(supervisors):
            for other in supervisors[:i]:
                if same_reader(one, other):
                    raise ValueError(_twice(other, one))
        weights = [1.0] * len(names) if weights is None else [float(w) for w in weights]
        if len(weights) != len(names):
            raise ValueError(f"{len(weights)} weights for {len(names)} supervisors; give one for each.")
        for name, weight in zip(names, weights, strict=True):
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(
                    f"the weight of supervisor {name!r} is {weight}; weights must be positive and finite (leave a "
                    "supervisor out instead of giving it no weight)."
                )
        order = sorted(range(len(names)), key=names.__getitem__)
        total = math.fsum(weights)
        self.supervisors = [supervisors[i] for i in order]
        self.names = [names[i] for i in order]
        self.weights = [weights[i] / total for i in order]

    @classmethod
    def from_pretrained(
        cls,
        paths: Sequence[str | Path],
        weights: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> "WeakEnsemble":
        """Supervisors from the Hub or from folders: classifiers where the checkpoints are classifiers.

        Args:
            paths: of the models; their last parts are the names where none are given, and must differ then.
            kwargs: for every `from_pretrained`, such as `dtype`.

        Raises:
            ValueError: before anything is loaded: one path in place of a list, numbers that do not match, two of one
                name, or some that classify and others that do not; then, a model that cannot be loaded (named).
        """
        names = _names(paths, weights, names)
        kinds = {path: classifies(path, **kwargs) for path in paths}
        if len(set(kinds.values())) > 1:
            odd = sorted(path for path, kind in kinds.items() if kind)
            raise ValueError(f"{odd} are classifiers and the others language models; make two ensembles of them.")
        kind = WeakClassifier if any(kinds.values()) else WeakSupervisor
        loaded = [kind.from_pretrained(p, name=n, device=device, **kwargs) for p, n in zip(paths, names, strict=True)]
        return cls(loaded, weights)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        r"""Joint score of each completion, in nats per token (Eq. 6, length-normalised as in the authors' code).

        $$S(y) = \sum_i w_i \frac{1}{T_i} \sum_{t=1}^{T_i} \log p_i(y_t \mid x, y_{<t})$$

        T_i counts the tokens of supervisor i, **its end-of-sequence token included**, for every supervisor and
        everywhere in this project: an answer is also judged by where it ends. (The authors include it in preferences
        and leave it out in joint decoding.)

        Source: Cui et al., arXiv 2406.03199, Eq. 6, 10 and 11.
        """
        scores = [supervisor.score(prompts, completions) for supervisor in self.supervisors]
        return [self.combine(row) for row in zip(*scores, strict=True)]

    def combine(self, scores: Sequence[Scored]) -> float:
        """The joint score from what each supervisor gave, in the order of `names`."""
        return math.fsum(w * r.mean_logp for w, r in zip(self.weights, scores, strict=True))


def _names(paths: Any, weights: Any, names: Any) -> list[str]:
    """What the supervisors will be called."""
    for setting, given in (("paths", paths), ("names", names)):
        if isinstance(given, str | Path):
            raise ValueError(f"{setting}={str(given)!r} is one; give a list of them.")
    for setting, given in (("weights", weights), ("names", names)):
        if given is not None and len(given) != len(paths):
            raise ValueError(f"{len(given)} {setting} for {len(paths)} paths; give one for each.")
    found = [name or name_of(path) for path, name in zip(paths, names or [None] * len(paths), strict=True)]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"two supervisors would be called {twice[0]!r}; give each its own (`names`).")
    return found


def same_reader(one: Any, other: Any) -> bool:
    """Whether two supervisors are one model object, read with the same adapters and through the same tokenizer."""
    mine, theirs = getattr(one, "adapters", None), getattr(other, "adapters", None)
    if mine is None or theirs is None or mine.base is not theirs.base or mine.names() != theirs.names():
        return False
    if any(getattr(one, name, None) != getattr(other, name, None) for name in ("variant", "max_length")):
        return False
    return tokenizer_facts(one.tokenizer) == tokenizer_facts(other.tokenizer)


def _twice(one: Any, other: Any) -> str:
    names = list(one.adapters.names())
    which = f"the same model with the same adapters {names}" if names else "the same model object"
    return (
        f"supervisors {one.name!r} and {other.name!r} are {which}, which would vote twice. For several adapters on "
        "one base load each under a name of its own (`PeftModel.from_pretrained(base, path, adapter_name=...)`, or "
        "`model.load_adapter(path, adapter_name=...)`; a second one of the same name takes the first one's place) and "
        "give each supervisor its `adapter`."
    )


def refuse_no_ensemble(ensemble: object) -> None:
    """
    Raises:
        ValueError: it is no ensemble, but paths or supervisors by themselves; says how to make one.
    """
    if not isinstance(ensemble, WeakEnsemble):
        raise ValueError(
            f"`ensemble` is a {type(ensemble).__name__}; of paths make `WeakEnsemble.from_pretrained([...])`, "
            "of supervisors `WeakEnsemble([...])`."
        )
