"""Soft votes: every text classified by N weak supervisors."""

import json
import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset
from torch import Tensor

from .. import columns
from ..aggregation.answers.confidence import METHODS
from ..aggregation.calibration import fit_isotonic, fit_temperature
from ..distributed import processes
from ..files import replaced_folder, writing
from ..fingerprint import digest, refuse_unknown_code, supervisor_fingerprint
from ..pooling import temper
from ..supervisors.class_names import class_id, numbered, order_like, real_names
from ..supervisors.classifier import WeakClassifier
from ..supervisors.ensemble import WeakEnsemble, refuse_no_ensemble
from .prompt_columns import with_ids
from .run import LabelRun
from .storage.export import save
from .storage.store import LabelStore, StoredLabels

STAGE = "classify"
TEMPERATURES = "temperatures.json"


def label_classes(
    ensemble: WeakEnsemble,
    dataset: Dataset,
    calibration: Dataset | None = None,
    output_dir: str | Path | None = None,
    batch_size: int = 256,
    calibration_method: str = "temperature",
) -> Dataset:
    """The dataset with the votes of the ensemble: `weak_probs` (N, K), `weak_weights` (N), `weak_supervisors` (N).

    Classes are joined by name: supervisors whose `id2label` lists the same names in another order are brought into the
    order of the dataset's own labels (a `ClassLabel` column `label`) or else of the first supervisor with names. The
    names travel along as `weak_classes`, and the student gets them.

    Args:
        ensemble: a `WeakEnsemble` of `WeakClassifier`s with the same number of classes.
        dataset: `text` (or `prompt`, text or messages) and `example_id`, by default the row's number; other columns
            are carried through, but for those of earlier labels.
        calibration: held-out rows with gold `label` (and the same text column), none of them used to train the
            supervisors. Each supervisor is calibrated on it by itself. None leaves the probabilities as they are. Gold
            is a class's name, or its place from 0 where no class has a number for its name (as 1 to 5 stars have).
        output_dir: votes are kept here while they are made, and the dataset in its folder `dataset` (Arrow and
            Parquet), beside `temperatures.json`; the same call continues where a killed one stopped. None keeps
            nothing (one process only).
        batch_size: texts per batch of work, the most that a kill can lose. *ours*
        calibration_method: `"temperature"`, one number, or `"isotonic"`, each class against the rest, for calibration
            sets with many rows of every class; see [`trl_weaks.aggregation.calibration`]. Without temperatures there
            is no `temperatures.json`.

    Raises:
        ValueError: before any work: an unknown method of calibration, supervisors that do not classify or differ in
            their classes or names of them, missing columns, empty texts, gold labels out of range, or a calibration
            text that is also to be labelled.
        LabelStoreError: the votes cannot be written; nothing already written is lost.
    """
    if calibration_method not in METHODS:
        raise ValueError(f"calibration_method={calibration_method!r} is not one of {METHODS}.")
    if output_dir is None and processes().num_processes > 1:
        raise ValueError("several processes share their work through the disk: give label_classes an output_dir.")
    num_classes, dataset = _check_ensemble(ensemble), with_ids(dataset)
    if output_dir is not None:
        refuse_unknown_code(ensemble.supervisors)
    classes = _classes(ensemble, dataset, num_classes)
    texts = _texts(dataset, "dataset")
    held_out, gold = _check_calibration(calibration, texts, num_classes, classes)
    settings = ClassSettings(texts, held_out, gold, classes, batch_size, calibration_method)
    if output_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            ClassRun(ensemble, dataset, settings, Path(folder)).run()
            made = Dataset.load_from_disk(str(Path(folder) / "dataset"))
            return Dataset.from_list(made.to_list(), features=made.features)  # in memory: the folder goes
    ClassRun(ensemble, dataset, settings, Path(output_dir)).run()
    return Dataset.load_from_disk(str(Path(output_dir) / "dataset"))


@dataclass(frozen=True)
class ClassSettings:
    """What `label_classes` found out from its arguments.

    Attributes:
        texts: of the dataset, one for each row.
        held_out, gold: texts of the calibration set and their class ids; empty without one.
        classes: names in the order of the labels; None where nobody names them.
        batch_size: texts classified before their votes are stored.
        method: of the calibration.
    """

    texts: list
    held_out: list
    gold: list[int]
    classes: list[str] | None
    batch_size: int
    method: str = "temperature"


class ClassRun(LabelRun):
    """Every supervisor votes on every text; a text that occurs twice is read once. Arguments: see `LabelRun`."""

    unit = "vote"
    settings: ClassSettings

    def __init__(self, ensemble: WeakEnsemble, dataset: Dataset, settings: ClassSettings, folder: Path):
        super().__init__(ensemble, dataset, settings, folder)
        self.texts = {digest(text): text for text in (*settings.texts, *settings.held_out)}
        self.configs = {s.name: _configuration(s) for s in ensemble.supervisors}

    def read(self, store: StoredLabels | LabelStore) -> None:
        self.store, self.stored = store, _stored(store, self.configs, self.texts)

    def todo(self, process: int, count: int) -> tuple[Sequence, int]:
        batches, left = [], 0
        for supervisor in self.ensemble.supervisors:
            keys = [key for key in self.texts if (supervisor.name, key) not in self.stored]
            mine, left = keys[process::count], left + len(keys)
            starts = range(0, len(mine), self.settings.batch_size)
            batches += [(supervisor, mine[start : start + self.settings.batch_size]) for start in starts]
        return batches, left

    def work(self, batch: tuple[WeakClassifier, list[str]]) -> int:
        supervisor, keys = batch
        texts = [self.texts[key] for key in keys]
        votes = supervisor.predict(texts, [_named(text) for text in texts]).probabilities.double().tolist()
        about = {"supervisor": supervisor.name, "stage": STAGE, "config": self.configs[supervisor.name]}
        self.store.append(
            {"example_id": key, **about, "probabilities": row} for key, row in zip(keys, votes, strict=True)
        )
        return len(keys)

    def export(self) -> None:
        texts = self.settings.texts
        votes, temperatures = self.calibrated()
        probs = votes.transpose(0, 1)
        made = self.dataset.remove_columns(
            [c for c in (*columns.WEAK, columns.TRAIN_WEIGHT) if c in self.dataset.column_names]
        )
        made = made.add_column(columns.WEAK_PROBS, probs.tolist())
        made = made.add_column(columns.WEIGHTS, [self.ensemble.weights] * len(texts))
        if self.settings.classes is not None:
            made = made.add_column(columns.CLASSES, [self.settings.classes] * len(texts))
        made = made.add_column(columns.SUPERVISORS, [self.ensemble.names] * len(texts))
        with writing("the votes", self.folder):
            if temperatures is None:
                (self.folder / TEMPERATURES).unlink(missing_ok=True)  # of an earlier call, with another method
            else:
                (self.folder / TEMPERATURES).write_text(json.dumps(temperatures, indent=1), encoding="utf-8")
            with replaced_folder(self.folder / "dataset") as new:  # an earlier call's dataset may still read the old
                save(made, new)

    def calibrated(self) -> tuple[Tensor, dict[str, float] | None]:
        """Votes on the dataset's texts, (N, n, K), and the temperatures where that is the method."""
        count, gold = len(self.settings.texts), self.settings.gold
        votes = self.votes([*self.settings.texts, *self.settings.held_out])
        held_out, asked = votes[:, count:], votes[:, :count]
        if gold and self.settings.method == "isotonic":
            fitted = [fit_isotonic(probs, gold) for probs in held_out]
            return torch.stack([fit(probs) for fit, probs in zip(fitted, asked, strict=True)]), None
        found = [fit_temperature(probs, gold) if gold else 1.0 for probs in held_out]
        scale = torch.tensor(found, dtype=torch.float64)[:, None]
        return temper(asked, scale), dict(zip(self.ensemble.names, found, strict=True))

    def votes(self, texts: Sequence) -> Tensor:
        """(N, n, K) float64 probabilities from the store, the classes in one order."""
        keys, classes = [digest(text) for text in texts], self.settings.classes
        found = [[self.stored[s.name, key] for key in keys] for s in self.ensemble.supervisors]
        votes = torch.tensor(found, dtype=torch.float64)
        for number, supervisor in enumerate(self.ensemble.supervisors):
            if classes is not None and supervisor.class_names is not None:
                order = order_like(supervisor.class_names, classes, f"supervisor {supervisor.name!r}", "the labels")
                votes[number] = votes[number][:, order]
        return votes / votes.sum(-1, keepdim=True)


def _configuration(supervisor: WeakClassifier) -> str:
    cut = supervisor.max_length and supervisor.tokenizer.truncation_side
    again = ["texts of one length"] if supervisor.padding_matters else []  # earlier, these models' texts were padded
    return digest(supervisor_fingerprint(supervisor), supervisor.max_length, cut, *again)


def _stored(
    store: StoredLabels, configs: dict[str, str], wanted: Container[str]
) -> dict[tuple[str, str], list[float]]:
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
    refuse_no_ensemble(ensemble)
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
    """Gold as class ids in the order of the labels, from ids or names; where classes have numbers, those are names."""
    feature, gold = calibration.features[columns.LABEL], list(calibration[columns.LABEL])
    if isinstance(feature, ClassLabel) and classes is not None and real_names(feature.names):
        order = order_like(feature.names, classes, "the calibration set", "the labels")
        gold = [label if label is None or label < 0 else order.index(label) for label in gold]  # -1: none, see below
    elif not isinstance(feature, ClassLabel) and classes is not None:
        if numbered(classes) or all(isinstance(label, str) for label in gold):
            return [_named_gold(label, classes, row) for row, label in enumerate(gold)]
    for row, label in enumerate(gold):
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
            raise ValueError(f"The calibration set, row {row}: label {label!r} is not from 0 to {num_classes - 1}.")
    return gold


def _named_gold(label: object, classes: list[str], row: int) -> int:
    try:
        return class_id(label, classes, f"row {row}")
    except ValueError:
        message = f"The calibration set, row {row}: label {label!r} is none of the classes {classes}."
        raise ValueError(message) from None
