"""What every row of a study scored on every test example: its intervals can be computed again without a model.

    python docs/evidence/scores.py                                    # all that are kept, seconds each
    python docs/evidence/scores.py curve_supervisors                  # one
    python docs/evidence/scores.py NAME --keep runs/evidence/NAME --data_dir path/to/slurp    # of a finished study
    python docs/evidence/scores.py NAME --add runs/more/NAME --data_dir path/to/slurp         # more seeds

Reads `results/scores/NAME.json.gz`, computes scores, PGR, intervals and comparisons from it and says what differs from
`results/NAME.json`. `make.py --run` and `curves.py` keep them by themselves. Of the examples it holds no text and no
id, but a digest of the ids in their order. Of studies made before the evening of 29 November 2026 nothing is kept;
their runs are gone.
"""

import argparse
import base64
import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from make import RESULTS, TITLES, commit, kind_of, read

from trl_weaks.metrics.bootstrap import as_table, seed_scores
from trl_weaks.study.pipeline.predictions import read_predictions
from trl_weaks.study.report.class_results import DAWID_SKENE, VOTES
from trl_weaks.study.report.class_scores import dawid_skene, right, vote_probabilities
from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import ACCURACY, Measure, score_systems
from trl_weaks.study.tasks.base import Task
from trl_weaks.study.tasks.checks import checked_statistics
from trl_weaks.study.tasks.find import config_class, task_of

FOLDER = RESULTS / "scores"
REPOSITORY = Path(__file__).resolve().parents[2]
MAY_DIFFER = frozenset("seeds output_dir data_dir workers stages".split())
SHARED = frozenset("floor classes".split())  # of a study's results, what more seeds do not change
PART = ("seeds", "command", "commit", "environment")  # what is said of each of several runs
SAME = 1e-6  # another order of additions changes less


@dataclass(frozen=True)
class Kept:
    """Scores of single examples.

    Args:
        task: what `task_of` finds it by; the file of an example from the repository's root.
        seeds: of the study.
        ids: a digest of the ids of the test examples, for every seed.
        samples: row -> (seeds, examples) for classes, (seeds, examples, statistics) for texts.
    """

    task: str
    seeds: list[int]
    ids: list[str]
    samples: dict[str, np.ndarray]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json.gz"


def keep(name: str, folder: Path, data_dir: str | None) -> Path:
    """Write the scores of single examples of the finished study in `folder`.

    Raises:
        SystemExit: no finished study.
        ValueError: what its answers score is not what its results say.
    """
    return write(name, of_study(folder, data_dir))


def of_study(folder: Path, data_dir: str | None) -> Kept:
    """Raises as [`keep`]."""
    if not (folder / "results.json").is_file():
        raise SystemExit(f"{folder} is not the folder of a finished study: it has no results.json")
    results, kind = read(folder / "results.json"), kind_of(folder)
    task = task_of(kind, config_class(kind)(**results["config"] | {"data_dir": data_dir, "output_dir": str(folder)}))
    samples, digests = samples_of(task, folder, results)
    _check(samples, measure_of(task, results), results)
    return Kept(kind.removeprefix(f"{REPOSITORY}/"), results["seeds"], digests, samples)


def write(name: str, kept: Kept) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = {
        "task": kept.task,
        "seeds": kept.seeds,
        "ids": kept.ids,
        "examples": next(iter(kept.samples.values())).shape[1],
        "systems": {system: [packed(table) for table in tables] for system, tables in kept.samples.items()},
    }
    path_of(name).write_bytes(gzip.compress(json.dumps(made).encode(), mtime=0))  # the same scores, the same bytes
    return path_of(name)


def kept_of(name: str) -> Kept:
    """
    Raises:
        SystemExit: nothing is kept of it.
    """
    if not path_of(name).is_file():
        raise SystemExit(f"{path_of(name)} is not there: of {name} no scores of single examples are kept")
    made = json.loads(gzip.decompress(path_of(name).read_bytes()))
    samples = {
        system: np.stack([unpacked(one, made["examples"]) for one in tables])
        for system, tables in made["systems"].items()
    }
    return Kept(made["task"], made["seeds"], made["ids"], samples)


def samples_of(task: Task, folder: Path, results: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Statistics of every row, (seeds, examples) for classes and (seeds, examples, C) for texts; of the ids a digest
    per seed."""
    found: dict[str, list[np.ndarray]] = {}
    digests = []
    for seed in results["seeds"]:
        tests = task.splits(seed).test
        ids = [example.id for example in tests]
        digests.append(sha256("\n".join(map(str, ids)).encode()).hexdigest()[:16])
        answers = {
            system: read_predictions(folder / f"seed-{seed}" / "predictions" / system, ids)
            for system in {**results["weak"], **results["methods"]}
            if system not in (*VOTES, DAWID_SKENE)
        }
        if task.kind == "classes":
            own = _right(task, tests, answers, results)
        else:
            own = {
                system: np.array(
                    [checked_statistics(task, row["completion"], e) for row, e in zip(rows, tests, strict=True)]
                )
                for system, rows in answers.items()
            }
        for system, table in own.items():
            found.setdefault(system, []).append(np.asarray(table, dtype=float))
    return {system: np.stack(tables) for system, tables in found.items()}, digests


def _right(task: Any, tests: Sequence[Any], answers: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Whether each answer is the gold class, those of the supervisors together included."""
    said = {system: np.array([row["probabilities"] for row in rows]) for system, rows in answers.items()}
    votes = np.stack([said[name] for name in results["weak"]], axis=1)
    weights = results["config"]["weak_weights"]
    together: dict[str, Callable[[], np.ndarray]] = {
        kind: lambda kind=kind: vote_probabilities(votes, weights, kind) for kind in VOTES
    } | {DAWID_SKENE: lambda: dawid_skene(votes)}
    said |= {kind: made() for kind, made in together.items() if kind in results["methods"]}
    gold = np.array([task.label(example) for example in tests])
    return {system: right(table, gold) for system, table in said.items()}


def measure_of(task: Task, results: Mapping[str, Any]) -> Measure:
    """The headline score alone."""
    key = results["measure"]
    return ACCURACY if task.kind == "classes" else Measure(TITLES[key], {key: lambda means: task.total(means)[key]})


def packed(table: np.ndarray) -> Any:
    """Right or wrong as bits in base64; else the numbers, a list an example."""
    return base64.b64encode(np.packbits(table > 0.5)).decode() if table.ndim == 1 else table.tolist()


def unpacked(kept: Any, examples: int) -> np.ndarray:
    if isinstance(kept, str):
        return np.unpackbits(np.frombuffer(base64.b64decode(kept), np.uint8))[:examples].astype(float)
    return np.array(kept, dtype=float)


def again(kept: Kept, results: Mapping[str, Any]) -> dict[str, Any]:
    """The rows and comparisons of a study in the form of its results, computed from what is kept.

    Args:
        results: says what the rows are called, what they learnt from, and which pairs are compared.
    """
    kind = str(REPOSITORY / kept.task) if kept.task.endswith(".py") else kept.task
    measure = measure_of(task_of(kind, config_class(kind)(**results["config"])), results)
    rows = {**results["weak"], **results["methods"]}
    systems = [
        {"name": system, "samples": table, "label": rows[system]["label"], "role": rows[system]["role"]}
        | ({"supervisors": rows[system]["supervisors"] or None} if "supervisors" in rows[system] else {})
        for system, table in kept.samples.items()
    ]
    given = {"confidence": results["confidence"]}
    pairs = [pair[place] for pair in results.get("comparisons", []) for place in ("first", "second")]
    found = score_systems(systems, measure=measure, resamples=results["resamples"], **given)
    return found | {"comparisons": compare_systems(kept.samples, measure, pairs, **given)}


def add(name: str, folder: Path, data_dir: str | None, command: str | None = None) -> Path:
    """The seeds of a finished study beside those published, whose runs may be gone: everything is computed anew
    from the scores of both. Of numbers that need more than those, such as the calibration, nothing stays.

    Raises:
        SystemExit: no finished study, or none is published with its scores; the same seeds, other settings, other rows
            or other examples.
    """
    here, there = read(RESULTS / f"{name}.json"), read(folder / "results.json")
    old, new = kept_of(name), of_study(folder, data_dir)
    if twice := sorted(set(old.seeds) & set(new.seeds)):
        raise SystemExit(f"{name} has seeds {twice} already; run others")
    changed = [key for key, value in here["config"].items() if key not in MAY_DIFFER and there["config"][key] != value]
    if changed or list(old.samples) != list(new.samples):
        raise SystemExit(f"{folder} is another study than {name}: {', '.join(changed) or 'other rows'}")
    if set(old.ids) != set(new.ids):
        raise SystemExit(f"{folder} was tested on other examples than {name}")
    order = np.argsort(old.seeds + new.seeds, kind="stable").tolist()
    tables = {system: np.concatenate([table, new.samples[system]])[order] for system, table in old.samples.items()}
    seeds, ids = ([(a + b)[i] for i in order] for a, b in ((old.seeds, new.seeds), (old.ids, new.ids)))
    kept = Kept(old.task, seeds, ids, tables)
    there |= {"command": command or there["command"]} | ({"commit": found} if (found := commit()) else {})
    parts = [{key: one[key] for key in PART if key in one} for one in (*here.get("parts", [here]), there)]
    made = {key: value for key, value in here.items() if key in SHARED} | again(kept, here)
    made |= {"seeds": seeds, "config": here["config"] | {"seeds": seeds}, "parts": parts, "command": here["command"]}
    made |= {"environment": there["environment"], "stage_seconds": _sums(here, there)}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    write(name, kept)
    return path


def _sums(*results: Mapping[str, Any]) -> dict[str, float]:
    found = Counter[str]()
    for one in results:
        found.update(one["stage_seconds"])
    return dict(found)


def differences(made: Any, published: Any, where: str = "") -> list[str]:
    """Numbers of `made` that are not those of `published`; of what only one of them has, nothing is said."""
    if isinstance(made, Mapping):
        both = [key for key in made if key in published and key not in ("extra", "unparsable")]
        return [one for key in both for one in differences(made[key], published[key], f"{where} {key}")]
    if isinstance(made, list | tuple) and isinstance(published, list):
        if len(made) != len(published):
            return [f"{where.strip()}: {len(made)} values, {len(published)} in the results"]
        pairs = enumerate(zip(made, published, strict=True))
        return [one for i, pair in pairs for one in differences(*pair, f"{where} {i}")]
    numbers = all(isinstance(one, int | float) for one in (made, published))
    same = math.isclose(made, published, rel_tol=SAME, abs_tol=SAME) if numbers else made == published
    return [] if same else [f"{where.strip()}: {made}, {published} in the results"]


def _check(samples: Mapping[str, np.ndarray], measure: Measure, results: Mapping[str, Any]) -> None:
    score, rows = measure.scores[measure.key], {**results["weak"], **results["methods"]}
    for system, table in samples.items():
        found = seed_scores(as_table(system, table, score).mean(1), score)
        if not np.allclose(found, rows[system][f"{measure.key}_per_seed"], atol=1e-9):
            raise ValueError(f"{system}: the answers score {found}, the results say otherwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of results; default all whose scores are kept")
    parser.add_argument("--keep", type=Path, metavar="RUN", help="keep the scores of this finished study")
    parser.add_argument("--add", type=Path, metavar="RUN", help="publish its seeds beside those of the results")
    parser.add_argument("--data_dir", help="of --keep and --add: SLURP's folder, or the dialogues'")
    asked = parser.parse_args()
    if run := asked.keep or asked.add:
        if len(asked.names) != 1 or (asked.keep and asked.add):
            parser.error("--keep and --add take one name, that of the results, and exclude each other")
        print((keep if asked.keep else add)(asked.names[0], run, asked.data_dir))
        return
    wrong = 0
    for name in asked.names or sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz")):
        results = read(RESULTS / f"{name}.json")
        found = differences(again(kept_of(name), results), results)
        wrong += bool(found)
        print(f"{name}: " + ("every score, PGR, interval and p comes out again" if not found else "; ".join(found)))
    raise SystemExit(int(bool(wrong)))


if __name__ == "__main__":
    main()
