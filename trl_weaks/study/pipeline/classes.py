"""What the stages do where the task asks for classes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, load_from_disk

from trl_weaks.aggregation.boosted import boosted_weights
from trl_weaks.aggregation.transforms import Reweight
from trl_weaks.columns import EXAMPLE_ID, LABEL, SUPERVISORS, TEXT, WEAK_PROBS, WEIGHTS
from trl_weaks.distributed import processes
from trl_weaks.labelling.label_classes import label_classes
from trl_weaks.labelling.reliability.gold import class_names
from trl_weaks.labelling.reliability.trust import trust_weights
from trl_weaks.labelling.sources.from_votes import labels_from_votes
from trl_weaks.labelling.with_student.trained import TrainedStudent
from trl_weaks.study.annotators import ANNOTATORS, check_plan, simulated_votes
from trl_weaks.study.methods import Method
from trl_weaks.study.models.pypi import PYPI
from trl_weaks.study.pipeline.label_views import transformed
from trl_weaks.study.pipeline.models import TINY, Loaded, Reader
from trl_weaks.study.pipeline.predictions import predict_classes
from trl_weaks.study.pipeline.room import check_texts
from trl_weaks.study.pipeline.seed_run import STUDENT, SeedRun, called
from trl_weaks.study.pipeline.students import classes as training
from trl_weaks.study.stages import Stage
from trl_weaks.study.tasks.base import Example
from trl_weaks.study.tasks.checks import label_index
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.trainer.classification.sets import as_places

TRUSTED = "trusted"  # votes weighted by trust heads
BOOSTED = "boosted"  # votes weighted as boosting weighs the supervisors
VIEWS = (TRUSTED, BOOSTED, ANNOTATORS)  # labels beside those of the supervisors, each in a folder of its own


@dataclass
class ClassRun(SeedRun):
    """All stages of one seed of a [`ClassificationTask`]."""

    peft_task: ClassVar[str] = "SEQ_CLS"

    def rows(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        return [
            row | {LABEL: label_index(self.task, example)}
            for example, row in zip(examples, self.unlabelled_rows(examples), strict=True)
        ]

    def unlabelled_rows(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        return [{EXAMPLE_ID: example.id, TEXT: self.task.text(example)} for example in examples]

    def train_weak(self, number: int, base: Stage | None, folder: Path) -> None:
        _, model, settings = self.supervisor(number)
        rows = self.rows(self.splits.half_a)
        name = str(base.folder) if base else model
        loaded = self.factory.weak(name, self.seed, [row[TEXT] for row in rows])
        settings = self.config.training(settings)
        training.train_on_gold(loaded, rows, settings, folder, self.seed, len(self.task.classes))

    def label_spec(self) -> dict[str, Any]:
        own = [name for name in self.config.weak_models if not name.startswith((TINY, PYPI))]
        named = {"class_names": "the task's"} if own else {}  # earlier labels were sorted by those of the checkpoints
        return {"weights": self.config.weak_weights, "calibrate": self.config.calibrate} | named

    def label(self, weak: Sequence[Stage], folder: Path) -> None:
        held_out = self._known() if self.config.calibrate else None
        unlabelled = Dataset.from_list(self.unlabelled_rows(self.splits.half_b))
        label_classes(self._ensemble(weak), unlabelled, held_out, folder)

    def _ensemble(self, weak: Sequence[Stage]) -> WeakEnsemble:
        supervisors = [
            WeakClassifier(*self.factory.trained(stage.folder), name=name)
            for name, stage in zip(self.config.supervisor_names, weak, strict=True)
        ]
        return WeakEnsemble(supervisors, self.config.weak_weights)

    def label_views(self, labels: Stage, weak: Sequence[Stage]) -> dict[str, Stage]:
        """The labels weighted by trust heads or boosting, or of simulated annotators, where a method asks for them
        (`labels`)."""
        asked = {method.labels for method in self.methods} - {"independent"}
        unknown = sorted(asked - set(VIEWS))
        if unknown:
            raise ValueError(
                f"`labels={unknown[0]!r}`: votes of classes are 'independent', {TRUSTED!r}, {BOOSTED!r} or "
                f"{ANNOTATORS!r}; what makes one label of them is the method's `aggregator`. ('refined' compares "
                "texts: of two classes, a committee always prefers its own.)"
            )
        self._check_boosted()
        self._check_validation(asked)
        found = {}
        by_gold = {TRUSTED: ("trust", self._label_trusted), BOOSTED: ("boosting", self._label_boosted)}
        for view, (how, action) in by_gold.items():
            if view in asked:
                name, spec = f"weak labels, weighted by {how}", self.common() | self.label_spec()
                found[view] = Stage(name, self._view(view), spec, partial(action, weak), (labels, *weak))
        if ANNOTATORS in asked:
            self._check_annotated()
            spec = self.common() | {"annotators": check_plan(self.config.annotators)}
            found[ANNOTATORS] = Stage(
                "labels of simulated annotators", self._view(ANNOTATORS), spec, self._label_annotated
            )
        return found

    def _view(self, name: str) -> Path:
        return self.root / f"labels-{name}"

    def _check_validation(self, asked: Collection[str]) -> None:
        needs = [f"labels={view!r}" for view in (TRUSTED, BOOSTED) if view in asked]
        needs = [*needs, "calibrate=True"] if self.config.calibrate else needs
        if needs and not self.splits.validation:
            raise ValueError(f"`{needs[0]}` learns from the gold of the validation split, which has no examples.")

    def _check_boosted(self) -> None:
        for method in self.methods:
            if method.labels == BOOSTED and method.supervisors:
                raise ValueError(
                    f"method {method.name!r}: boosting weighs all supervisors, each for what others get wrong; name "
                    "no `supervisors`."
                )

    def _check_annotated(self) -> None:
        if not self.splits.half_b_has_gold:
            raise ValueError(
                f"task {self.task.name!r}: simulated annotators vote around the gold of `half_b`, which has none. "
                f"Leave out the methods whose labels are {ANNOTATORS!r}."
            )
        for method in self.methods:
            if method.labels == ANNOTATORS and method.supervisors:
                raise ValueError(
                    f"method {method.name!r}: `supervisors` chooses among models; its labels are those of simulated "
                    "annotators. Name these in the study's setting `annotators`."
                )

    def _label_annotated(self, folder: Path) -> None:
        """The annotators vote on half B; a text on which nobody voted has no row."""
        if not processes().is_main_process:
            return
        gold = {example.id: label_index(self.task, example) for example in self.splits.half_b}
        votes = simulated_votes(gold, self.task.classes, self.seed, self.config.annotators)
        labels = labels_from_votes(self.unlabelled_rows(self.splits.half_b), votes, None, self.task.classes)
        labels.save_to_disk(str(folder / ANNOTATORS))

    def _label_trusted(self, weak: Sequence[Stage], folder: Path) -> None:
        """Trust heads learn on the validation split, whose gold no supervisor was trained on."""
        ensemble, rows = self._ensemble(weak), self.rows(self.splits.validation)
        known = label_classes(ensemble, Dataset.from_list(self.unlabelled_rows(self.splits.validation)), None, folder)
        names = class_names(known, len(self.task.classes))
        gold = {row[EXAMPLE_ID]: names[row[LABEL]] for row in rows}
        weighted = trust_weights(ensemble, self.votes(), known, gold)
        if processes().is_main_process:
            weighted.save_to_disk(str(folder / TRUSTED))

    def _label_boosted(self, weak: Sequence[Stage], folder: Path) -> None:
        """Every supervisor's votes, times the weight that boosting gives it on the gold of the validation split."""
        gold = {row[EXAMPLE_ID]: row[LABEL] for row in self.rows(self.splits.validation)}
        unlabelled = Dataset.from_list(self.unlabelled_rows(self.splits.validation))
        known = label_classes(self._ensemble(weak), unlabelled, None, folder)
        answers = np.array([gold[example] for example in known[EXAMPLE_ID]])
        weights = boosted_weights(np.array(known[WEAK_PROBS][:]), answers).tolist()
        weighted = Reweight(lambda row: weights)(self.votes())
        if processes().is_main_process:
            weighted.save_to_disk(str(folder / BOOSTED))

    def votes(self, supervisors: Sequence[str] = (), labels: str = "independent") -> Dataset:
        """The labelled half B, with the votes of all supervisors or of the ones named."""
        folder = self._view(labels) / labels if labels in VIEWS else self.labels_folder / "dataset"
        votes = load_from_disk(str(folder))
        if not supervisors:
            return votes
        keep = [votes[0][SUPERVISORS].index(name) for name in supervisors]
        return votes.map(lambda row: {c: [row[c][i] for i in keep] for c in (WEAK_PROBS, WEIGHTS, SUPERVISORS)})

    def label_sets(self) -> dict[str, Dataset]:
        return {name: self.votes(labels=name) for name in ("independent", *(method.labels for method in self.methods))}

    def train_student(self, method: Method, folder: Path, before: Stage | None = None) -> None:
        settings = method.over(self.config.training(self.config.student_training))
        if method.aggregator:
            settings["pooling"] = method.aggregator
        trained = self._trained(before) if before else None
        votes = transformed(self.votes(method.supervisors, method.labels), method, trained)
        student = self._untrained_student()
        training.train_on_votes(student, votes, settings, folder, self.seed, self.lora, method.custom_loss)

    def _trained(self, before: Stage) -> TrainedStudent:
        student = WeakClassifier(*self.factory.trained(before.folder), name=before.folder.name)
        return TrainedStudent(student, self._known())

    def _known(self) -> Dataset:
        return as_places(Dataset.from_list(self.rows(self.splits.validation)), len(self.task.classes))

    def train_gold(self, half: str, folder: Path) -> None:
        rows, classes = self.rows(getattr(self.splits, half)), len(self.task.classes)
        student = self._untrained_student()
        settings = self.config.training(self.gold_settings())
        training.train_on_gold(student, rows, settings, folder, self.seed, classes, self.lora)

    def _untrained_student(self) -> Loaded:
        return self.factory.student(self.base, self.seed, self.texts())

    def texts(self) -> list[str]:
        return [row[TEXT] for row in self.unlabelled_rows(self.splits.half_a)]

    def check_room(self, name: str, reader: Reader) -> None:
        """All texts are read whole, but those that a trainer's `max_length` cuts."""
        c, parts = self.config, self.splits.parts()
        settings = (c.student_training if name == STUDENT else c.weak_training) or {}
        read = [] if settings.get("max_length") else ["half_a", "half_b"] if name == STUDENT else ["half_a"]
        read += ["test"] if name == STUDENT else ["half_b", "test"]
        labels = {method.labels for method in self.methods}
        read += ["validation"] if name != STUDENT and (c.calibrate or labels & {TRUSTED, BOOSTED}) else []
        check_texts(called(name), reader, {split: self.unlabelled_rows(parts[split]) for split in dict.fromkeys(read)})

    def predict_spec(self) -> dict[str, Any]:
        return {}

    def predict(self, name: str, trained: Stage | None, folder: Path) -> None:
        predict_classes(
            WeakClassifier(*self.factory.trained(trained.folder), name=name), self.rows(self.splits.test), folder
        )
