"""What a study tells of its students before gold is seen, and whether that was true: numbers, audit, section."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trl_weaks.markdown import table
from trl_weaks.metrics.gain_audit import LEAST, audit_prediction

# diagnostic -> (what the report calls it, the gain that its source is about)
PREDICTIONS = {
    "misfit": ("misfit", "gain_squared_error"),
    "reverse_kl_misfit": ("reverse-KL misfit (nats)", "gain_nats"),
    "kernel_score": ("kernel score", "gain"),
    "confidence_variance": ("variance of confidence", "gain"),
    "confidence_covariance": ("covariance with the supervisors'", "gain"),
    "vacuity": ("mean vacuity", "gain"),
    "disagreement": ("other answer than the supervisors", "gain"),
    "word_distance": ("word distance to the supervisors", "gain"),
}
GAINS = {"gain": "headline score", "gain_squared_error": "squared error", "gain_nats": "log-likelihood (nats)"}
READING = {
    "": "A student is held against the supervisors it learnt from, on the test set; the first table uses no gold.",
    "misfit": "Under the conditions of arXiv 2405.15116 (squared error, a convex class of students that holds the "
    "truth, the smallest misfit) a student gains its misfit over the supervisors' mean vote, or more; reverse-KL "
    "misfit is the same in nats (2502.11107).",
    "kernel_score": "A low kernel score should mean a student near its ceiling (after 2502.00620).",
    "confidence_variance": "A varying confidence is an early sign of confident mistakes where the supervisors do not "
    "know (2604.25077).",
    "word_distance": "The word distance (ours) stands where classes have a misfit; nothing is proved about it.",
}


@dataclass(frozen=True)
class Diagnostics:
    """What a kind of task measures of its students.

    Args:
        methods: method -> diagnostic -> one value a seed; and `blind_spots` over all seeds.
        committee: `pairs` of supervisors.
        missing: what could not be measured -> why.
    """

    methods: Mapping[str, Mapping[str, Any]]
    committee: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def diagnose(found: Diagnostics, scores: Mapping[str, Sequence[float]], weak: Mapping[str, Sequence[str]]) -> dict:
    """The entry `diagnostics` of `results.json`: what was measured, and the audit against realised gains.

    Args:
        scores: system -> the headline score of each seed.
        weak: method -> names of the supervisors it learnt from. Where a kind of task gives no `gain` itself, it is the
            student's score less the mean of theirs.
    """
    methods = {}
    for name, entry in found.methods.items():
        floor = np.mean([scores[one] for one in weak[name]], 0)
        methods[name] = {"gain": (np.asarray(scores[name]) - floor).tolist()} | dict(entry)
    audits = []
    for name, (_, gain) in PREDICTIONS.items():
        those = [entry for entry in methods.values() if name in entry]
        for against in dict.fromkeys((gain, "gain")):
            if those and all(against in entry for entry in those):
                audits.append({"diagnostic": name, "against": against} | _audit(those, name, against))
    return {
        "methods": methods,
        "committee": dict(found.committee),
        "audit": audits,
        "missing": dict(found.missing),
    }


def _audit(entries: Sequence[Mapping[str, Any]], name: str, against: str) -> dict[str, Any]:
    if len(entries) < LEAST:
        return {"refused": f"needs {LEAST} methods, and has {len(entries)}"}
    found = audit_prediction([entry[name] for entry in entries], [entry[against] for entry in entries])
    refused = {} if np.isfinite(found.correlation) else {"refused": "one side is the same for all methods"}
    return {
        "correlation": found.correlation,
        "interval": list(found.interval),
        "points": found.points,
        "methods": len(entries),
    } | refused


def diagnostics_section(results: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """The section of `report.md`; nothing where no method was diagnosed."""
    methods = results["methods"]
    if not methods:
        return ""
    measured = {name for entry in methods.values() for name in entry}
    parts = [
        "## Diagnostics\n\n" + " ".join(READING[name] for name in READING if name in {"", *measured}),
        _told(methods, labels),
        _answers(methods, labels),
        _against_gold(methods, labels),
        _audit_table(results["audit"]),
        _pairs(results["committee"]),
        "\n".join(f"- Not measured: {name}: {reason}." for name, reason in results["missing"].items()),
    ]
    return "\n\n".join(part for part in parts if part)


def _told(methods: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    names = [name for name in PREDICTIONS if any(name in entry for entry in methods.values())]
    rows = [[labels[method], *(_mean(entry.get(name)) for name in names)] for method, entry in methods.items()]
    return "Without gold, means over the seeds:\n\n" + table(["system", *(PREDICTIONS[n][0] for n in names)], rows)


ANSWERS = {
    "word_ece": "ECE of words",
    "word_brier": "Brier score of words",
    "word_confidence": "mean confidence of words",
    "word_accuracy": "share of words right",
    "wrong": "answers wrong",
    "wrong_surer_half": "… among the surer half",
    "area_under_risk": "area under the coverage–risk curve",
}


def _answers(methods: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """What completions have: how probable a student finds its own answers, against gold."""
    found = {method: entry["answers"] for method, entry in methods.items() if "answers" in entry}
    if not found:
        return ""
    text = (
        "With gold: does a student know when it is wrong? Its confidence is the probability that it gives to its own "
        "answer, of each word or, as a geometric mean, of each token. A word is right where the gold answer has it "
        "there, an answer where it is the gold text. The area is the mean share of wrong answers over all shares that "
        "could be accepted, the surest first; a confidence that says nothing has that of all answers."
    )
    rows = [[labels[method], *(_mean(entry[name]) for name in ANSWERS)] for method, entry in found.items()]
    return text + "\n\n" + table(["system", *ANSWERS.values()], rows)


def _against_gold(methods: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    if not all("blind_spots" in entry for entry in methods.values()):
        return ""
    rows = []
    for method, entry in methods.items():
        spots = entry["blind_spots"]
        low, high = spots["share_interval"]
        share = f"{_mean(spots['share'])} [{low:.3f}, {high:.3f}]" if spots["new_errors"] else "–"
        errors = (_mean(entry[name]) for name in ("weak_error", "student_error_bound", "student_error", "gain"))
        chance = (_mean(spots[name]) for name in ("expected", "expected_among_right"))
        rows.append([labels[method], *errors, _mean(entry["capa"]), share, *chance, str(spots["new_errors"])])
    head = ["system", "squared error of the mean vote", "bound of the student's", "student's", "gain in accuracy"]
    head += ["CAPA to the mean vote", "blind-spot share [95% interval]", "expected by chance", "… among right"]
    text = (
        "With gold. The bound is the supervisors' squared error less the misfit; a student above it breaks the "
        "theorem's conditions. Blind spots: what the ceiling knows (right, confidence 0.75 or more) and the "
        "supervisors do not (below); the share is that of the student's new errors which lie there (after "
        "2406.11431), to be read beside the share of all examples, and of those the ceiling has right. CAPA is "
        "agreement beyond what the accuracies explain (2502.04313), high where both are wrong in the same places."
    )
    return text + "\n\n" + table([*head, "new errors"], rows)


def _audit_table(audits: Sequence[Mapping[str, Any]]) -> str:
    if not audits:
        return ""
    if all("points" not in audit for audit in audits) and len({audit["refused"] for audit in audits}) == 1:
        return f"Were they true? The rank correlation of a diagnostic with the realised gain {audits[0]['refused']}."
    rows = []
    for audit in audits:
        told = audit.get("refused")
        if told is None:
            low, high = audit["interval"]
            told = f"{audit['correlation']:+.3f} [{low:+.3f}, {high:+.3f}]"
        points = f"{audit['points']} of {audit['methods']} methods" if "points" in audit else "–"
        rows.append([PREDICTIONS[audit["diagnostic"]][0], GAINS[audit["against"]], told, points])
    text = (
        "Were they true? Rank correlation of each diagnostic with the realised gain over methods and seeds; the "
        "intervals come from a bootstrap over both, and say nothing of fewer than five methods. Misfits should "
        "correlate positively. Methods of one study share supervisors and data, so this says little about another "
        "study."
    )
    head = ["diagnostic", "gain in", "rank correlation [95% interval]", "points"]
    return text + "\n\n" + table(head, rows)


def _pairs(committee: Mapping[str, Any]) -> str:
    pairs = committee.get("pairs") or []
    if not pairs:
        return ""
    names = [name for name in pairs[0] if name not in ("first", "second")]
    rows = [[f"{pair['first']}, {pair['second']}", *(_mean(pair[name]) for name in names)] for pair in pairs]
    head = ["supervisors", *("CAPA" if name == "capa" else name.replace("_", " ") for name in names)]
    return "How unlike the supervisors are on the test examples:\n\n" + table(head, rows)


def _mean(values: Any) -> str:
    if values is None:
        return "–"
    value = float(np.mean(values))
    return f"{value:.4f}" if np.isfinite(value) else "–"
