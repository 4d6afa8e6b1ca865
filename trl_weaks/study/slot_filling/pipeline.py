"""The weak-to-strong experiment on slot filling, as stages."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, load_from_disk

from trl_weaks.columns import COMPLETION, EXAMPLE_ID, PROMPT
from trl_weaks.distributed import processes
from trl_weaks.labelling.label_completions import MODES, label_completions
from trl_weaks.study.data.prompts import FILLER_LEAD, build_prompt
from trl_weaks.study.data.rows import task_rows
from trl_weaks.study.pipeline.seed_run import SeedRun
from trl_weaks.study.slot_filling import methods, training
from trl_weaks.study.slot_filling.evaluation import predict
from trl_weaks.study.slot_filling.labels import only_supervisors
from trl_weaks.study.slot_filling.pretrain import weak_base_stage
from trl_weaks.study.slot_filling.room import check_room
from trl_weaks.study.stages import Stage
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor


@dataclass
class SlotFillingRun(SeedRun):
    """All stages of one seed: `weak -> label -> student` beside `ceiling`, then predictions of every system."""

    peft_task: ClassVar[str] = "CAUSAL_LM"

    @cached_property
    def prompt(self) -> Callable[[str], str]:
        return build_prompt(self.config.prompt, self.source.slot_types)

    def stages(self) -> list[Stage]:
        """The stages in order; `self.systems` maps each evaluated system to the stage that holds its predictions."""
        numbers = range(len(self.config.weak_models))
        bases = [weak_base_stage(self.config, self.source, self.factory, number) for number in numbers]
        weak = [self._weak(number, base) for number, base in zip(numbers, bases, strict=True)]
        labels = self._label(weak)
        chosen = methods.choose(self.config.methods, self.config.supervisor_names)
        students = {method.name: self._student(method, labels) for method in chosen}
        preferred = self._preferred(students, labels, weak)
        gold = {"ceiling": self._gold("ceiling", "half_b"), "strong_on_a": self._gold("strong_on_a", "half_a")}
        trained = dict(zip(self.config.supervisor_names, weak, strict=True)) | students | preferred | gold
        self.systems = {name: self._evaluate(name, stage) for name, stage in trained.items()}
        self.systems["untrained"] = self._evaluate("untrained", self.base)
        return self.wanted(
            pretrain=[base for base in bases if base],
            weak=weak,
            label=[labels],
            student=students.values(),
            ceiling=gold.values(),
            preference=preferred.values(),
            evaluate=self.systems.values(),
        )

    def common(self) -> dict[str, Any]:
        return super().common() | {"prompt": self.config.prompt}

    def _rows(self, split: str) -> list[dict[str, str]]:
        return task_rows(getattr(self.splits, split), self.prompt, FILLER_LEAD[self.config.prompt])

    def _weak(self, number: int, base: Stage | None) -> Stage:
        name, model, settings = self.supervisor(number)

        def action(folder: Path) -> None:
            rows = self._rows("half_a")
            texts = [row[PROMPT] + row[COMPLETION] for row in rows]
            loaded = self.factory.pretrained(str(base.folder)) if base else self.factory.weak(model, self.seed, texts)
            self._check_room(loaded)
            training.train_on_gold(loaded, rows, settings, folder, self.seed, validation=self._rows("validation"))

        spec = self.common() | {"model": self.factory.identity(model), "training": settings}
        after = (base,) if base else ()
        return Stage(f"weak supervisor {name}", self.root / "weak" / name, spec, action, after)

    def _label(self, weak: list[Stage]) -> Stage:
        c = self.config
        settings = {
            "num_candidates": c.num_candidates,
            "max_new_tokens": c.max_new_tokens,
            "weights": c.weak_weights,
        }

        def action(folder: Path) -> None:
            ensemble, prompts = self._ensemble(weak), self._prompts("half_b")
            for mode in MODES:  # the second finds the first one's beams in the folder
                labels = label_completions(
                    ensemble,
                    prompts,
                    mode=mode,
                    num_candidates=c.num_candidates,
                    max_new_tokens=c.max_new_tokens,
                    output_dir=folder,
                    batch_size=c.generation_batch_size,
                )
                if processes().is_main_process:
                    labels.save_to_disk(str(folder / mode))

        spec = self.common() | settings
        return Stage("weak labels", self.root / "labels", spec, action, tuple(weak))

    def labels(self, mode: str) -> Dataset:
        """The weak-label dataset of one mode, `independent` or `joint`."""
        return load_from_disk(str(self.root / "labels" / mode))

    def _student(self, method: methods.Method, labels: Stage) -> Stage:
        settings = dict(self.config.student_training or {})

        def action(folder: Path) -> None:
            rows = self.labels(method.labels)
            if method.supervisors:
                rows = only_supervisors(rows, method.supervisors)
            student = self._untrained_student()
            training.train_on_weak(student, rows, method, settings, folder, self.seed, self.lora)

        spec = self.common() | {"method": asdict(method), "training": settings, "student": self.student_identity()}
        after = self.on_base(labels)
        folder = self.root / "students" / method.name
        return Stage(f"student, {method.label}", folder, spec, action, after)

    def _preferred(self, students: dict[str, Stage], labels: Stage, weak: list[Stage]) -> dict[str, Stage]:
        """The paper's last stage (§4.3): the Bayesian student, trained on on its own candidates; none without it."""
        if methods.PREFERENCE_FROM not in students or "preference" not in self.config.stages:
            return {}
        c = self.config
        start = students[methods.PREFERENCE_FROM]
        settings = dict(c.preference_training or {})

        def action(folder: Path) -> None:
            student = WeakSupervisor(*self.factory.trained(start.folder), name="student")
            training.train_on_preferences(
                student,
                self._ensemble(weak),
                self._prompts("half_b"),
                settings,
                folder,
                self.seed,
                self.lora,
                num_candidates=c.num_preference_candidates,
                max_new_tokens=c.max_new_tokens,
                batch_size=c.generation_batch_size,
            )

        spec = self.common() | {"training": settings, "candidates": c.num_preference_candidates}
        folder = self.root / "students" / methods.PREFERENCE
        return {methods.PREFERENCE: Stage("student, cDPO", folder, spec, action, (start, labels))}

    def _ensemble(self, weak: list[Stage]) -> WeakEnsemble:
        supervisors = [
            WeakSupervisor(*self.factory.trained(stage.folder), name=name)
            for name, stage in zip(self.config.supervisor_names, weak, strict=True)
        ]
        return WeakEnsemble(supervisors, weights=self.config.weak_weights)

    def _untrained_student(self) -> training.Loaded:
        loaded = self.factory.student(self.base)
        self._check_room(loaded)
        return loaded

    def _check_room(self, loaded: training.Loaded) -> None:
        examples = (*self.splits.half_b, *self.splits.test)
        prompts = {example.id: self.prompt(example.text) for example in examples}
        check_room(*loaded, prompts, self.config.max_new_tokens)

    def _prompts(self, split: str) -> Dataset:
        return Dataset.from_list([{EXAMPLE_ID: row[EXAMPLE_ID], PROMPT: row[PROMPT]} for row in self._rows(split)])

    def _gold(self, name: str, half: str) -> Stage:
        settings = training.gold_settings(self.config.student_training or {})

        def action(folder: Path) -> None:
            student = self._untrained_student()
            training.train_on_gold(student, self._rows(half), settings, folder, self.seed, lora=self.lora)

        spec = self.common() | {"gold": half, "training": settings, "student": self.student_identity()}
        after = self.on_base()
        return Stage(f"student on gold, {half}", self.root / "students" / name, spec, action, after)

    def _evaluate(self, name: str, trained: Stage | None) -> Stage:
        c = self.config

        def action(folder: Path) -> None:
            loaded = self.factory.trained(trained.folder) if trained else self.factory.student(None)
            test = self.splits.test
            prompts = [self.prompt(example.text) for example in test]
            model, size = WeakSupervisor(*loaded, name=name), c.generation_batch_size
            predict(model, test, prompts, folder, c.eval_beams, c.max_new_tokens, size)

        spec = self.common() | {"test": c.num_test, "beams": c.eval_beams, "max_new_tokens": c.max_new_tokens}
        if trained is None:
            spec["model"] = self.student_identity()
        after = (trained,) if trained else ()
        return Stage(f"evaluate {name}", self.root / "predictions" / name, spec, action, after)
