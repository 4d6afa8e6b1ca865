"""A study on the Hub: the labels of half B, every student with its score and its PGR, and a collection of them all."""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id

from trl_weaks.commands.sources import first_line
from trl_weaks.labelling.storage.push import new_or_same, push_labels, who_labelled
from trl_weaks.markdown import table
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.report.markdown import pgr_text
from trl_weaks.study.report.study import NOT_STUDENTS
from trl_weaks.study.tasks.base import Task
from trl_weaks.supervisors.loading import hub_id
from trl_weaks.trainer.common.model_card import Result, eval_results

# of a stage's folder; stamps, logs and histories stay at home
FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json")
FILES += ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.jinja", "*.model")
LONGEST_TITLE, LONGEST_ABOUT, LONGEST_NOTE = 59, 150, 500  # characters, the Hub's own limits


@dataclass(frozen=True)
class Student:
    """One trained student of one seed, its folder here and its repository there."""

    system: str
    run: SeedRun
    folder: Path
    repository: str


def students(config: StudyConfig, runs: Sequence[SeedRun]) -> list[Student]:
    """What is pushed: the students of all methods, not supervisors, baselines or the ceiling.

    Raises:
        ValueError: a name that the Hub does not take, or that two of them share.
    """
    found, taken = [], {_labels_of(config): "the labels"}
    for run in runs:
        for system, stage in run.systems.items():
            if system in (*config.supervisor_names, *NOT_STUDENTS, "ceiling"):
                continue
            seed = f"-seed{run.seed}" if len(runs) > 1 else ""
            repository = f"{config.push_to_hub}-{re.sub('[^A-Za-z0-9_.]+', '-', system)}{seed}"
            if repository in taken:
                raise ValueError(f"`push_to_hub`: {taken[repository]} and {system} would both be {repository}.")
            try:
                validate_repo_id(repository)
            except HFValidationError as error:
                raise ValueError(f"`push_to_hub`: the Hub takes no repository {repository!r}. {error}") from error
            taken[repository] = system
            found.append(Student(system, run, stage.after[0].folder, repository))
    return found


def _labels_of(config: StudyConfig) -> str:
    return f"{config.push_to_hub}-labels"


def check_push(config: StudyConfig, runs: Sequence[SeedRun]) -> None:
    """
    Raises:
        ValueError: nobody is logged in, the owner is somebody else, or a name cannot be; before anything is trained.
    """
    if config.push_to_hub is None:
        return
    students(config, runs)
    try:
        account = HfApi().whoami()
    except OSError as error:
        raise ValueError(
            "`push_to_hub`: the Hub does not say whose account this is; log in with `hf auth login`, or set HF_TOKEN. "
            f"{first_line(error)}"
        ) from error
    owners = [account["name"], *(one["name"] for one in account.get("orgs") or ())]
    owner = config.push_to_hub.partition("/")[0]
    if owner not in owners:
        raise ValueError(f"`push_to_hub`: {owner!r} is not an account of yours; yours are {', '.join(owners)}.")


def push_study(config: StudyConfig, task: Task, runs: Sequence[SeedRun]) -> str:
    """Push labels, students and their collection; the same call again brings all of them up to date.

    Returns:
        The collection's address.

    Raises:
        ValueError: private repositories were asked for, and one exists and is public; nothing goes into it.
    """
    api, private = HfApi(), config.hub_private_repo or None
    results = json.loads((Path(config.output_dir) / "results.json").read_text(encoding="utf-8"))
    data = _labels_of(config)
    for run in runs:
        for name, labels in run.label_sets().items():
            about = f"Half B of the study's data, seed {run.seed}, labels `{name}`. "
            card, config_name = about + who_labelled(labels), f"seed{run.seed}-{name}"
            push_labels(labels, data, card, config_name, license=config.hub_license, private=private)
    items = {("dataset", data): f"The weak labels of {task.report_title}"}
    for student in students(config, runs):
        new_or_same(api, student.repository, "model", private)
        row = results["methods"][student.system]
        with _loadable(student.folder, student.run.factory) as folder:
            card = student_card(config, task, student, results, data, merged=folder != student.folder)
            files = [path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, kind) for kind in FILES)]
            operations = [CommitOperationAdd(path.name, str(path)) for path in files]
            operations.append(CommitOperationAdd("README.md", str(card).encode()))
            message = f"{row['label']}, seed {student.run.seed}"
            api.create_commit(student.repository, operations, commit_message=message)
        items["model", student.repository] = f"{message}; PGR {pgr_text(row['pgr'], row['pgr_interval'])}"
    return _collect(api, config, task, items)


@contextmanager
def _loadable(folder: Path, factory: ModelFactory) -> Iterator[Path]:
    """A student's folder; of a LoRA adapter whose base is not on the Hub, a passing one with both merged."""
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or hub_id(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for part in factory.trained(folder):
            part.save_pretrained(made)
        yield Path(made)


def student_card(
    config: StudyConfig, task: Task, student: Student, results: Mapping[str, Any], data: str, merged: bool
) -> ModelCard:
    """The card that training wrote, with the study's results as `model-index` and a section on the study."""
    card = ModelCard((student.folder / "README.md").read_text(encoding="utf-8"))
    here, there = student.folder.name, student.repository.partition("/")[2]
    card.data.model_name, card.data.license, card.data.datasets = there, config.hub_license, [data]
    if merged:
        card.data.library_name = "transformers"
        card.data.tags = [tag for tag in card.data.tags or [] if tag not in ("lora", "peft")]
    kind = "text-generation" if task.kind == "completions" else "text-classification"
    name = f"{task.report_title}, test split"
    card.data.eval_results = eval_results(kind, task.name, name, _own_results(student, results))
    text = card.text.replace(f'model="{here}"', f'model="{student.repository}"')
    for head in ("# Model Card for ", "# "):
        text = text.replace(f"{head}{here}\n", f"{head}{there}\n", 1)
    card.text = "\n\n".join([text.rstrip(), _study_section(task, student, results)]) + "\n"
    return card


def _own_results(student: Student, results: Mapping[str, Any]) -> dict[str, Result]:
    """The score of this very model, with its interval where it is the only seed, and the PGR of its method."""
    key, row = results["measure"], results["methods"][student.system]
    own = row[f"{key}_per_seed"]
    at = results["seeds"].index(student.run.seed) if len(own) > 1 else 0
    found: dict[str, Result] = {key: _with(own[at], row[f"{key}_interval"]) if len(own) == 1 else own[at]}
    if row["pgr"] is not None:
        found["pgr"] = _with(row["pgr"], row["pgr_interval"])
    return found


def _with(value: float, interval: Sequence[float | None]) -> Result:
    """A value with its interval, where that has two ends."""
    low, high = interval
    return (
        value
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high))
        else (value, low, high)
    )


def _study_section(task: Task, student: Student, results: Mapping[str, Any]) -> str:
    key, row, count = results["measure"], results["methods"][student.system], len(results["seeds"])
    low, high = (
        f"{sign}∞" if end is None or math.isinf(end) else f"{end:.3f}"
        for end, sign in zip(row[f"{key}_interval"], "−+", strict=True)
    )
    share = f"{results['confidence']:.0%}"
    score = f"{key}, mean of {count} seeds [{share} interval]" if count > 1 else f"{key} [{share} interval]"
    taught = ", ".join(f"`{name}`" for name in row["supervisors"]) or "none of the weak supervisors"
    lines = [
        [score, f"{row[key]:.3f} [{low}, {high}]"],
        [f"performance gap recovered [{share} interval]", pgr_text(row["pgr"], row["pgr_interval"])],
        ["taught by", taught],
        ["mean of all weak supervisors", f"{results['weak_mean']:.3f}"],
        ["ceiling: the same student on gold", f"{results['ceiling']:.3f}"],
    ]
    head = f"“{row['label']}” of the study “{task.report_title}”, seed {student.run.seed}; {results['examples']} test "
    head += "examples, intervals of a paired bootstrap over examples and seeds."
    refused = f"\n\n{results['pgr_refused']}." if results["pgr_refused"] and row["pgr"] is None else ""
    return f"## Study\n\n{head}\n\n{table(['what', 'value'], lines)}{refused}"


def _collect(api: HfApi, config: StudyConfig, task: Task, items: Mapping[tuple[str, str], str]) -> str:
    """The collection of a study with these items and notes; notes of items that are there already are renewed."""
    owner, _, name = config.push_to_hub.partition("/")
    about = f"{task.report_title}: weak labels, and students with what they recovered. Made with trl_weaks."
    collection = api.create_collection(
        name[:LONGEST_TITLE],
        namespace=owner,
        description=about[:LONGEST_ABOUT],
        private=config.hub_private_repo,
        exists_ok=True,
    )
    there = {(item.item_type, item.item_id): item.item_object_id for item in collection.items}
    for (kind, repository), note in items.items():
        if (kind, repository) in there:
            known = there[kind, repository]
            api.update_collection_item(collection.slug, known, note=note[:LONGEST_NOTE])
        else:
            api.add_collection_item(collection.slug, repository, kind, note=note[:LONGEST_NOTE], exists_ok=True)
    return collection.url
