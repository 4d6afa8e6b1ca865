"""The rows of the paper's Table 2, and what stands beside them, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trl_weaks.study.pipeline.choose import choose_methods

BASELINES = ("ceiling", "strong_on_a")  # the student on gold: half B, and half A, which the supervisors saw
VOTE_BASELINES = {"mean_vote": "Mean vote of the supervisors", "majority_vote": "Majority vote of the supervisors"}
DAWID_SKENE = "dawid_skene"


@dataclass(frozen=True)
class Method:
    """One way to train the student on the votes.

    Args:
        name: key in `results.json`.
        label: what the report calls it.
        settings: of `WeakClassificationConfig`, over those of the preset.
        supervisors: whose votes; empty for all.
    """

    name: str
    label: str
    settings: tuple[tuple[str, Any], ...]
    supervisors: tuple[str, ...] = ()


def _pair(name: str, label: str, weak_loss: str, supervisors: tuple[str, ...] = ()) -> list[Method]:
    """Without and with the auxiliary loss."""
    plain = (("weak_loss", weak_loss), ("gamma_max", 0.0))
    auxiliary = (("weak_loss", weak_loss), ("threshold", "argmax"))
    return [
        Method(name, label, plain, supervisors),
        Method(f"{name}_aux", f"{label} + auxiliary", auxiliary, supervisors),
    ]


def all_methods(supervisors: Sequence[str]) -> dict[str, Method]:
    """Every method for these supervisors, by name."""
    found = []
    for name in supervisors:
        found += _pair(f"single_{name}", f"Single weak-to-strong, {name}", "naive", (name,))
    found += _pair("naive", "Naive multi-weak", "naive")
    found += _pair("bayesian", "Bayesian multi-weak", "bayesian")
    balanced = (("weak_loss", "bayesian"), ("threshold", "balanced"))
    found.append(Method("bayesian_balanced", "Bayesian multi-weak + balanced auxiliary", balanced))
    majority = (("weak_loss", "naive"), ("pooling", "majority"), ("gamma_max", 0.0))
    found.append(Method("majority", "Student on the majority vote", majority))
    votes = (("weak_loss", "dirichlet_votes"), ("gamma_max", 0.0))
    found.append(Method("dirichlet_votes", "Dirichlet fitted to the votes", votes))
    return {method.name: method for method in found}


def headline(supervisors: Sequence[str]) -> list[str]:
    """Names of the rows a first run shows: those of the paper's Table 2, and the Dirichlet fitted to the votes."""
    names = [f"single_{s}{aux}" for s in supervisors for aux in ("", "_aux")]
    return [*names, "naive", "naive_aux", "bayesian", "bayesian_aux", "bayesian_balanced", "dirichlet_votes"]


def choose(names: Sequence[str], supervisors: Sequence[str]) -> list[Method]:
    """Methods by name; `all` and `headline` stand for their lists.

    Raises:
        ValueError: a name is unknown; lists the known ones.
    """
    return choose_methods(names, all_methods(supervisors), headline(supervisors))
