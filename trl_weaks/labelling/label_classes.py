"""Soft votes: every text classified by N weak supervisors."""

import json
import os
import shutil
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from .. import columns
from ..aggregation.calibration import fit_temperature
from ..distributed import processes
from ..fingerprint import digest, refuse_unknown_code, supervisor_fingerprint
from ..pooling import temper
from ..supervisors.class_names import order_like, real_names
from ..supervisors.classifier import WeakClassifier
from ..supervisors.ensemble import WeakEnsemble
from .progress import Progress, alone
from .store import KeptLabels, LabelStore, writing

STAGE = "classify"
TEMPERATURES = "temperatures.json"


def label_classes(
    ensemble: WeakEnsemble,
    dataset: Dataset,
    calibration: Dataset | None = None,
    output_dir: str | Path | None = None,
    batch_size: int = 256,
) -> Dataset:
    """The dataset with the votes of the ensemble: `weak_probs` (N, K), `weak_weights` (N), `weak_supervisors` (N).

    Classes are joined by name: supervisors whose `id2label` lists the same names in another order are brought into the
    order of the dataset's own labels (a `ClassLabel` column `label`) or else of the first supervisor with names. The
    names travel along as `weak_classes`, and the student gets them.

    Args:
        ensemble: a `WeakEnsemble` of `WeakClassifier`s with the same number of classes.
        dataset: `text` (or `prompt`, text or messages); other columns are carried through.
        calibration: held-out rows with gold `label` (and the same text column), none of them used to train the
            supervisors. Each supervisor's temperature is fitted on it. None leaves the probabilities as they are.
        output_dir: votes are kept here while they are made, and the dataset in its folder `dataset`, beside
            `temperatures.json`; the same call continues where a killed one stopped. None keeps nothing (one
            process only).
        batch_size: texts per unit of work, the most that a kill can lose. *ours*

    Raises:
        ValueError: before any work: supervisors that do not classify or differ in their classes or names of them,
            missing columns, empty texts, gold labels out of range, or a calibration text that is also to be labelled.
        LabelStoreError: the votes cannot be written; nothing already written is lost.
    """
    if output_dir is None and processes().num_processes > 1:
        raise ValueError("several processes share their work through the disk: give label_classes an output_dir.")
    num_classes = _check_ensemble(ensemble)
    if output_dir is not None:
        refuse_unknown_code(ensemble.supervisors)
    classes = _classes(ensemble, dataset, num_classes)
    texts = _texts(dataset, "dataset")
    held_out, gold = _check_calibration(calibration, texts, num_classes, classes)
    if output_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            made = _label(ensemble, dataset, texts, held_out, gold, classes, Path(folder), batch_size)
            return Dataset.from_list(made.to_list(), features=made.features)  # in memory: the folder goes
    return _label(ensemble, dataset, texts, held_out, gold, classes, Path(output_dir), batch_size)


def _label(
    ensemble: WeakEnsemble,
    dataset: Dataset,
    texts: list,
    held_out: list,
    gold: list[int],
    classes: list[str] | None,
    folder: Path,
    batch_size: int,
) -> Dataset:
    everything = [*texts, *held_out]
    configs = {
        s.name: digest(supervisor_fingerprint(s), s.max_length, s.max_length and s.tokenizer.truncation_side)
        for s in ensemble.supervisors
    }
    _collect(ensemble, everything, configs, folder / "labels", batch_size)

    def put_together() -> None:
        votes = _votes(ensemble, everything, configs, folder / "labels", classes)
        temperatures = dict.fromkeys(ensemble.names, 1.0)
        if held_out:
            for name, probs in zip(ensemble.names, votes, strict=True):
                temperatures[name] = fit_temperature(probs[len(texts) :], gold)
        scale = torch.tensor(list(temperatures.values()), dtype=torch.float64)[:, None]
        probs = temper(votes[:, : len(texts)], scale).transpose(0, 1)
        kept = dataset.remove_columns([c for c in _ADDED if c in dataset.column_names])
        kept = kept.add_column(columns.WEAK_PROBS, probs.tolist())
        kept = kept.add_column(columns.WEIGHTS, [ensemble.weights] * len(texts))
        if classes is not None:
            kept = kept.add_column(columns.CLASSES, [classes] * len(texts))
        with writing("the votes", folder):
            (folder / TEMPERATURES).write_text(json.dumps(temperatures, indent=1), encoding="utf-8")
            _replace(kept.add_column(columns.SUPERVISORS, [ensemble.names] * len(texts)), folder / "dataset")

    alone(folder / "labels", put_together)
    return Dataset.load_from_disk(str(folder / "dataset"))


def _replace(dataset: Dataset, target: Path) -> None:
    """Save beside and rename: a dataset of an earlier call may still read the old files."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    dataset.save_to_disk(str(beside))
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


_ADDED = (columns.WEAK_PROBS, columns.WEIGHTS, columns.SUPERVISORS, columns.CLASSES)


def _collect(ensemble: WeakEnsemble, texts: Sequence, configs: dict[str, str], folder: Path, batch_size: int) -> None:
    """Vote on what is not in the store yet, each process its share; a text that occurs twice is read once."""
    state = processes()
    by_key = {digest(text): text for text in texts}
    store = LabelStore(folder, str(state.process_index))
    known = _read(store, configs, by_key)
    todo = {s.name: [key for key in by_key if (s.name, key) not in known] for s in ensemble.supervisors}
    progress = Progress(folder, sum(map(len, todo.values())), "labelling", "vote")  # nobody writes while another reads
    for supervisor in ensemble.supervisors:
        mine = todo[supervisor.name][state.process_index :: state.num_processes]
        for start in range(0, len(mine), batch_size):
            unit = mine[start : start + batch_size]
            found = supervisor.predict([by_key[k] for k in unit], [_named(by_key[k]) for k in unit])
            about = {"supervisor": supervisor.name, "stage": STAGE, "config": configs[supervisor.name]}
            rows = found.probabilities.double().tolist()
            store.append(
                {"example_id": key, **about, "probabilities": row} for key, row in zip(unit, rows, strict=True)
            )
            progress.advance(len(unit))
    store.close()
    progress.finish()


def _votes(
    ensemble: WeakEnsemble, texts: Sequence, configs: dict[str, str], folder: Path, classes: list[str] | None
) -> Tensor:
    """(N, n, K) float64 probabilities from the store, the classes in one order."""
    keys = [digest(text) for text in texts]
    store = KeptLabels(folder)
    known = _read(store, configs, set(keys))
    store.close()
    votes = torch.tensor([[known[s.name, key] for key in keys] for s in ensemble.supervisors], dtype=torch.float64)
    for number, supervisor in enumerate(ensemble.supervisors):
        if classes is not None and supervisor.class_names is not None:
            order = order_like(supervisor.class_names, classes, f"supervisor {supervisor.name!r}", "the labels")
            votes[number] = votes[number][:, order]
    return votes / votes.sum(-1, keepdim=True)


def _read(store: KeptLabels, configs: dict[str, str], wanted: Container[str]) -> dict[tuple[str, str], list[float]]:
    return {
        (record["supervisor"], record["example_id"]): record["probabilities"]
        for record, _ in store.records()
        if record["stage"] == STAGE
        and configs.get(record["supervisor"]) == record["config"]
        and record["example_id"] in wanted
    }


def _named(text: object) -> str:
    shown = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return f"text {shown[:60]!r}"


def _check_ensemble(ensemble: WeakEnsemble) -> int:
    for supervisor in ensemble.supervisors:
        if not isinstance(supervisor, WeakClassifier):
            raise ValueError(f"supervisor {supervisor.name!r} does not classify; build it with `WeakClassifier`.")
    counts = {s.name: s.num_classes for s in ensemble.supervisors}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the supervisors differ in their number of classes: {counts}.")
    return ensemble.supervisors[0].num_classes


def _texts(dataset: Dataset, name: str) -> list:
    found = [c for c in (columns.TEXT, columns.PROMPT) if c in dataset.column_names]
    if not found:
        raise ValueError(f"The {name} needs a column '{columns.TEXT}' or '{columns.PROMPT}'.")
    texts = list(dataset[found[0]])
    for row, text in enumerate(texts):
        if not text:
            raise ValueError(f"The {name}, row {row}, column '{found[0]}' is empty. Drop the row.")
    if not texts:
        raise ValueError(f"The {name} is empty.")
    return texts


def _classes(ensemble: WeakEnsemble, dataset: Dataset, num_classes: int) -> list[str] | None:
    """The names of the classes in the order of the labels; None where nobody names them."""
    feature = dataset.features.get(columns.LABEL)
    named = {f"supervisor {s.name!r}": s.class_names for s in ensemble.supervisors if s.class_names is not None}
    if isinstance(feature, ClassLabel):
        if feature.num_classes != num_classes:
            raise ValueError(
                f"The dataset's column '{columns.LABEL}' has {feature.num_classes} classes, the supervisors have "
                f"{num_classes}."
            )
        if real_names(feature.names):
            named = {f"the dataset's column '{columns.LABEL}'": feature.names} | named
    if not named:
        return None
    whose, wanted = next(iter(named.items()))
    for who, names in named.items():
        order_like(names, wanted, who, whose)
    return list(wanted)


def _check_calibration(
    calibration: Dataset | None, texts: list, num_classes: int, classes: list[str] | None
) -> tuple[list, list[int]]:
    """Texts and class ids of the calibration set."""
    if calibration is None:
        return [], []
    if columns.LABEL not in calibration.column_names:
        raise ValueError(f"The calibration set needs gold in a column '{columns.LABEL}'.")
    held_out = _texts(calibration, "calibration set")
    gold = _gold_ids(calibration, num_classes, classes)
    labelled = {digest(text) for text in texts}
    for row, text in enumerate(held_out):
        if digest(text) in labelled:
            raise ValueError(
                f"The calibration set, row {row}, is also to be labelled; its gold would leak. Remove it."
            )
    return held_out, gold


def _gold_ids(calibration: Dataset, num_classes: int, classes: list[str] | None) -> list[int]:
    """Gold as class ids in the order of the labels, from ids or names."""
    feature, gold = calibration.features[columns.LABEL], list(calibration[columns.LABEL])
    if isinstance(feature, ClassLabel) and classes is not None and real_names(feature.names):
        order = order_like(feature.names, classes, "the calibration set", "the labels")
        return [order.index(label) for label in gold]
    if classes is not None and all(isinstance(label, str) for label in gold):
        unknown = [row for row, label in enumerate(gold) if label not in classes]
        if unknown:
            raise ValueError(
                f"The calibration set, row {unknown[0]}: label {gold[unknown[0]]!r} is none of the classes {classes}."
            )
        return [classes.index(label) for label in gold]
    for row, label in enumerate(gold):
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
            raise ValueError(f"The calibration set, row {row}: label {label!r} is not from 0 to {num_classes - 1}.")
    return gold
