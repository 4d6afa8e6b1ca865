"""Students that are trained already answer sentences that their study did not ask: the rest of a split.

    python docs/evidence/answers.py answer slots_smollm2_rest runs/evidence/slots_smollm2_four --data_dir path/to/slurp
    python docs/evidence/answers.py score slots_smollm2_rest runs/evidence/slots_smollm2_four --data_dir path/to/slurp

Nothing is trained. `answer` keeps what is done in parts and goes on where it was stopped; `--seeds` and `--systems`
choose, so that several may run side by side. `score` reads the answers of all seeds, tests the pairs of the plan on
these sentences alone and writes `results/NAME.json`; `make evidence` puts the table into the page.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from make import RESULTS, SLURP, read, write_results

from trl_weaks.study.environment import describe_environment
from trl_weaks.study.pipeline.completions import JOINT_ANSWER, CompletionRun
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.predictions import PREDICTIONS, predict_completions, read_predictions
from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.report.results import score_systems
from trl_weaks.study.stages import STAMP
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.checks import SCORED, checked_statistics, measure_of
from trl_weaks.study.tasks.find import TASK_OF_FOLDER, config_class, task_of
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

PART = 300  # sentences between two savings
KEYS = "of.json"  # beside answers: what the models that gave them were made of
BEGUN, DONE = "begun.json", "done.json"  # beside a student that a script here has trained, to its end
RUN = "runs/evidence/slots_smollm2_four"  # how commands name the study's folder
DEVEL = 1000  # sentences of devel behind those that a supervisor's epoch was chosen on


@dataclass(frozen=True)
class Table:
    """What is asked of whom.

    Args:
        systems: students of the study, those of `longer.py` with their epochs behind the name, those of
            `relabelled.py`, or the joint answer; the supervisors are there anyway.
        ceiling: one of them.
        pairs: first, second, first, second, ...
        split: `test`, behind the sentences of the study; or `devel`, behind those that chose a supervisor's epoch.
        seeds: of the study.
        trained: the script, with its options, that trains those that the study has not.
    """

    systems: Sequence[str]
    ceiling: str
    pairs: Sequence[str]
    split: str = "test"
    seeds: Sequence[int] = (0, 1, 2)
    trained: str = ""


SUPERVISORS = ("gpt2", "opt", "gpt_neox")
_LONGER = ("joint", "joint_3", JOINT_ANSWER, "ceiling", "ceiling_3")
_TRAIN_LONGER = "longer.py {run} --seeds {seeds} --students joint ceiling --epochs 3"
TABLES = {
    "slots_smollm2_rest": Table(  # R1, R2, R3 of plan.md; the pairs with a supervisor are not planned
        systems=("joint", "naive", JOINT_ANSWER, "ceiling"),
        ceiling="ceiling",
        pairs=("joint", JOINT_ANSWER, "naive", JOINT_ANSWER, "joint", "naive")
        + tuple(name for first in ("joint", "naive") for one in SUPERVISORS for name in (first, one)),
    ),
    "slots_smollm2_3_epochs": Table(  # T1, T2, T3
        systems=_LONGER,
        ceiling="ceiling_3",
        pairs=("joint_3", JOINT_ANSWER, "joint_3", "joint")
        + tuple(name for one in SUPERVISORS for name in ("joint_3", one)),
        trained=_TRAIN_LONGER,
    ),
    "slots_devel_epochs": Table(
        systems=_LONGER,
        ceiling="ceiling_3",
        pairs=("joint", JOINT_ANSWER, "joint_3", JOINT_ANSWER, "joint_3", "joint"),
        split="devel",
        seeds=(0,),
        trained=_TRAIN_LONGER,
    ),
    "slots_devel_systematic": Table(  # U1, U2, U3
        systems=("imitator", "randomly_wrong", JOINT_ANSWER, "ceiling"),
        ceiling="ceiling",
        pairs=("randomly_wrong", JOINT_ANSWER, "randomly_wrong", "imitator", "imitator", JOINT_ANSWER),
        split="devel",
        trained="relabelled.py {run} --seeds {seeds} --students imitator randomly_wrong",
    ),
    "slots_devel_more_labels": Table(  # V1, V2
        systems=("joint", "joint_3100", JOINT_ANSWER, "ceiling"),
        ceiling="ceiling",
        pairs=("joint_3100", JOINT_ANSWER, "joint_3100", "joint"),
        split="devel",
        trained="relabelled.py {run} --seeds {seeds} --students joint_3100",
    ),
}
LABELS = {  # of students that are no row of the study
    "joint_3": "Joint decoding + confidence, three epochs",
    "ceiling_3": "Ceiling, three epochs",
    "imitator": "Student on the joint answers as if gold",
    "randomly_wrong": "Student on gold spoilt at random to the same SLU-F1",
    "joint_3100": "Joint decoding + confidence, 3,100 sentences",
}


def run_of(folder: Path, data_dir: str, seed: int, **changed: Any) -> CompletionRun:
    """A seed of a finished study, with its settings but for those that are `changed`.

    Raises:
        SystemExit: no finished study, or not of that seed; or of other rows than `data_dir` has.
    """
    if not (folder / "results.json").is_file():
        raise SystemExit(f"{folder} is not the folder of a finished study: it has no results.json")
    name, settings = read(folder / TASK_OF_FOLDER)["task"], read(folder / "results.json")["config"]
    config = config_class(name)(**settings | {"data_dir": data_dir, "output_dir": str(folder)} | changed)
    run = CompletionRun(config, task_of(name, config), ModelFactory(config), seed, [], {})
    if not (run.labels_folder / STAMP).is_file():
        raise SystemExit(f"{folder} has no seed {seed}")
    try:
        data = run.data
    except FileNotFoundError as missing:
        raise SystemExit(f"--data_dir: {missing}") from None
    if not changed and data != read(run.labels_folder / STAMP)["spec"]["data"]:
        raise SystemExit(f"{data_dir} has other rows than those that seed {seed} of {folder} was run on")
    return run


def of_seed(folder: Path, data_dir: str, seed: int, split: str) -> tuple[CompletionRun, list[Example]]:
    """The run of a seed, and the sentences of a split that its study did not read.

    Raises:
        SystemExit: from [`run_of`]; or what the study read are not the first of the split.
    """
    run = run_of(folder, data_dir, seed)
    if split == "test":
        read_already, whole = run.splits.test, run_of(folder, data_dir, seed, num_test=None).splits.test
    else:
        read_already = run.splits.validation
        sizes = {"num_validation": len(read_already) + DEVEL}
        whole = run_of(folder, data_dir, seed, **sizes).splits.validation
    if [example.id for example in whole[: len(read_already)]] != [example.id for example in read_already]:
        raise SystemExit(f"{folder}: its {split} sentences are not the first of {data_dir}")
    return run, whole[len(read_already) :]


def place(run: CompletionRun, split: str, system: str, first: int) -> Path:
    return run.root / ("rest" if split == "test" else split) / system / f"part-{first}"


def folders_of(run: CompletionRun, system: str) -> list[Path]:
    """Where the models of a system are: one student or supervisor; for the joint answer all supervisors."""
    supervisors = run.config.supervisor_names
    if system == JOINT_ANSWER or system in supervisors:
        return [run.root / "weak" / name for name in (supervisors if system == JOINT_ANSWER else [system])]
    return [run.root / ("more" if system in LABELS else "students") / system]


def keys_of(run: CompletionRun, system: str) -> list[str]:
    """What the models of a system were made of, from the stamps beside them; answers keep it.

    Raises:
        SystemExit: a model is not trained, or not to its end.
    """
    keys = []
    for folder in folders_of(run, system):
        stamp = folder / (DONE if folder.parent.name == "more" else STAMP)
        if not stamp.is_file():
            how = [table.trained.split()[0] for table in TABLES.values() if system in table.systems and table.trained]
            raise SystemExit(f"{folder} is not trained to its end; {(how or ['the study'])[0]} trains it")
        keys.append(read(stamp)["key"])
    return keys


def finished(folder: Path, made: Mapping[str, Any]) -> bool:
    """Whether a student is trained to its end from these labels; a folder begun from others is emptied."""
    if (folder / DONE).is_file() and read(folder / DONE) == made:
        return True
    if folder.exists() and not ((folder / BEGUN).is_file() and read(folder / BEGUN) == made):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).write_text(json.dumps(made), encoding="utf-8")
    return False


def answered(folder: Path, keys: Sequence[str]) -> bool:
    """Whether a part is answered, by these very models."""
    return (folder / PREDICTIONS).is_file() and (folder / KEYS).is_file() and read(folder / KEYS) == list(keys)


def answer(name: str, folder: Path, data_dir: str, seeds: Sequence[int], systems: Sequence[str]) -> None:
    """Answer what is missing."""
    split = TABLES[name].split
    for seed in seeds:
        run, rest = of_seed(folder, data_dir, seed, split)
        for system in systems or (*run.config.supervisor_names, *TABLES[name].systems):
            keys = keys_of(run, system)
            parts = [(first, rest[first : first + PART]) for first in range(0, len(rest), PART)]
            parts = [(first, part) for first, part in parts if not answered(place(run, split, system, first), keys)]
            models = loaded(run, system) if parts else []
            for number, (first, part) in enumerate(parts, 1):
                print(f"seed {seed}, {system}: part {number} of {len(parts)}", flush=True)
                target = place(run, split, system, first)
                target.mkdir(parents=True, exist_ok=True)
                (target / KEYS).unlink(missing_ok=True)
                answer_part(run, models, part, target)
                (target / KEYS).write_text(json.dumps(keys), encoding="utf-8")


def loaded(run: CompletionRun, system: str) -> list[WeakSupervisor]:
    folders = folders_of(run, system)
    return [WeakSupervisor(*run.factory.trained(folder), name=folder.name) for folder in folders]


def answer_part(run: CompletionRun, models: Sequence[WeakSupervisor], part: Sequence[Example], folder: Path) -> None:
    """As the study answers its own test sentences."""
    c, rows = run.config, run.unlabelled_rows(part)
    if len(models) == 1:
        predict_completions(models[0], rows, folder, c.eval_beams, c.max_new_tokens, c.generation_batch_size)
    else:
        run.answer_jointly(WeakEnsemble(models, weights=c.weak_weights), rows, folder)


def statistics(name: str, folder: Path, data_dir: str) -> tuple[CompletionRun, dict[str, np.ndarray], list[Example]]:
    """Statistics of every system, `(seeds, sentences, C)`.

    Raises:
        FileNotFoundError: answers are missing.
        SystemExit: answers are of models that have been trained anew since.
    """
    table, found = TABLES[name], dict[str, list[list[Any]]]()
    for seed in table.seeds:
        run, rest = of_seed(folder, data_dir, seed, table.split)
        for system in (*run.config.supervisor_names, *table.systems):
            texts = []
            for first in range(0, len(rest), PART):
                part = place(run, table.split, system, first)
                kept = read_predictions(part, [example.id for example in rest[first : first + PART]])
                if not answered(part, keys_of(run, system)):
                    raise SystemExit(f"{part} has answers of another {system} than is there; `answer` them again")
                texts += [row["completion"] for row in kept]
            pairs = zip(texts, rest, strict=True)
            found.setdefault(system, []).append([checked_statistics(run.task, *pair) for pair in pairs])
    return run, {system: np.array(values, dtype=float) for system, values in found.items()}, rest


def score(name: str, folder: Path, data_dir: str) -> dict[str, Any]:
    """Rows and comparisons, in the form of a study's results."""
    table, own = TABLES[name], read(folder / "results.json")
    run, samples, rest = statistics(name, folder, data_dir)
    measure, rows = measure_of(run.task, *rest[:SCORED]), {**own["weak"], **own["methods"]}
    systems = []
    for system, values in samples.items():
        weak, other = system in own["weak"], system in (JOINT_ANSWER, "ceiling")
        role = "weak" if weak else "ceiling" if system == table.ceiling else "baseline" if other else "method"
        label = LABELS.get(system) or rows[system]["label"]
        systems.append({"name": system, "label": label, "role": role, "samples": values})
    results = score_systems(systems, measure=measure, resamples=10_000)
    labels = {system: told(folder, table.seeds, system) for system in table.systems if system in LABELS}
    return results | {
        "comparisons": compare_systems(samples, measure, table.pairs),
        "seeds": list(table.seeds),
        "environment": describe_environment(),
        "labels": {system: found for system, found in labels.items() if found},
        "command": commands(name),
    }


def told(folder: Path, seeds: Sequence[int], system: str) -> list[dict[str, Any]]:
    """What `relabelled.py` keeps of the labels of a student: rows, score, share that is gold; of every seed."""
    kept = [read(folder / f"seed-{seed}" / "more" / system / DONE) for seed in seeds]
    return [{key: one[key] for key in ("rows", "score", "gold") if key in one} for one in kept]


def commands(name: str) -> str:
    """All that makes a table from a finished study, in the order of its steps."""
    table, seeds = TABLES[name], " ".join(map(str, TABLES[name].seeds))
    data = f"--data_dir {SLURP}"
    steps = [table.trained.format(run=RUN, seeds=seeds) + f" {data}"] if table.trained else []
    steps += [f"answers.py {what} {name} {RUN} {data}" for what in ("answer", "score")]
    return "; ".join(f"python docs/evidence/{step}" for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["answer", "score"])
    parser.add_argument("name", choices=TABLES, help="of the table, in `results/`: what is asked of whom")
    parser.add_argument("run", type=Path, help="the folder of the finished study")
    parser.add_argument("--data_dir", required=True, help="SLURP's folder")
    parser.add_argument("--seeds", type=int, nargs="+", help="of `answer`; default those of the table")
    parser.add_argument("--systems", nargs="+", default=[], help="of `answer`; default all of the table")
    asked = parser.parse_args()
    if asked.what == "answer":
        answer(asked.name, asked.run, asked.data_dir, asked.seeds or TABLES[asked.name].seeds, asked.systems)
        return
    try:
        made = score(asked.name, asked.run, asked.data_dir)
    except FileNotFoundError as missing:
        raise SystemExit(f"{missing.filename} is missing; `answers.py answer` answers these sentences first") from None
    print(write_results(RESULTS / f"{asked.name}.json", made))


if __name__ == "__main__":
    main()
