"""Seeds of a finished study put beside those published, whose runs may be gone; see `scores.py --add`."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scores
from make import commit, kind_of, place_of, read, write_results
from scores import Kept

from trl_weaks.study.report.results import at_floor

MAY_DIFFER = frozenset(  # settings; the data by their digests
    "seeds output_dir data_dir workers stages report_to push_to_hub hub_private_repo hub_license".split()
)
SHARED = frozenset("floor classes refused_rows".split())  # of a study's results, what more seeds do not change
PART = ("seeds", "command", "commit", "environment")  # what is said of each of several runs
Finish = Callable[[Kept, Mapping[str, Any]], Mapping[str, Any]]


def add(
    name: str, folder: Path, data_dir: str | None, command: str | None = None, finish: Finish | None = None
) -> Path:
    """The seeds of a finished study beside those published, whose runs may be gone: everything is computed anew
    from the scores of both. Of numbers that need more than those, such as the calibration, nothing stays.

    Args:
        finish: further entries of the results, from what is kept and the results without them.

    Raises:
        SystemExit: no finished study, or none is published with its scores; the same seeds, other settings, other
            data or other rows.
    """
    with scores.alone(name):
        return _add(name, folder, data_dir, command, finish)


def _add(name: str, folder: Path, data_dir: str | None, command: str | None, finish: Finish | None) -> Path:
    new, there = scores.of_study(folder, data_dir), read(folder / "results.json")
    old = as_published(name)
    here = scores.check_published(name, old)
    check_addable(name, here, there, old, new)
    runs = scores.runs_of(kind_of(folder), there["config"] | {"output_dir": str(folder)}, data_dir, old.seeds)
    if [run.data for run in runs] != old.data or old.tests != new.tests:
        raise SystemExit(f"{folder} was made of other data than {name}")
    order = np.argsort(old.seeds + new.seeds, kind="stable").tolist()
    joined = {system: np.concatenate([table, new.samples[system]])[order] for system, table in old.samples.items()}
    seeds, data = ([(a + b)[i] for i in order] for a, b in ((old.seeds, new.seeds), (old.data, new.data)))
    kept = replace(old, seeds=seeds, data=data, samples=joined, stages=new.stages)
    there |= {"command": command or _command(there["command"], name)}
    there |= {"commit": found} if (found := commit()) and "commit" not in there else {}
    parts = [{key: one[key] for key in PART if key in one} for one in (*here.get("parts", [here]), there)]
    made = {key: value for key, value in here.items() if key in SHARED} | scores.again(kept, here)
    made |= {"seeds": seeds, "config": here["config"] | {"seeds": seeds}, "parts": parts, "command": here["command"]}
    made |= {"environment": there["environment"], "stage_seconds": _sums(here, there)}
    made["at_floor"] = at_floor(made, made.get("floor", 0.0))
    made |= finish(kept, made) if finish else {}
    scores.write(name, kept)  # first: of a kill between the two, `as_published` finds the way back
    return write_results(scores.RESULTS / f"{name}.json", made)


def as_published(name: str) -> Kept:
    """What is kept, without the seeds that a killed `add` has kept and not published."""
    kept, published = scores.kept_of(name), read(scores.RESULTS / f"{name}.json")["seeds"]
    places = [kept.seeds.index(seed) for seed in published if seed in kept.seeds]
    if sorted(places) == list(range(len(kept.seeds))):
        return kept
    seeds, data = ([own[i] for i in places] for own in (kept.seeds, kept.data))
    return replace(kept, seeds=seeds, data=data, samples={row: table[places] for row, table in kept.samples.items()})


def _command(said: str, name: str) -> str:
    """Without the folder of the machine."""
    words = shlex.split(said)
    places = [i + 1 for i, word in enumerate(words[:-1]) if word == "--data_dir"]
    for i in places:
        words[i] = place_of(name)
    return shlex.join(words) if places else said


def check_addable(name: str, here: Mapping[str, Any], there: Mapping[str, Any], old: Kept, new: Kept) -> None:
    """
    Args:
        here, old: what is published.

    Raises:
        SystemExit: the same seeds; or another study.
    """
    if twice := sorted(set(old.seeds) & set(new.seeds)):
        raise SystemExit(f"{name} has seeds {twice} already; run others")
    check_same(name, here, there, old, new)


def check_same(name: str, here: Mapping[str, Any], there: Mapping[str, Any], old: Kept | None, new: Kept) -> None:
    """
    Raises:
        SystemExit: other settings, rows, comparisons or methods than the published ones.
    """
    another = f"{folder_said(there)} is another study than the published {name}"
    if changed := changed_settings(here["config"], there["config"]):
        raise SystemExit(f"{another}: {', '.join(changed)}")
    rows = [{**one["weak"], **one["methods"]} for one in (here, there)]
    kinds = [[(name, row["label"], row["role"], row.get("supervisors")) for name, row in one.items()] for one in rows]
    pairs = [[(pair["first"], pair["second"]) for pair in one.get("comparisons", [])] for one in (here, there)]
    if kinds[0] != kinds[1] or pairs[0] != pairs[1] or (old and list(old.samples) != list(new.samples)):
        raise SystemExit(f"{another}: other rows, or other comparisons")
    if old and old.stages and (other := sorted(k for k in old.stages if old.stages[k] != new.stages.get(k))):
        raise SystemExit(f"{another}: what makes {', '.join(other[:3])} is another method, model or setting")
    if old and (old.task != new.task or old.tests != new.tests or _other_data(old, new)):
        raise SystemExit(
            f"{folder_said(there)} was made of other data than {name}. Move those results and their scores away if it "
            "is to take their place"
        )


def changed_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the settings that two studies do not share; one that the earlier did not know yet is off there."""
    one_alone = first.keys() ^ second.keys()
    off = {key: None for key in one_alone if not (first.get(key) or second.get(key))}
    first, second = ({**one, **off} for one in (first, second))
    return sorted(k for k in {**first, **second} if k not in MAY_DIFFER and first.get(k) != second.get(k))


def _other_data(old: Kept, new: Kept) -> bool:
    made = dict(zip(new.seeds, new.data, strict=True))
    return any(made.get(seed, data) != data for seed, data in zip(old.seeds, old.data, strict=True))


def folder_said(results: Mapping[str, Any]) -> str:
    return str(results["config"].get("output_dir"))


def _sums(*results: Mapping[str, Any]) -> dict[str, float]:
    found = Counter[str]()
    for one in results:
        found.update(one["stage_seconds"])
    return dict(found)
