"""The rows of the paper's Tables 2, 4 and 5, and what stands beside them."""

from collections.abc import Sequence

from trl_weaks.study.methods import Method

PREFERENCE = "cdpo"
PREFERENCE_FROM = "bayesian_aux"  # the paper's best supervised student, from which cDPO starts


def completion_methods(supervisors: Sequence[str]) -> dict[str, Method]:
    """Tables 4 and 5, by name: with and without the supervisors' confidences and the auxiliary loss."""
    rows = [
        (f"single_{name}", f"Single weak-to-strong, {name}", "naive", "independent", (name,)) for name in supervisors
    ]
    rows += [
        ("naive", "Naive multi-weak", "naive", "independent", ()),
        ("joint", "Joint decoding", "naive", "joint", ()),
        ("bayesian", "Bayesian multi-weak", "bayesian", "independent", ()),
        ("bayesian_joint", "Bayesian on joint decoding", "bayesian", "joint", ()),
    ]
    found = []
    for name, label, loss, labels, own in rows:
        for soft in (True, False):
            for auxiliary in (False, True):
                found.append(
                    Method(
                        name + ("" if soft else "_hard") + ("_aux" if auxiliary else ""),
                        label + (" + confidence" if soft else "") + (" + auxiliary" if auxiliary else ""),
                        labels=labels,
                        loss=loss,
                        settings={"soft_labels": soft} | ({} if auxiliary else {"gamma_max": 0.0}),
                        supervisors=own,
                    )
                )
    return {method.name: method for method in found}


def completion_headline(supervisors: Sequence[str]) -> list[str]:
    """Names of the rows a first run shows."""
    return [*(f"single_{s}" for s in supervisors), "naive", "joint", "bayesian_aux", "bayesian_joint"]


def class_methods(supervisors: Sequence[str]) -> dict[str, Method]:
    """Table 2, by name: without and with the auxiliary loss; and what stands beside it."""
    found = []
    for name in supervisors:
        found += _pair(f"single_{name}", f"Single weak-to-strong, {name}", "naive", (name,))
    found += _pair("naive", "Naive multi-weak", "naive")
    found += _pair("bayesian", "Bayesian multi-weak", "bayesian")
    found += [
        Method(
            "bayesian_balanced",
            "Bayesian multi-weak + balanced auxiliary",
            loss="bayesian",
            settings={"threshold": "balanced"},
        ),
        Method(
            "majority",
            "Student on the majority vote",
            loss="naive",
            aggregator="majority",
            settings={"gamma_max": 0.0},
        ),
        Method(
            "dirichlet_votes",
            "Dirichlet fitted to the votes",
            loss="dirichlet_votes",
            settings={"gamma_max": 0.0},
        ),
    ]
    return {method.name: method for method in found}


def class_headline(supervisors: Sequence[str]) -> list[str]:
    """Names of the rows a first run shows: those of the paper's Table 2, and the Dirichlet fitted to the votes."""
    names = [f"single_{s}{aux}" for s in supervisors for aux in ("", "_aux")]
    return [*names, "naive", "naive_aux", "bayesian", "bayesian_aux", "bayesian_balanced", "dirichlet_votes"]


def _pair(name: str, label: str, loss: str, supervisors: tuple[str, ...] = ()) -> list[Method]:
    """Without and with the auxiliary loss."""
    return [
        Method(name, label, loss=loss, settings={"gamma_max": 0.0}, supervisors=supervisors),
        Method(
            f"{name}_aux",
            f"{label} + auxiliary",
            loss=loss,
            settings={"threshold": "argmax"},
            supervisors=supervisors,
        ),
    ]
