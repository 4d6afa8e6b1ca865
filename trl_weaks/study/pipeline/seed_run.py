"""All stages of one seed, the same for every task: weak, label, student, gold, preference, evaluate."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from peft import LoraConfig

from trl_weaks._version import __version__
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.methods import ON_GOLD_OF_A, Method
from trl_weaks.study.pipeline.models import TINY, ModelFactory, Reader
from trl_weaks.study.preference_methods import PreferenceMethod
from trl_weaks.study.stages import Stage, fingerprint, let_refuse
from trl_weaks.study.tasks.base import Example, Splits, Task
from trl_weaks.study.tasks.checks import check_splits

STUDENT = "student"  # among the bases, whose other names are those of supervisors


@dataclass
class SeedRun(ABC):
    """The stages of one seed; the two kinds of tasks fill in how a model is trained, labels, and answers.

    Args:
        config: the study's settings.
        task: data and answers.
        factory: builds or loads models.
        seed: data halves, initialisation and order of this run.
        methods: rows of the report, see [`choose_methods`].
        bases: stages that pre-train tiny models, by supervisor, and `student`; shared by all seeds, like public
            checkpoints.
        optional: names of methods without which the study goes on where the data do not allow them.
    """

    peft_task: ClassVar[str]

    config: StudyConfig
    task: Task
    factory: ModelFactory
    seed: int
    methods: Sequence[Method]
    bases: Mapping[str, Stage] = field(default_factory=dict)
    optional: Collection[str] = ()
    systems: dict[str, Stage] = field(default_factory=dict)
    pairs: dict[str, Stage] = field(default_factory=dict)

    # what a kind of task fills in

    @abstractmethod
    def rows(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Gold rows as a trainer reads them."""

    @abstractmethod
    def unlabelled_rows(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The same without gold."""

    @abstractmethod
    def train_weak(self, number: int, base: Stage | None, folder: Path) -> None:
        """Train a supervisor on half A."""

    @abstractmethod
    def label(self, weak: Sequence[Stage], folder: Path) -> None:
        """Have the supervisors label half B."""

    @abstractmethod
    def train_student(self, method: Method, folder: Path, before: Stage | None = None) -> None:
        """Train the student on the labels; `before` trained the student that the method reads."""

    @abstractmethod
    def train_gold(self, half: str, folder: Path) -> None:
        """Train the student on gold."""

    @abstractmethod
    def predict(self, name: str, trained: Stage | None, folder: Path) -> None:
        """Answer the test split."""

    @abstractmethod
    def label_sets(self) -> dict[str, Dataset]:
        """The labelled half B, by name of the labels: all that the methods read."""

    @abstractmethod
    def label_spec(self) -> dict[str, Any]:
        """What labels depend on beside the supervisors."""

    @abstractmethod
    def predict_spec(self) -> dict[str, Any]:
        """What predictions depend on beside the model."""

    @abstractmethod
    def texts(self) -> list[str]:
        """What the tokenizer of a tiny model that nobody pre-trains learns from."""

    @abstractmethod
    def check_room(self, name: str, reader: Reader) -> None:
        """
        Args:
            name: `student`, or a supervisor's.

        Raises:
            ValueError: what it is to read is too long for it; names split and example.
        """

    def label_views(self, labels: Stage, weak: Sequence[Stage]) -> dict[str, Stage]:
        """Stages that make further labels of the first ones, by name of the labels."""
        return {}

    def view_of(self, method: Method) -> str:
        """Which of `label_views` a method's student reads."""
        return method.labels

    def preferred(self, students: Mapping[str, Stage], labels: Stage, weak: Sequence[Stage]) -> dict[str, Stage]:
        """Stages that train a student further on preferences; `self.pairs` are those that make what they share."""
        return {}

    def gold_settings(self) -> dict[str, Any]:
        """The student's settings on gold."""
        return dict(self.config.student_training or {})

    def check_rooms(self) -> None:
        """[`~SeedRun.check_room`] of every model that a stage to run trains, and that has a tokenizer now; one that is
        to be pre-trained is asked as soon as its stage has made one."""
        c, stages = self.config, set(self.config.stages)
        wanted = list(zip(c.supervisor_names, c.weak_models, strict=True)) if "weak" in stages else []
        wanted += [(STUDENT, c.student_model)] if stages & {"student", "ceiling"} else []
        for name, model in wanted:
            base = self.bases.get(name)
            if base is None:
                self.check_room(name, self.factory.reader(model, self.texts() if model.startswith(TINY) else ()))
            elif base.done():
                self.check_room(name, self.factory.reader(str(base.folder)))

    # the stages

    def stages(self) -> list[Stage]:
        """The stages in order; `self.systems` maps each evaluated system to the stage that holds its predictions."""
        names = self.config.supervisor_names
        weak = [self._weak(number) for number in range(len(names))]
        labels = self._label(weak)
        views = self.label_views(labels, weak)
        gold, students = self._gold_stages(), {}
        for method in self.methods:
            if isinstance(method, PreferenceMethod):
                continue
            before = self._before(method, students, gold)
            students[method.name] = self._student(method, views.get(self.view_of(method), labels), before)
        preferred = self.preferred(students, labels, weak)
        trained: dict[str, Stage | None] = dict(zip(names, weak, strict=True)) | students | preferred | gold
        self.systems = {name: self._evaluate(name, stage) for name, stage in trained.items()}
        self.systems |= self._untaught(weak)
        optional = [stage for name, stage in self.systems.items() if name in self.optional]
        let_refuse([stage for stage in self.systems.values() if stage not in optional], optional)
        return self._wanted(
            pretrain=self.bases.values(),
            weak=weak,
            label=[labels, *views.values()],
            student=students.values(),
            ceiling=gold.values(),
            preference=[*self.pairs.values(), *preferred.values()],
            evaluate=self.systems.values(),
        )

    def refused(self) -> dict[str, str]:
        """Row -> why it could not be computed."""
        return {name: reason for name, stage in self.systems.items() if (reason := stage.refusal())}

    def leave_out(self, rows: Collection[str]) -> None:
        """Forget rows, so that nothing after asks for their outcomes."""
        self.methods = [method for method in self.methods if method.name not in rows]
        self.systems = {name: stage for name, stage in self.systems.items() if name not in rows}

    def _untaught(self, weak: Sequence[Stage]) -> dict[str, Stage]:
        """Stages of answers without a student that was trained for them."""
        return {}

    def _wanted(self, **groups: Iterable[Stage]) -> list[Stage]:
        """The stages of the groups that `config.stages` names, in order."""
        return [stage for name, group in groups.items() if name in self.config.stages for stage in group]

    def _weak(self, number: int) -> Stage:
        name, model, settings = self.supervisor(number)
        base = self.bases.get(name)
        spec = self.common() | {"model": self.factory.identity(model), "training": settings}
        after = (base,) if base else ()
        folder = self.root / "weak" / name
        return Stage(f"weak supervisor {name}", folder, spec, lambda path: self.train_weak(number, base, path), after)

    def _label(self, weak: Sequence[Stage]) -> Stage:
        spec = self.common() | self.label_spec()
        return Stage("weak labels", self.labels_folder, spec, lambda path: self.label(weak, path), tuple(weak))

    def _before(self, method: Method, students: Mapping[str, Stage], gold: Mapping[str, Stage]) -> Stage | None:
        """The stage that trains the student which the method reads."""
        if method.after == ON_GOLD_OF_A:
            return gold.get(ON_GOLD_OF_A, gold["ceiling"])  # without gold of half B the ceiling is that student
        if method.after and method.after not in students:
            raise ValueError(
                f"method {method.name!r} reads the student of {method.after!r}, which is trained on preferences after "
                "all others; name a row that is trained on labels."
            )
        return students[method.after] if method.after else None

    def _student(self, method: Method, labels: Stage, before: Stage | None = None) -> Stage:
        settings = dict(self.config.student_training or {})
        spec = self.common() | {
            "method": method.spec(settings),
            "training": settings,
            "student": self._student_identity(),
        }
        folder = self.root / "students" / method.name
        name = f"student, {method.label}"
        after = self._on_base(labels, *([before] if before else []))
        return Stage(name, folder, spec, lambda path: self.train_student(method, path, before), after)

    def _gold_stages(self) -> dict[str, Stage]:
        """The ceiling on gold of half B, beside the student on half A; without gold of half B the ceiling is that."""
        if self.splits.half_b_has_gold:
            return {"ceiling": self._gold("ceiling", "half_b"), "strong_on_a": self._gold("strong_on_a", "half_a")}
        return {"ceiling": self._gold("ceiling", "half_a")}

    def _gold(self, name: str, half: str) -> Stage:
        training = {"training": self.gold_settings(), "student": self._student_identity()}
        spec = self.common() | {"gold": half} | training
        folder = self.root / "students" / name
        label = f"student on gold, {half}"
        return Stage(label, folder, spec, lambda path: self.train_gold(half, path), self._on_base())

    def _evaluate(self, name: str, trained: Stage | None, more: Mapping[str, Any] | None = None) -> Stage:
        spec = self.common() | {"test": self.config.num_test} | self.predict_spec() | dict(more or {})
        if trained is None:
            spec["model"] = self._student_identity()
        folder, after = self.root / "predictions" / name, (trained,) if trained else ()
        return Stage(f"evaluate {name}", folder, spec, lambda path: self.predict(name, trained, path), after)

    # what they depend on

    @property
    def root(self) -> Path:
        return Path(self.config.output_dir) / f"seed-{self.seed}"

    @property
    def labels_folder(self) -> Path:
        return self.root / "labels"

    @property
    def base(self) -> Stage | None:
        """The stage that pre-trains the student, if there is one."""
        return self.bases.get(STUDENT)

    @cached_property
    def splits(self) -> Splits:
        """The task's examples, as many as the settings ask for.

        Raises:
            ValueError: from [`check_splits`], or more examples are asked for than there are.
        """
        c = self.config
        found = check_splits(self.task, self.task.splits(self.seed))
        sizes = {"half_a": c.num_gold, "half_b": c.num_weak, "validation": c.num_validation, "test": c.num_test}
        settings = {"half_a": "num_gold", "half_b": "num_weak", "validation": "num_validation", "test": "num_test"}
        parts = {}
        for name, examples in found.parts().items():
            size = sizes[name]
            if size is not None and size > len(examples) and size != c.max_examples:
                raise ValueError(
                    f"`{settings[name]}` asks for {size} examples; the task {self.task.name!r} has {len(examples)} in "
                    f"`{name}`. Ask for fewer."
                )
            parts[name] = examples if size is None else examples[:size]
        found = Splits(**parts)
        if not found.half_b_has_gold and (known := sum(one.target is not None for one in found.half_b)):
            missing = next(one.id for one in found.half_b if one.target is None)
            raise ValueError(
                f"task {self.task.name!r}: {known} of the {len(found.half_b)} examples of `half_b` have gold, and "
                f"{missing!r} has none. The ceiling needs all: give it for all, or for none."
            )
        return found

    @cached_property
    def data(self) -> str:
        """Hash of all that this seed's stages read of the task, so that a stage sees a changed row."""
        parts = {
            name: self._hashed(examples, gold=name != "half_b" or self.splits.half_b_has_gold)
            for name, examples in self.splits.parts().items()
        }
        return fingerprint([self.task.name, self.task.identity, parts])

    def _hashed(self, examples: Sequence[Example], gold: bool) -> list[dict[str, Any]]:
        return self.rows(examples) if gold else self.unlabelled_rows(examples)

    @cached_property
    def lora(self) -> LoraConfig | None:
        return LoraConfig(task_type=self.peft_task, **(self.config.lora or {})) if self.config.use_peft else None

    def common(self) -> dict[str, Any]:
        """What every stage of this seed depends on."""
        c = self.config
        sizes = (c.num_gold, c.num_weak, c.num_validation)
        return {"version": __version__, "data": self.data, "sizes": sizes, "seed": self.seed}

    def supervisor(self, number: int) -> tuple[str, str, dict[str, Any]]:
        """Short name, model and trainer settings of a supervisor."""
        c = self.config
        settings = dict(c.weak_training or {})
        if c.weak_learning_rates:
            settings["learning_rate"] = c.weak_learning_rates[number]
        return c.supervisor_names[number], c.weak_models[number], settings

    def _student_identity(self) -> dict[str, Any]:
        """What a stage's key needs to know of the student."""
        identity = self.factory.identity(self.config.student_model)
        layers = {} if self.config.student_layers is None else {"layers": self.config.student_layers}
        return {"model": identity, "lora": self.config.use_peft and self.config.lora} | layers

    def _on_base(self, *before: Stage) -> tuple[Stage, ...]:
        """What a student's stage comes after: these, and its pre-training."""
        return (*before, *([self.base] if self.base else []))


def called(name: str) -> str:
    """How messages call the student, or a supervisor by its name."""
    return "the student" if name == STUDENT else f"supervisor {name!r}"
