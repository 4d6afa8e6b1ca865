"""The test sentences behind those of a finished study, answered by students that are trained already.

    python docs/evidence/rest.py answer runs/evidence/slots_smollm2_joint --data_dir path/to/slurp
    python docs/evidence/rest.py score runs/evidence/slots_smollm2_joint --data_dir path/to/slurp

Nothing is trained. `answer` keeps what is done in parts and goes on where it was stopped; `--seeds` and `--systems`
choose, so that several may run side by side. `score` reads the answers of all seeds, tests the pairs R1 to R3 of the
plan on these sentences alone and writes `results/slots_smollm2_rest.json`; `make evidence` puts the table into the
page.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from make import RESULTS, read

from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.metrics.bootstrap import bootstrap_scores, limits, seed_scores
from trl_weaks.metrics.few_seeds import cell_values, spread
from trl_weaks.study.environment import describe_environment
from trl_weaks.study.pipeline.completions import JOINT_ANSWER, CompletionRun
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.predictions import PREDICTIONS, predict_completions, read_predictions, write_completions
from trl_weaks.study.pipeline.untaught import joint_answers
from trl_weaks.study.report.compare import compare_systems
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.checks import SCORED, checked_statistics, measure_of
from trl_weaks.study.tasks.find import TASK_OF_FOLDER, config_class, task_of
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

NAME = "slots_smollm2_rest"
SYSTEMS = ("joint", "naive", JOINT_ANSWER)
PAIRS = ("joint", JOINT_ANSWER, "naive", JOINT_ANSWER, "joint", "naive")  # R1, R2, R3 of plan.md
PART = 300  # sentences between two savings


def of_seed(folder: Path, data_dir: str, seed: int) -> tuple[CompletionRun, list[Example]]:
    """The run of a seed, and the test sentences that its study did not ask.

    Raises:
        SystemExit: no finished study; its test sentences are not the first of the split.
    """
    if not (folder / "results.json").is_file():
        raise SystemExit(f"{folder} is not the folder of a finished study: it has no results.json")
    name, results = read(folder / TASK_OF_FOLDER)["task"], read(folder / "results.json")
    config = config_class(name)(**results["config"] | {"data_dir": data_dir, "output_dir": str(folder)})
    asked = task_of(name, config).splits(seed).test
    whole = replace(config, num_test=None)
    task = task_of(name, whole)
    tests = task.splits(seed).test
    if [example.id for example in tests[: len(asked)]] != [example.id for example in asked]:
        raise SystemExit(f"{folder}: its test sentences are not the first of {data_dir}")
    return CompletionRun(whole, task, ModelFactory(whole), seed, [], {}), tests[len(asked) :]


def place(folder: Path, seed: int, system: str, first: int) -> Path:
    return folder / f"seed-{seed}" / "rest" / system / f"part-{first}"


def answer(folder: Path, data_dir: str, seeds: Sequence[int], systems: Sequence[str]) -> None:
    """Answer what is missing."""
    for seed in seeds:
        run, rest = of_seed(folder, data_dir, seed)
        for system in systems:
            parts = [(first, rest[first : first + PART]) for first in range(0, len(rest), PART)]
            parts = [(f, part) for f, part in parts if not (place(folder, seed, system, f) / PREDICTIONS).is_file()]
            models = loaded(run, folder / f"seed-{seed}", system) if parts else []
            for number, (first, part) in enumerate(parts, 1):
                print(f"seed {seed}, {system}: part {number} of {len(parts)}", flush=True)
                target = place(folder, seed, system, first)
                target.mkdir(parents=True, exist_ok=True)
                answer_part(run, models, part, target)


def loaded(run: CompletionRun, root: Path, system: str) -> list[WeakSupervisor]:
    """The student; or for the joint answer all supervisors."""
    names = run.config.supervisor_names if system == JOINT_ANSWER else [system]
    place = root / ("weak" if system == JOINT_ANSWER else "students")
    return [WeakSupervisor(*run.factory.trained(place / name), name=name) for name in names]


def answer_part(run: CompletionRun, models: Sequence[WeakSupervisor], part: Sequence[Example], folder: Path) -> None:
    """As the study answers its own test sentences."""
    c, rows = run.config, run.unlabelled_rows(part)
    if len(models) == 1:
        predict_completions(models[0], rows, folder, c.eval_beams, c.max_new_tokens, c.generation_batch_size)
        return
    labels = label_completions(
        WeakEnsemble(models, weights=c.weak_weights),
        Dataset.from_list(rows),
        mode="joint",
        num_candidates=c.num_candidates,
        max_new_tokens=c.max_new_tokens,
        output_dir=folder / "labels",
        batch_size=c.generation_batch_size,
    )
    write_completions(folder, rows, joint_answers(labels, rows))


def score(folder: Path, data_dir: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Rows and comparisons, in the form of a study's results.

    Raises:
        FileNotFoundError: answers are missing.
    """
    found: dict[str, list[list[Any]]] = {system: [] for system in SYSTEMS}
    for seed in seeds:
        run, rest = of_seed(folder, data_dir, seed)
        for system in SYSTEMS:
            texts = []
            for first in range(0, len(rest), PART):
                ids = [example.id for example in rest[first : first + PART]]
                kept = read_predictions(place(folder, seed, system, first), ids)
                texts += [row["completion"] for row in kept]
            pairs = zip(texts, rest, strict=True)
            found[system].append([checked_statistics(run.task, text, example) for text, example in pairs])
    measure, own = measure_of(run.task, *rest[:SCORED]), read(folder / "results.json")
    samples = {system: np.array(values, dtype=float) for system, values in found.items()}
    head = measure.scores[measure.key]
    draws = bootstrap_scores(samples, head, resamples=10_000)
    rows = {}
    for system, table in samples.items():
        per_seed, seen = seed_scores(table.mean(1), head), spread(cell_values(table, head))
        point = float(per_seed.mean())
        interval = limits(draws[system], 0.95, point, seen.stretch(0.95) if seen else 1.0)
        rows[system] = {"label": own["methods"][system]["label"], measure.key: point}
        rows[system] |= {f"{measure.key}_per_seed": per_seed.tolist(), f"{measure.key}_interval": list(interval)}
    return {
        "measure": measure.key,
        "weak": {},
        "methods": rows,
        "comparisons": compare_systems(samples, measure, PAIRS),
        "examples": len(rest),
        "seeds": list(seeds),
        "environment": describe_environment(),
        "command": "python docs/evidence/rest.py score runs/evidence/slots_smollm2_joint --data_dir path/to/slurp "
        "--seeds " + " ".join(map(str, seeds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["answer", "score"])
    parser.add_argument("run", type=Path, help="the folder of the finished study")
    parser.add_argument("--data_dir", required=True, help="SLURP's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="of `answer`")
    asked = parser.parse_args()
    if asked.what == "answer":
        answer(asked.run, asked.data_dir, asked.seeds, asked.systems)
        return
    made = score(asked.run, asked.data_dir, asked.seeds)
    path = RESULTS / f"{NAME}.json"
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
