"""What every row of a study scored on every test example: its intervals can be computed again without a model.

    python docs/evidence/scores.py                                    # all that are kept, seconds each
    python docs/evidence/scores.py curve_supervisors                  # one
    python docs/evidence/scores.py dialogues_smollm2 --score exact_state    # another score of the task, with intervals
    python docs/evidence/scores.py NAME --keep runs/evidence/NAME --data_dir path/to/slurp    # of a finished study
    python docs/evidence/scores.py NAME --add runs/more/NAME --data_dir path/to/slurp         # more seeds

Reads `results/scores/NAME.json.gz`, computes scores, PGR, intervals and comparisons from it and says what differs from
`results/NAME.json`. `make.py --run` and `curves.py` keep them by themselves. Of the examples it holds no text and no
id, but digests. Of studies made before the evening of 29 November 2026 nothing is kept; their runs are gone.
"""

import argparse
import base64
import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from make import RESULTS, TITLES, kind_of, read, tables

from trl_weaks.metrics.agreement import right
from trl_weaks.metrics.bootstrap import as_table, seed_scores
from trl_weaks.study.files import to_json, write_atomically
from trl_weaks.study.pipeline.predictions import read_predictions
from trl_weaks.study.pipeline.run import seed_runs
from trl_weaks.study.report.class_results import DAWID_SKENE, VOTES
from trl_weaks.study.report.class_scores import dawid_skene, vote_probabilities
from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import ACCURACY, Measure, at_floor, score_systems
from trl_weaks.study.stages import fingerprint
from trl_weaks.study.tasks.checks import checked_statistics
from trl_weaks.study.tasks.find import config_class, task_of

FOLDER = RESULTS / "scores"
REPOSITORY = Path(__file__).resolve().parents[2]
OF_SEED = ("seed", "data")  # of what a stage was made with
SET_ASIDE = re.compile(r"\.([0-9a-f]{16}|unknown)_*$")  # how a study renames a stage that another replaced
SAME = 1e-6  # another order of additions changes less


@dataclass(frozen=True)
class Kept:
    """Scores of single examples.

    Args:
        task: what `task_of` finds it by; the file of an example from the repository's root.
        seeds: of the study.
        data: a digest of all rows that the stages of a seed read, for every seed.
        tests: a digest of the test examples, the same for every seed.
        samples: row -> (seeds, examples) for classes, (seeds, examples, statistics) for texts.
        stages: stage -> a digest of what it was made with, its seed and data aside: method, settings, model; empty for
            what was kept before the night of 29 November 2026.
    """

    task: str
    seeds: list[int]
    data: list[str]
    tests: str
    samples: dict[str, np.ndarray]
    stages: dict[str, str] = field(default_factory=dict)


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json.gz"


def keep(name: str, folder: Path, data_dir: str | None) -> Path:
    """Write the scores of single examples of the finished study in `folder`, whose results are published.

    Raises:
        SystemExit: no finished study, or another one than is published.
        ValueError: from [`of_study`].
    """
    kept = of_study(folder, data_dir)
    check_published(name, kept)
    return write(name, kept)


def of_study(folder: Path, data_dir: str | None) -> Kept:
    """
    Raises:
        SystemExit: no finished study.
        ValueError: what its answers score is not what its results say; its seeds were tested on different examples, or
            made with different settings; or it was made of other data than is in `data_dir`.
    """
    if not (folder / "results.json").is_file():
        raise SystemExit(f"{folder} is not the folder of a finished study: it has no results.json")
    results, kind = read(folder / "results.json"), kind_of(folder)
    runs = runs_of(kind, results["config"] | {"output_dir": str(folder)}, data_dir, results["seeds"])
    tests = {fingerprint([[e.id, e.text, e.target] for e in run.splits.test]) for run in runs}
    if len(tests) > 1:
        raise ValueError(f"{folder}: its seeds were tested on different examples, which cannot be paired")
    samples = samples_of(runs, folder, results)
    _check(samples, measure_of(kind, results, samples), results)
    where, stages = kind.removeprefix(f"{REPOSITORY}/"), _stages(folder, runs)
    return Kept(where, results["seeds"], [run.data for run in runs], tests.pop(), samples, stages)


def _stages(folder: Path, runs: Sequence[Any]) -> dict[str, str]:
    """Of `Kept`, from the stamps that a study leaves in its folder."""
    made: dict[str, str] = {}
    for run in runs:
        root = folder / f"seed-{run.seed}"
        for path in sorted(one for one in root.rglob("stage.json") if not _set_aside(one, root)):
            spec, name = read(path)["spec"], path.parent.relative_to(root).as_posix()
            if spec.get("data", run.data) != run.data:
                raise ValueError(f"{path.parent} was made of other data than --data_dir has")
            own = fingerprint({key: value for key, value in spec.items() if key not in OF_SEED})
            if made.setdefault(name, own) != own:
                raise ValueError(f"{path.parent} was made with other settings than those of the seeds before")
    return made


def _set_aside(stamp: Path, root: Path) -> bool:
    """A stage that another took the place of, which a study renames, or one that was not finished."""
    named = any(SET_ASIDE.search(part) for part in stamp.relative_to(root).parts)
    return named or not read(stamp).get("complete", True)


def runs_of(kind: str, settings: Mapping[str, Any], data_dir: str | None, seeds: Sequence[int]) -> list[Any]:
    """What the stages of these seeds read, nothing run."""
    config = config_class(kind)(**{**settings, "data_dir": data_dir, "seeds": list(seeds)})
    return seed_runs(config, task_of(kind, config), [])


def write(name: str, kept: Kept) -> Path:
    """
    Raises:
        ValueError: what is read back is something else.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = {
        "task": kept.task,
        "seeds": kept.seeds,
        "data": kept.data,
        "tests": kept.tests,
        "examples": next(iter(kept.samples.values())).shape[1],
        "stages": kept.stages,
        "systems": {system: [packed(table) for table in tables] for system, tables in kept.samples.items()},
    }
    found = gzip.compress(json.dumps(made, allow_nan=False).encode(), mtime=0)  # the same scores, the same bytes
    if not all(np.array_equal(table, kept.samples[system]) for system, table in unpacked(found).samples.items()):
        raise ValueError(f"{name}: the scores are not what is read back")
    write_atomically(path_of(name), found)
    return path_of(name)


def alone(name: str) -> FileLock:
    """Holds off another process that would publish results of this name; the one that holds it may ask again."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return FileLock(FOLDER / f"{name}.lock", is_singleton=True)


def kept_of(name: str) -> Kept:
    """
    Raises:
        SystemExit: nothing is kept of it.
    """
    if not path_of(name).is_file():
        raise SystemExit(f"{path_of(name)} is not there: of {name} no scores of single examples are kept")
    return unpacked(path_of(name).read_bytes())


def unpacked(found: bytes) -> Kept:
    made = json.loads(gzip.decompress(found))
    samples = {
        system: np.stack([_table(one, made["examples"]) for one in tables])
        for system, tables in made["systems"].items()
    }
    return Kept(made["task"], made["seeds"], made["data"], made["tests"], samples, made.get("stages", {}))


def packed(table: np.ndarray) -> Any:
    """Right or wrong as bits in base64; else the numbers, as where classes share a vote, or a list an example."""
    if table.ndim > 1 or not np.isin(table, (0, 1)).all():
        return table.tolist()
    return base64.b64encode(np.packbits(table.astype(bool))).decode()


def _table(kept: Any, examples: int) -> np.ndarray:
    if isinstance(kept, str):
        return np.unpackbits(np.frombuffer(base64.b64decode(kept), np.uint8))[:examples].astype(float)
    return np.array(kept, dtype=float)


def samples_of(runs: Sequence[Any], folder: Path, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Statistics of every row, (seeds, examples) for classes and (seeds, examples, C) for texts."""
    found: dict[str, list[np.ndarray]] = {}
    rows = {**results["weak"], **results["methods"]}
    for run in runs:
        task, tests = run.task, run.splits.test
        ids, place = [example.id for example in tests], folder / f"seed-{run.seed}" / "predictions"
        answers = {name: read_predictions(place / name, ids) for name in rows if name not in (*VOTES, DAWID_SKENE)}
        if task.kind == "classes":
            own = _right(task, tests, answers, results)
        else:
            texts = {
                name: zip([row["completion"] for row in found], tests, strict=True) for name, found in answers.items()
            }
            own = {
                name: np.array([checked_statistics(task, *pair) for pair in pairs]) for name, pairs in texts.items()
            }
        for name in rows:
            found.setdefault(name, []).append(np.asarray(own[name], dtype=float))
    return {name: np.stack(tables) for name, tables in found.items()}


def _right(task: Any, tests: Sequence[Any], answers: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Whether each answer is the gold class, those of the supervisors together included."""
    said = {system: np.array([row["probabilities"] for row in rows]) for system, rows in answers.items()}
    votes = np.stack([said[name] for name in results["weak"]], axis=1)
    together = {kind: partial(vote_probabilities, votes, results["config"]["weak_weights"], kind) for kind in VOTES}
    together[DAWID_SKENE] = partial(dawid_skene, votes)
    said |= {kind: made() for kind, made in together.items() if kind in results["methods"]}
    gold = np.array([task.label(example) for example in tests])
    return {system: right(table, gold) for system, table in said.items()}


def measure_of(kind: str, results: Mapping[str, Any], samples: Mapping[str, np.ndarray]) -> Measure:
    """All scores of a task, the headline first; without its data, which only its examples need."""
    key = results["measure"]
    if key == ACCURACY.key:
        return ACCURACY
    task = task_of(kind, config_class(kind)(**results["config"]))
    names = dict.fromkeys([key, *task.total(next(iter(samples.values())).mean((0, 1)))])
    return Measure(TITLES[key], {name: lambda means, name=name: task.total(means)[name] for name in names})


def again(kept: Kept, results: Mapping[str, Any]) -> dict[str, Any]:
    """The rows and comparisons of a study in the form of its results, computed from what is kept.

    Args:
        results: says what the rows are called, what they learnt from, and which pairs are compared.
    """
    measure = measure_of(_kind(kept), results, kept.samples)
    given = {"confidence": results["confidence"]}
    pairs = [pair[place] for pair in results.get("comparisons", []) for place in ("first", "second")]
    found = score_systems(_systems(kept, results), measure=measure, resamples=results["resamples"], **given)
    return to_json(found | {"comparisons": compare_systems(kept.samples, measure, pairs, **given)})


def _kind(kept: Kept) -> str:
    """What `task_of` finds its task by, here."""
    return str(REPOSITORY / kept.task) if kept.task.endswith(".py") else kept.task


def _systems(kept: Kept, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As `score_systems` wants them."""
    rows = {**results["weak"], **results["methods"]}
    return [
        {"name": system, "samples": table, "label": rows[system]["label"], "role": rows[system]["role"]}
        | ({"supervisors": rows[system]["supervisors"] or None} if "supervisors" in rows[system] else {})
        for system, table in kept.samples.items()
    ]


def score_table(kept: Kept, results: Mapping[str, Any], key: str) -> str:
    """Every row by another score of its task, with intervals and PGR, in Markdown.

    Raises:
        SystemExit: the task has no such score.
    """
    measure = measure_of(_kind(kept), results, kept.samples)
    if key not in measure.scores:
        raise SystemExit(f"{kept.task} has no score {key}; it has {', '.join(measure.scores)}")
    other = Measure(TITLES.get(key, key), {key: measure.scores[key]})
    given = {"confidence": results["confidence"], "resamples": results["resamples"]}
    return tables(score_systems(_systems(kept, results), measure=other, **given))


def pgr_of_all(kept: Kept, results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """PGR of every row against the mean of all supervisors, whichever of them it learnt from: one gap for all."""
    methods = {
        name: row | ({"supervisors": list(results["weak"])} if row.get("supervisors") else {})
        for name, row in results["methods"].items()
    }
    made = again(kept, {**results, "methods": methods, "comparisons": []})
    return {name: {key: row[key] for key in ("pgr", "pgr_interval")} for name, row in made["methods"].items()}


def wrong(kept: Kept, published: Mapping[str, Any]) -> list[str]:
    """What published results say that does not follow from the scores kept of them."""
    rows = [*published["weak"], *published["methods"]]
    if kept.seeds != published["seeds"] or list(kept.samples) != rows:
        return [f"scores of seeds {kept.seeds} and the rows {', '.join(kept.samples)}; results of others"]
    made = again(kept, published)
    made["at_floor"] = at_floor(made, published.get("floor", 0.0))
    if "pgr_of_all" in published:
        made["pgr_of_all"] = pgr_of_all(kept, published)
    if "parts" in published:
        made["seeds"] = sorted(seed for part in published["parts"] for seed in part["seeds"])
    made["config"] = {"seeds": kept.seeds}
    lengths = [
        f"labels_right of {key}"
        for key, own in published.get("labels_right", {}).items()
        if len(own) != len(kept.seeds)
    ]
    return lengths + differences(made, {"comparisons": [], **published})


def differences(made: Any, published: Any, where: str = "") -> list[str]:
    """Numbers of `made` that are not, or not there, in `published`, which may have more."""
    if isinstance(made, Mapping) and isinstance(published, Mapping):
        found = []
        for key in made:
            place = f"{where} {key}".strip()
            if key not in published:
                found.append(f"{place} is not in the results")
            elif key != "extra":  # scores of a task's own, which need more than is kept
                found += differences(made[key], published[key], place)
        return found
    if isinstance(made, list) and isinstance(published, list) and len(made) == len(published):
        pairs = enumerate(zip(made, published, strict=True))
        return [one for i, pair in pairs for one in differences(*pair, f"{where} {i}")]
    numbers = all(isinstance(one, int | float) for one in (made, published))
    same = math.isclose(made, published, rel_tol=SAME, abs_tol=SAME) if numbers else made == published
    return [] if same else [f"{where}: {made}, {published} in the results"]


def _check(samples: Mapping[str, np.ndarray], measure: Measure, results: Mapping[str, Any]) -> None:
    score, rows = measure.scores[measure.key], {**results["weak"], **results["methods"]}
    for system, table in samples.items():
        found = seed_scores(as_table(system, table, score).mean(1), score)
        if not np.allclose(found, rows[system][f"{measure.key}_per_seed"], atol=1e-9):
            raise ValueError(f"{system}: the answers score {found}, the results say otherwise")


def check_published(name: str, kept: Kept) -> dict[str, Any]:
    published = read(RESULTS / f"{name}.json")
    if found := wrong(kept, published):
        raise SystemExit(f"{name} is published with other numbers than these scores make: {found[0]}")
    return published


def main() -> None:
    try:
        _main()
    except (ValueError, OSError) as error:  # a folder that is not there, answers of others, other data
        raise SystemExit(f"{error}") from error


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of results; default all whose scores are kept")
    parser.add_argument("--keep", type=Path, metavar="RUN", help="keep the scores of this finished study")
    parser.add_argument("--add", type=Path, metavar="RUN", help="publish its seeds beside those of the results")
    parser.add_argument("--data_dir", help="of --keep and --add: SLURP's folder, or the dialogues'")
    parser.add_argument("--score", help="print a table by this score of the task in the place of its first")
    asked = parser.parse_args()
    if asked.score:
        if len(asked.names) != 1 or asked.keep or asked.add:
            parser.error("--score takes one name, that of the results, and neither --keep nor --add")
        kept = kept_of(asked.names[0])
        print(score_table(kept, check_published(asked.names[0], kept), asked.score))
        return
    if run := asked.keep or asked.add:
        if len(asked.names) != 1 or (asked.keep and asked.add):
            parser.error("--keep and --add take one name, that of the results, and exclude each other")
        if asked.add and asked.names[0].startswith("curve_"):
            parser.error(f"{asked.names[0]}: curves.py adds seeds; give it the new ones")
        if asked.add:
            from adding import add
        print((keep if asked.keep else add)(asked.names[0], run, asked.data_dir))
        return
    names = asked.names or sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))
    if not names:
        raise SystemExit(f"{FOLDER} is empty: of no study scores of single examples are kept")
    bad = 0
    for name in names:
        found = wrong(kept_of(name), read(RESULTS / f"{name}.json"))
        bad += bool(found)
        print(f"{name}: " + ("every score, PGR, interval and p comes out again" if not found else "; ".join(found)))
    raise SystemExit(int(bool(bad)))


if __name__ == "__main__":
    main()
