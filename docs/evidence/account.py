"""Every hypothesis of the plan beside what came out: the table of `account.md`, which `make.py` makes of
`results/*.json`. No command of its own.

A pair is *confirmed* where the first row is ahead, *refuted* where it is behind, with p below 0.05 after Holm. Three
seeds may agree by chance, and need besides all to be of one sign, or an interval that stays away from 0 by half its
width (the plan's rule); from fewer nothing is concluded. All else is *unresolved*. Power: the true difference that a
study as sure as this one finds with a power of 0.8, by the spread of its own seeds and examples, for p < 0.05 and for
the first step of Holm's correction (`trl_weaks.metrics.few_seeds.Spread.detectable`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curves import STRENGTHS
from make import seeds_above

from trl_weaks.metrics.few_seeds import Spread
from trl_weaks.study.report.compare import holm

FEW = 3  # seeds: so many may agree by chance, and fewer conclude nothing
SUPERVISORS = ("gpt2", "opt", "gpt_neox")
SINGLES = tuple(f"single_{name}" for name in SUPERVISORS)
AUX, BAYES = "the auxiliary confidence loss helps", "the evidential loss helps on the same labels"
SEVERAL = "several supervisors beat one"
EVERY, TOGETHER = "the student beats every supervisor", "the student beats its supervisors' answer together"
JOINT = "joint decoding beats independent labels"
# what the plan says: hypothesis, in words, first row, second rows. A family is what Holm's correction is over.
Hypothesis = tuple[str, str, str, Sequence[str]]
_OF_CLASSES: tuple[tuple[str, str, Sequence[str]], ...] = (
    (AUX, "naive_aux", ["naive"]),
    (BAYES, "bayesian", ["naive"]),
    (SEVERAL, "naive", SINGLES),
    (TOGETHER, "naive", ["mean_vote"]),
    (EVERY, "naive", SUPERVISORS),
    ("seeing every vote helps", "dirichlet_votes", ["bayesian"]),
)


@dataclass(frozen=True)
class Family:
    """Pairs that one correction is over.

    Args:
        name: of the study, for readers.
        page: where it is told.
        hypotheses: of the plan.
        results: the names of the results that may hold the pairs, of those that do the one of most seeds counts,
            and of several of as many seeds the first; for strengths, one for each hypothesis.
    """

    name: str
    page: str
    hypotheses: Sequence[Hypothesis]
    results: Sequence[str]
    each: bool = False


def _numbered(letter: str, found: Sequence[tuple[str, str, Sequence[str]]]) -> list[Hypothesis]:
    return [(f"{letter}{number}", *one) for number, one in enumerate(found, 1)]


PLAN = (
    Family("scenarios", "scenarios.md", _numbered("H", _OF_CLASSES), ["scenario_minilm"]),
    Family(
        "scenarios, again",
        "scenarios.md",
        _numbered("G", _OF_CLASSES),
        ["scenario_minilm_5_seeds", "scenario_minilm_10_seeds"],
    ),
    Family(
        "slots",
        "slots.md",
        _numbered(
            "S",
            (
                (AUX, "naive_aux", ["naive"]),
                (BAYES, "bayesian", ["naive"]),
                (JOINT, "joint", ["naive"]),
                ("the supervisors' confidences help", "naive", ["naive_hard"]),
                ("cDPO adds to the student it starts from", "cdpo", ["bayesian_aux"]),
                (SEVERAL, "naive", SINGLES),
                (EVERY, "naive", SUPERVISORS),
                (TOGETHER, "naive", ["joint_answer"]),
            ),
        ),
        ["slots_smollm2", "slots_smollm2_four"],
    ),
    Family(
        "slots, the rest of the test split",
        "slots.md",
        _numbered(
            "R",
            (
                (TOGETHER, "joint", ["joint_answer"]),
                (TOGETHER, "naive", ["joint_answer"]),
                (JOINT, "joint", ["naive"]),
            ),
        ),
        ["slots_smollm2_rest"],
    ),
    Family(
        "slots, three epochs, the rest of the test split",
        "slots.md",
        _numbered(
            "T",
            (
                (TOGETHER, "joint_3", ["joint_answer"]),
                ("three epochs are better than one", "joint_3", ["joint"]),
                (EVERY, "joint_3", SUPERVISORS),
            ),
        ),
        ["slots_smollm2_3_epochs"],
    ),
    Family(
        "slots, devel: random or systematic mistakes",
        "slots.md",
        _numbered(
            "U",
            (
                ("a student goes beyond labels that are wrong at random", "randomly_wrong", ["joint_answer"]),
                ("and beyond one that learns from the supervisors'", "randomly_wrong", ["imitator"]),
                ("for its interval: a student is not its labels", "imitator", ["joint_answer"]),
            ),
        ),
        ["slots_devel_systematic"],
    ),
    Family(
        "slots, devel: more labels",
        "slots.md",
        _numbered(
            "V",
            (
                ("with twice the labels the student is better than the joint answer", "joint_3100", ["joint_answer"]),
                ("and than with the study's", "joint_3100", ["joint"]),
            ),
        ),
        ["slots_devel_more_labels"],
    ),
    Family(
        "scenarios, SmolLM2",
        "scenarios.md",
        _numbered("W", ((TOGETHER, "naive", ["mean_vote"]), (EVERY, "naive", SUPERVISORS))),
        ["scenario_smollm2"],
    ),
    Family("sixty intents", "intents.md", _numbered("F", _OF_CLASSES), ["intent_minilm"]),
    Family(
        "sixty intents, nine epochs",
        "intents.md",
        _numbered(
            "N",
            (
                (TOGETHER, "naive", ["mean_vote"]),
                (EVERY, "naive", SUPERVISORS),
                (BAYES, "bayesian", ["naive"]),
                (AUX, "naive_aux", ["naive"]),
            ),
        ),
        ["intent_minilm_9_epochs"],
    ),
    Family(
        "curve: number of supervisors",
        "curves.md",
        [("C1", "eight supervisors beat one", "of_8", ["of_1"]), ("C2", "and three", "of_8", ["of_3"])],
        ["curve_supervisors"],
    ),
    Family(
        "curve: strength",
        "curves.md",
        [(f"C3, {size:,} gold texts", TOGETHER, "naive", ["mean_vote"]) for size in STRENGTHS],
        [f"curve_strength_{size}" for size in STRENGTHS],
        each=True,
    ),
    Family(
        "curve: number of labels",
        "curves.md",
        [("C5", "4,000 weak labels are better than 250", "weak_4000", ["weak_250"])],
        ["curve_labels"],
    ),
    Family(
        "dialogue state",
        "dialogues.md",
        _numbered(
            "D",
            (
                (EVERY, "naive", SUPERVISORS),
                (TOGETHER, "naive", ["joint_answer"]),
                (AUX, "naive_aux", ["naive"]),
                (JOINT, "joint", ["naive"]),
                (SEVERAL, "naive", SINGLES),
            ),
        ),
        ["dialogues_smollm2"],
    ),
)


def pairs(family: Family, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every pair of a family with what its results say: `id`, `says`, `first`, `second`, and where it was run
    `comparison`, `each` (the seeds' differences) and `study`, the name of the results, those of most seeds where
    several have it; `p` after Holm over all pairs of the plan, where one that was not run counts as one with p = 1.
    """
    rows: list[dict[str, Any]] = []
    for number, (name, says, first, seconds) in enumerate(family.hypotheses):
        places = [family.results[number]] if family.each else family.results
        for second in seconds:
            row = {"id": name, "says": says, "first": first, "second": second}
            rows.append(row | _found({place: results[place] for place in places if place in results}, first, second))
    adjusted = holm([row["comparison"]["p_value"] if "comparison" in row else 1.0 for row in rows])
    return [row | {"p": p} for row, p in zip(rows, adjusted, strict=True)]


def _found(studies: Mapping[str, Mapping[str, Any]], first: str, second: str) -> dict[str, Any]:
    for name, study in sorted(studies.items(), key=lambda one: -len(one[1]["seeds"])):
        for pair in study.get("comparisons", []):
            if (pair["first"], pair["second"]) == (first, second):
                rows, key = {**study["weak"], **study["methods"]}, f"{study['measure']}_per_seed"
                each = [a - b for a, b in zip(rows[first][key], rows[second][key], strict=True)]
                return {"comparison": pair, "each": each, "study": name}
    return {}


def verdict(row: Mapping[str, Any]) -> str:
    """Of one pair of [`pairs`]."""
    if "comparison" not in row:
        return "not run"
    low, high = row["comparison"]["interval"]
    difference, each = row["comparison"]["difference"], row["each"]
    if len(each) < FEW:
        return f"unresolved, {len(each)} seed{'s' * (len(each) > 1)}"
    known = None not in (low, high)
    away = known and min(abs(low), abs(high)) >= (high - low) / 2 and low * high > 0
    agree = seeds_above(one if difference > 0 else -one for one in each) == len(each)
    if row["p"] >= 0.05 or not known or not (agree or away or len(each) > FEW):
        return "unresolved"
    alone = "" if "bootstrap_sd" in row["comparison"] else ", by the bootstrap alone"
    return ("**confirmed**" if difference > 0 else "**refuted**") + alone


def detectable(pair: Mapping[str, Any], alpha: float) -> float | None:
    """The true difference that is found with a power of 0.8; None where the results do not say how sure they are."""
    if pair.get("standard_error") is None or pair.get("bootstrap_sd") is None:
        return None
    return Spread(pair["standard_error"], pair["freedom"], pair["bootstrap_sd"]).detectable(alpha)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All hypotheses, in Markdown."""
    head = ["id", "hypothesis", "first", "second", "difference [95 % interval]", "seeds above 0", "p, Holm"]
    head += ["found with power 0.8: p < 0.05, Holm's first step", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for family in PLAN:
        lines.append(f"| | **[{family.name}]({family.page})** |" + " |" * (len(head) - 2))
        found = pairs(family, results)
        for row in found:
            cells = [row["id"], row["says"], f"`{row['first']}`", f"`{row['second']}`"]
            lines.append("| " + " | ".join([*cells, *_told(row, len(found)), verdict(row)]) + " |")
    return "\n".join(lines)


def _told(row: Mapping[str, Any], tests: int) -> list[str]:
    if "comparison" not in row:
        return [""] * 4
    low, high = row["comparison"]["interval"]
    above = f"{seeds_above(row['each'])} of {len(row['each'])}"
    interval = f"[{'-∞' if low is None else f'{low:+.3f}'}, {'+∞' if high is None else f'{high:+.3f}'}]"
    power = [detectable(row["comparison"], alpha) for alpha in (0.05, 0.05 / tests)]
    said = ", ".join(f"{one:.3f}" for one in power if one is not None)
    return [f"{row['comparison']['difference']:+.3f} {interval}", above, f"{row['p']:.2g}", said]


def planned(name: str, results: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], float | None] | None:
    """The p of every pair of the plan, None for those that other results answer; None where the plan has no pair of
    that study."""
    found = {}
    families = [family for family in PLAN if name in family.results]
    for family in families:
        rows = pairs(family, results)
        if family.each:  # the same two rows in every study: the one of this study
            rows = [row for row in rows if row.get("study") == name]
        found |= {(row["first"], row["second"]): row["p"] if row.get("study") == name else None for row in rows}
    return found if families else None
