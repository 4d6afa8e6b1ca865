"""`report.md` from the results of a study."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trl_weaks.markdown import table
from trl_weaks.study.report.results import Measure
from trl_weaks.study.report.story import Story

PREFERENCE = (
    "The student's own candidates for prompts of half B, ranked by the supervisors: best and worst of a prompt are "
    "a pair. A margin is the difference of their scores, nats per token; epsilon is how probably a pair is the wrong "
    "way round, by the supervisors' margins, and above one half it is swapped. The other counts say what was left out."
)


def render(results: Mapping[str, Any], story: Story, measure: Measure, figures: Mapping[str, str | None]) -> str:
    """The report in Markdown.

    Args:
        results: the content of `results.json`.
        figures: file name -> None if it was drawn, else the reason why not.
    """
    sections = [
        f"# {story.title}",
        _scores(results, measure),
        _floor(results, measure),
        _figure("pgr.png", "Scores with intervals, weak mean and ceiling", figures),
        _reading(results, measure),
        *story.notes,
        _per_weak(results),
        _other_scores(results, measure),
        _agreement(results["agreement"], story.alike_on, figures),
        _section("Learning curves", _figure("curves.png", "Training loss of every student", figures)),
        _calibration(results["calibration"], figures),
        _section("Preference stage", f"{PREFERENCE}\n\n{_bullets(story.preference)}" if story.preference else ""),
        _section("Data and models", "\n".join(f"- {sentence}" for sentence in story.about)),
        _reproduce(results, story),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def pgr_text(value: float | None, interval: Sequence[float] | None) -> str:
    """PGR with its interval; never the one without the other. A limit of None, as in `results.json`, is unbounded."""
    if value is None or interval is None:
        return "refused"
    low, high = (math.inf * sign if end is None else end for end, sign in zip(interval, (-1, 1), strict=True))
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("inf", "∞").replace("-", "−")


def _scores(results: Mapping[str, Any], measure: Measure) -> str:
    level = f"{results['confidence']:.0%}"
    header = ["system", f"{measure.title} (± half of the {level} interval)", "per seed"]
    header += ["weak / student / ceiling", f"PGR [{level} interval]"]
    found, rows = [*results["weak"].values(), *results["methods"].values()], []
    read = any("unparsable" in row for row in found)
    header += ["unparsable"] * read
    for row in found:
        low, high = row[f"{measure.key}_interval"]
        cells = [row["label"], f"{row[measure.key]:.4f} ± {(high - low) / 2:.4f}".replace("inf", "∞")]
        cells.append(" ".join(f"{value:.4f}" for value in row[f"{measure.key}_per_seed"]))
        if row["role"] == "weak" or row["weak"] is None:
            cells += ["–", "–"]
        else:
            cells.append(f"{row['weak']:.4f} / {row[measure.key]:.4f} / {results['ceiling']:.4f}")
            cells.append(pgr_text(row["pgr"], row["pgr_interval"]))
        cells += [f"{row['unparsable']:.1%}" if "unparsable" in row else "–"] * read
        rows.append(cells)
    if results["pgr_refused"]:
        return f"{table(header, rows)}\n\n**PGR is refused.** {results['pgr_refused']}."
    return table(header, rows)


def _floor(results: Mapping[str, Any], measure: Measure) -> str:
    """Who knows nothing, what that makes of PGR, and what to change."""
    rows = {**results["weak"], **results["methods"]}
    roles = {rows[name]["role"] for name in results["at_floor"]}
    if not roles:
        return ""
    names = "; ".join(rows[name]["label"] for name in results["at_floor"])
    level = "always naming the most frequent class" if results["floor"] else "answering nothing right"
    told = f"{measure.title} {results['floor']:.4f}"
    text = f"**At the floor.** No better, within its interval, than {level} ({told}): {names}."
    if roles & {"weak", "ceiling"}:
        text += (
            " A PGR that starts or ends there says nothing: a student may have one without having learned anything."
        )
    if "weak" in roles:
        text += (
            " What helps the supervisors: more gold (`num_gold`), more epochs (`weak_training`), models that were "
            "pre-trained (`weak_models`)."
        )
    if roles & {"method", "ceiling"}:
        text += (
            " What helps the student and its ceiling: more examples to be labelled (`num_weak`), more epochs "
            "(`student_training`), a model that was pre-trained (`student_model`)."
        )
    return text


def _other_scores(results: Mapping[str, Any], measure: Measure) -> str:
    """The other scores of the measure, then what the systems brought along as `extra`, in order of appearance."""
    rows = [*results["weak"].values(), *results["methods"].values()]
    names = [*list(measure.scores)[1:], *dict.fromkeys(name for row in rows for name in row["extra"])]
    if not names:
        return ""
    told = [[row["label"], *(_number({**row, **row["extra"]}.get(name)) for name in names)] for row in rows]
    return _section("Other scores", table(["system", *map(_heading, names)], told))


def _heading(name: str) -> str:
    return name.replace("_f1", " F1").replace("_", " ")


def _number(value: Any) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _reading(results: Mapping[str, Any], measure: Measure) -> str:
    text = (
        f"Every score is the mean over the seeds on {results['examples']} test examples. The intervals come from "
        f"{results['resamples']} paired bootstrap resamples, in which test examples and seeds are drawn with "
        "replacement, the same ones for all systems. PGR, the performance gap recovered, is "
        "(student − weak) / (ceiling − weak): 0 is no better than the supervisor, 1 as good as the ceiling; it may "
        "lie outside. A student of several supervisors has a PGR for each of them; the table gives their mean, and "
        "the mean of their scores as weak. With few seeds the intervals say little about how another seed would "
        "come out; the scores per seed say more."
    )
    if any("unparsable" in row for row in (*results["weak"].values(), *results["methods"].values())):
        text += " Unparsable is the share of answers that could not be read."
    shares = {row["pgr_undefined_share"] for row in results["methods"].values()} - {None}
    if any(shares):
        text += (
            f" In up to {max(shares):.1%} of the resamples the ceiling did not exceed every supervisor; such a "
            "resample has no PGR and counts as −∞ for the lower limit and as +∞ for the upper one. A limit of ∞ says "
            "that this test set is too small to tell the ceiling from the supervisors."
        )
    if unknown := results.get("spread_unknown"):
        labels = {name: row["label"] for name, row in {**results["weak"], **results["methods"]}.items()}
        text += (
            f" {measure.title} is no finite number without some test example, nor with one counted twice, for: "
            f"{'; '.join(labels[name] for name in unknown)}. How far few seeds may be off cannot be told then, and "
            "their intervals, and those of the PGR that rest on them, have no bounds."
        )
    return f"## How to read this\n\n{text}"


def _per_weak(results: Mapping[str, Any]) -> str:
    if len(results["weak"]) < 2:
        return ""
    header = ["system", *(row["label"] for row in results["weak"].values())]
    rows = []
    for row in (row for row in results["methods"].values() if row["weak"] is not None):
        cells = [pgr_text(row["pgr_per_weak"][name], row["pgr_interval_per_weak"][name]) for name in results["weak"]]
        rows.append([row["label"], *cells])
    return _section("PGR against each weak supervisor", table(header, rows))


def _agreement(agreement: Mapping[str, Any], where: str, figures: Mapping[str, str | None]) -> str:
    if not agreement:
        return ""
    numbers = [name for name in agreement["pairs"][0] if name not in ("first", "second")]
    header = ["supervisors", *map(_heading, numbers)]
    rows = []
    for pair in agreement["pairs"]:
        rows.append([f"{pair['first']}, {pair['second']}", *(_number(pair[name]) for name in numbers)])
    rows.append(["mean of the pairs", *(_number(agreement[name]) for name in numbers)])
    alike = f"All supervisors say the same on {agreement['all_agree']:.1%} of {where}."
    parts = [table(header, rows), alike, _figure("agreement.png", "Agreement of each two supervisors", figures)]
    return _section("Agreement between the weak supervisors", "\n\n".join(filter(None, parts)))


def _calibration(calibration: Mapping[str, Any], figures: Mapping[str, str | None]) -> str:
    if not calibration:
        return ""
    names = ("ece", "brier", "mean_confidence", "accuracy")
    header = ["supervisor", "ECE", "Brier score", "mean confidence", "share right", "words"]
    rows = []
    for supervisor, entry in calibration.items():
        rows.append([supervisor, *(_number(entry[name]) for name in names), str(entry["words"])])
    figure = _figure("reliability.png", "Reliability diagram of the word confidences", figures)
    return _section("Calibration of the word confidences", f"{table(header, rows)}\n\n{figure}")


def _reproduce(results: Mapping[str, Any], story: Story) -> str:
    facts = _bullets({"seeds": ", ".join(map(str, results["seeds"])), **results["environment"]})
    parts = [f"```\n{story.command}\n```"] if story.command else []
    parts.append(facts)
    if story.stage_seconds:
        rows = [[stage, f"{seconds:.0f}"] for stage, seconds in story.stage_seconds.items()]
        parts.append(table(["stage", "seconds"], rows))
    parts.append(
        "All settings and numbers: `results.json` (`config` holds the settings; null stands for an infinity)."
    )
    return _section("Reproduce", "\n\n".join(parts))


def _figure(name: str, caption: str, figures: Mapping[str, str | None]) -> str:
    if name not in figures:
        return ""
    reason = figures[name]
    return f"`{name}` was left out: {reason}." if reason else f"![{caption}]({name})"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {_fact(value)}" for name, value in facts.items())


def _fact(value: Any) -> str:
    """A value for readers: four digits of a number, a dash for one that is none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return "–" if value is None else str(value)
