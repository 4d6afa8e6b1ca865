"""What the stages of one seed have in common, whatever the task."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from peft import LoraConfig

from trl_weaks._version import __version__
from trl_weaks.study.pipeline.config import ExperimentConfig
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.stages import Stage, fingerprint


@dataclass
class SeedRun:
    """All stages of one seed; a task adds `stages()`.

    Args:
        config: the experiment's settings.
        source: where examples come from; has `splits(seed)`, and `identity`, what else the stages read of it.
        factory: builds or loads models.
        seed: data halves, initialisation and order of this run.
        base: the stage that pre-trains the student, if there is one; shared by all seeds, like a public checkpoint.
    """

    peft_task: ClassVar[str]

    config: ExperimentConfig
    source: Any
    factory: ModelFactory
    seed: int
    base: Stage | None = None
    systems: dict[str, Stage] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return Path(self.config.output_dir) / f"seed-{self.seed}"

    @cached_property
    def splits(self) -> Any:
        return self.source.splits(self.seed)

    @cached_property
    def data(self) -> str:
        """Hash of every row of this seed's splits, so that a stage sees a changed file."""
        return fingerprint([self.source.identity, asdict(self.splits)])

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

    def student_identity(self) -> dict[str, Any]:
        """What a stage's key needs to know of the student."""
        identity = self.factory.identity(self.config.student_model)
        return {"model": identity, "lora": self.config.use_peft and self.config.lora}

    def on_base(self, *before: Stage) -> tuple[Stage, ...]:
        """What a student's stage comes after: these, and its pre-training."""
        return (*before, *([self.base] if self.base else []))

    def wanted(self, **groups: Iterable[Stage]) -> list[Stage]:
        """The stages of the groups that `config.stages` names, in order."""
        return [stage for name, group in groups.items() if name in self.config.stages for stage in group]
