"""The rows of the paper's Tables 4 and 5, and the baselines beside them, as data."""

from collections.abc import Sequence
from dataclasses import dataclass

from trl_weaks.study.pipeline.choose import choose_methods

BASELINES = ("ceiling", "strong_on_a", "untrained")
PREFERENCE = "cdpo"
PREFERENCE_FROM = "bayesian_aux"  # the paper's best supervised student, from which cDPO starts


@dataclass(frozen=True)
class Method:
    """One way to train the student on weak labels.

    Args:
        name: key in `results.json`.
        label: what the report calls it.
        labels: `"independent"` (each supervisor's best completion) or `"joint"` (Eq. 6).
        supervisors: whose labels; empty for all.
        weak_loss: `"naive"` (Eq. 2) or `"bayesian"` (Eq. 3-5).
        soft_labels: with the supervisors' confidences (Table 5) or without (Table 4).
        auxiliary: with the auxiliary confidence loss (Eq. 1, 5).
    """

    name: str
    label: str
    labels: str = "independent"
    supervisors: tuple[str, ...] = ()
    weak_loss: str = "naive"
    soft_labels: bool = True
    auxiliary: bool = False


def _variants(name: str, label: str, **fields) -> list[Method]:
    """The four cells of a row: with and without confidence, with and without the auxiliary loss."""
    return [
        Method(
            name + ("" if soft else "_hard") + ("_aux" if auxiliary else ""),
            label + (" + confidence" if soft else "") + (" + auxiliary" if auxiliary else ""),
            soft_labels=soft,
            auxiliary=auxiliary,
            **fields,
        )
        for soft in (True, False)
        for auxiliary in (False, True)
    ]


def all_methods(supervisors: Sequence[str]) -> dict[str, Method]:
    """Every method for these supervisors, by name."""
    methods = []
    for supervisor in supervisors:
        methods += _variants(f"single_{supervisor}", f"Single weak-to-strong, {supervisor}", supervisors=(supervisor,))
    methods += _variants("naive", "Naive multi-weak")
    methods += _variants("joint", "Joint decoding", labels="joint")
    methods += _variants("bayesian", "Bayesian multi-weak", weak_loss="bayesian")
    methods += _variants("bayesian_joint", "Bayesian on joint decoding", weak_loss="bayesian", labels="joint")
    return {method.name: method for method in methods}


def headline(supervisors: Sequence[str]) -> list[str]:
    """Names of the rows a first run shows."""
    return [*(f"single_{s}" for s in supervisors), "naive", "joint", "bayesian_aux", "bayesian_joint"]


def choose(names: Sequence[str], supervisors: Sequence[str]) -> list[Method]:
    """Methods by name; `all` and `headline` stand for their lists.

    Raises:
        ValueError: a name is unknown; lists the known ones.
    """
    return choose_methods(names, all_methods(supervisors), headline(supervisors), always=(*BASELINES, PREFERENCE))
