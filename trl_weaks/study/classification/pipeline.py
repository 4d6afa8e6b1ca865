"""The weak-to-strong experiment on classification, as stages."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, load_from_disk

from trl_weaks.columns import EXAMPLE_ID, LABEL, SUPERVISORS, TEXT, WEAK_PROBS, WEIGHTS
from trl_weaks.labelling.label_classes import label_classes
from trl_weaks.study.classification import methods, training
from trl_weaks.study.classification.evaluation import predict
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.stages import Stage
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble


@dataclass
class ClassificationRun(SeedRun):
    """All stages of one seed: `weak -> label -> student` beside the ceiling, then predictions of every system."""

    peft_task: ClassVar[str] = "SEQ_CLS"

    @cached_property
    def chosen(self) -> list[methods.Method]:
        return methods.choose(self.config.methods, self.config.supervisor_names)

    def stages(self) -> list[Stage]:
        """The stages in order; `self.systems` maps each evaluated system to the stage that holds its predictions."""
        weak = [self._weak(number) for number in range(len(self.config.weak_models))]
        labels = self._label(weak)
        students = {method.name: self._student(method, labels) for method in self.chosen}
        gold = {"ceiling": self._gold("ceiling", "half_b"), "strong_on_a": self._gold("strong_on_a", "half_a")}
        trained = dict(zip(self.config.supervisor_names, weak, strict=True)) | students | gold
        self.systems = {name: self._evaluate(name, stage) for name, stage in trained.items()}
        return self.wanted(
            weak=weak,
            label=[labels],
            student=students.values(),
            ceiling=gold.values(),
            evaluate=self.systems.values(),
        )

    def _weak(self, number: int) -> Stage:
        name, model, settings = self.supervisor(number)

        def action(folder: Path) -> None:
            rows = self.splits.half_a
            loaded = self.factory.weak(model, self.seed, [row[TEXT] for row in rows])
            training.train_on_gold(loaded, rows, settings, folder, self.seed, len(self.source.classes))

        spec = self.common() | {"model": self.factory.identity(model), "training": settings}
        return Stage(f"weak supervisor {name}", self.root / "weak" / name, spec, action)

    def _label(self, weak: list[Stage]) -> Stage:
        c = self.config

        def action(folder: Path) -> None:
            supervisors = [
                WeakClassifier(*self.factory.trained(stage.folder), name=name)
                for name, stage in zip(c.supervisor_names, weak, strict=True)
            ]
            held_out = Dataset.from_list(self.splits.validation) if c.calibrate else None
            texts = {row[TEXT] for row in self.splits.half_b}
            if held_out is not None:  # SLURP repeats a few sentences; gold must not reach what is labelled
                held_out = held_out.filter(lambda row: row[TEXT] not in texts)
            unlabelled = Dataset.from_list(self.splits.half_b).remove_columns(LABEL)
            label_classes(WeakEnsemble(supervisors, c.weak_weights), unlabelled, held_out, folder)

        spec = self.common() | {"weights": c.weak_weights, "calibrate": c.calibrate}
        return Stage("weak labels", self.root / "labels", spec, action, tuple(weak))

    def votes(self, supervisors: tuple[str, ...] = ()) -> Dataset:
        """The labelled half B, with the votes of all supervisors or of the ones named."""
        votes = load_from_disk(str(self.root / "labels" / "dataset"))
        if not supervisors:
            return votes
        keep = [votes[0][SUPERVISORS].index(name) for name in supervisors]
        return votes.map(lambda row: {c: [row[c][i] for i in keep] for c in (WEAK_PROBS, WEIGHTS, SUPERVISORS)})

    def _student(self, method: methods.Method, labels: Stage) -> Stage:
        settings = dict(self.config.student_training or {}) | dict(method.settings)

        def action(folder: Path) -> None:
            loaded = self.factory.student(self.base, self.seed)
            training.train_on_votes(loaded, self.votes(method.supervisors), settings, folder, self.seed, self.lora)

        spec = self.common() | {"method": asdict(method), "training": settings, "student": self.student_identity()}
        after = self.on_base(labels)
        folder = self.root / "students" / method.name
        return Stage(f"student, {method.label}", folder, spec, action, after)

    def _gold(self, name: str, half: str) -> Stage:
        settings = dict(self.config.student_training or {})

        def action(folder: Path) -> None:
            loaded = self.factory.student(self.base, self.seed)
            rows, classes = getattr(self.splits, half), len(self.source.classes)
            training.train_on_gold(loaded, rows, settings, folder, self.seed, classes, self.lora)

        spec = self.common() | {"gold": half, "training": settings, "student": self.student_identity()}
        after = self.on_base()
        return Stage(f"student on gold, {half}", self.root / "students" / name, spec, action, after)

    def _evaluate(self, name: str, trained: Stage) -> Stage:
        def action(folder: Path) -> None:
            predict(WeakClassifier(*self.factory.trained(trained.folder), name=name), self.splits.test, folder)

        spec = self.common() | {"test": [row[EXAMPLE_ID] for row in self.splits.test[:3]] + [len(self.splits.test)]}
        return Stage(f"evaluate {name}", self.root / "predictions" / name, spec, action, (trained,))
