"""What the stages do where the task asks for text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, load_from_disk

from trl_weaks.aggregation import AGGREGATORS
from trl_weaks.aggregation.answers.completions import COMPLETION_AGGREGATORS
from trl_weaks.columns import COMPLETION, EXAMPLE_ID, PROMPT
from trl_weaks.distributed import processes
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.preferences import build_preferences
from trl_weaks.labelling.with_student.trained import TrainedStudent
from trl_weaks.study.code_digest import code_digest
from trl_weaks.study.methods import Method
from trl_weaks.study.paper_methods import PREFERENCE, PREFERENCE_FROM
from trl_weaks.study.pipeline.label_views import check_transformed, only_supervisors, transformed
from trl_weaks.study.pipeline.models import TINY, Loaded, Reader
from trl_weaks.study.pipeline.predictions import predict_completions, write_completions
from trl_weaks.study.pipeline.refined_labels import REFINED, Refinement, refined_folder
from trl_weaks.study.pipeline.room import check_room
from trl_weaks.study.pipeline.seed_run import STUDENT, SeedRun, called
from trl_weaks.study.pipeline.students import completions as training
from trl_weaks.study.pipeline.untaught import joint_answers, with_shots
from trl_weaks.study.preference_methods import PreferenceMethod
from trl_weaks.study.stages import Stage
from trl_weaks.study.tasks.base import Example
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

JOINT_ANSWER, FEW_SHOT = "joint_answer", "few_shot"  # rows without a trained student
EXPORTED = ("independent", "joint")  # by the label stage itself


@dataclass
class CompletionRun(SeedRun):
    """All stages of one seed of a [`CompletionTask`]."""

    peft_task: ClassVar[str] = "CAUSAL_LM"

    def rows(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        found = []
        for example, row in zip(examples, self.unlabelled_rows(examples), strict=True):
            text = self.task.completion(example)
            if not isinstance(text, str):
                raise ValueError(f"task {self.task.name!r}, example {example.id!r}: completion {text!r} is no text.")
            completion = text if isinstance(row[PROMPT], str) else [{"role": "assistant", "content": text}]
            found.append(row | {COMPLETION: completion})
        return found

    def unlabelled_rows(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        return [{EXAMPLE_ID: example.id, PROMPT: self.task.prompt(example)} for example in examples]

    def train_weak(self, number: int, base: Stage | None, folder: Path) -> None:
        _, model, settings = self.supervisor(number)
        rows = self.rows(self.splits.half_a)
        loaded = (
            self.factory.pretrained(str(base.folder)) if base else self.factory.weak(model, self.seed, texts(rows))
        )
        validation = self.rows(self.splits.validation)
        training.train_on_gold(loaded, rows, self.config.training(settings), folder, self.seed, validation=validation)

    def label_spec(self) -> dict[str, Any]:
        c = self.config
        names = ("num_candidates", "max_new_tokens")
        return {name: getattr(c, name) for name in names} | {"weights": c.weak_weights}

    def label(self, weak: Sequence[Stage], folder: Path) -> None:
        ensemble = self._ensemble(weak)
        for mode in EXPORTED:  # the second finds the first one's beams in the folder
            self._export(ensemble, mode, folder, folder / mode)

    def _export(self, ensemble: WeakEnsemble, mode: str, store: Path, folder: Path) -> None:
        c = self.config
        labels = label_completions(
            ensemble,
            Dataset.from_list(self.unlabelled_rows(self.splits.half_b)),
            mode=mode,
            num_candidates=c.num_candidates,
            max_new_tokens=c.max_new_tokens,
            output_dir=store,
            batch_size=c.generation_batch_size,
        )
        if processes().is_main_process:
            labels.save_to_disk(str(folder))

    def label_views(self, labels: Stage, weak: Sequence[Stage]) -> dict[str, Stage]:
        """A stage for each further aggregator that a method names; it finds all scores in the labels' store."""
        found: dict[str, Stage] = {}
        by_labels = {_labels_of(method): method for method in reversed(self.methods)}
        for mode in dict.fromkeys(_labels_of(method) for method in self.methods):
            if mode == REFINED:
                spec = self.common() | self.label_spec() | {"student": self._student_identity()}
                refinement = Refinement(self, spec, by_labels[mode], self._untrained_student, self._ensemble)
                found |= refinement.stages(labels, weak, self._on_base())
            elif mode not in EXPORTED:
                folder = self.root / f"labels-{mode}"

                def action(folder: Path, mode: str = mode) -> None:
                    self._export(self._ensemble(weak), mode, labels.folder, folder / mode)

                spec = self.common() | self.label_spec() | {"mode": mode}
                spec["code"] = code_digest(COMPLETION_AGGREGATORS[mode])
                found[mode] = Stage(f"weak labels, {mode}", folder, spec, action, (labels,))
        return found

    def view_of(self, method: Method) -> str:
        return _labels_of(method)

    def labels(self, mode: str) -> Dataset:
        """The weak-label dataset of one aggregator: `independent`, `joint`, or what a method names; or `refined`."""
        if mode == REFINED:
            return load_from_disk(str(refined_folder(self.root)))
        root = self.labels_folder if mode in EXPORTED else self.root / f"labels-{mode}"
        return load_from_disk(str(root / mode))

    def label_sets(self) -> dict[str, Dataset]:
        return {mode: self.labels(mode) for mode in (*EXPORTED, *map(_labels_of, self.methods))}

    def train_student(self, method: Method, folder: Path, before: Stage | None = None) -> None:
        rows = self.labels(_labels_of(method))
        if method.supervisors:
            rows = only_supervisors(rows, method.supervisors)
        rows = transformed(rows, method, self._trained(before) if before else None)
        settings = self.config.training(self.config.student_training)
        training.train_on_weak(self._untrained_student(), rows, method, settings, folder, self.seed, self.lora)

    def _trained(self, before: Stage) -> TrainedStudent:
        student = WeakSupervisor(*self.factory.trained(before.folder), name=before.folder.name)
        known = Dataset.from_list(self.rows(self.splits.validation))
        return TrainedStudent(student, known, self.config.max_new_tokens)

    def gold_settings(self) -> dict[str, Any]:
        return training.gold_settings(self.config.student_training or {})

    def train_gold(self, half: str, folder: Path) -> None:
        rows, student = self.rows(getattr(self.splits, half)), self._untrained_student()
        settings = self.config.training(self.gold_settings())
        training.train_on_gold(student, rows, settings, folder, self.seed, lora=self.lora)

    def preferred(self, students: Mapping[str, Stage], labels: Stage, weak: Sequence[Stage]) -> dict[str, Stage]:
        """The paper's last stage (§4.3), the Bayesian student, trained on on its own candidates (none without it); and
        the methods of that kind."""
        return self._paper_preferred(students, labels, weak) | {
            method.name: self._preferred(method, students, labels, weak)
            for method in self.methods
            if isinstance(method, PreferenceMethod)
        }

    def _preferred(
        self, method: PreferenceMethod, students: Mapping[str, Stage], labels: Stage, weak: Sequence[Stage]
    ) -> Stage:
        c, start = self.config, students.get(method.start)
        if start is None:
            raise ValueError(
                f"method {method.name!r} starts from {method.start!r}, which is no supervised method here; add it."
            )
        if method.start not in self.pairs:
            spec = self.common() | self.label_spec() | {"candidates": c.num_preference_candidates}
            folder, action = self.root / "pairs" / method.start, partial(self._make_pairs, start, weak)
            self.pairs[method.start] = Stage(f"pairs of {method.start}", folder, spec, action, (start, labels))
        pairs = self.pairs[method.start]
        settings = method.over(c.preference_training or {})
        spec = self.common() | {"training": settings, "method": method.spec()}
        action = partial(self._train_on_pairs, method, start, pairs)
        return Stage(f"student, {method.label}", self.root / "students" / method.name, spec, action, (pairs, start))

    def _make_pairs(self, start: Stage, weak: Sequence[Stage], folder: Path) -> None:
        c = self.config
        build_preferences(
            WeakSupervisor(*self.factory.trained(start.folder), name="student"),
            self._ensemble(weak),
            Dataset.from_list(self.unlabelled_rows(self.splits.half_b)),
            num_candidates=c.num_preference_candidates,
            output_dir=folder,
            max_new_tokens=c.max_new_tokens,
            batch_size=c.generation_batch_size,
        )

    def _train_on_pairs(self, method: PreferenceMethod, start: Stage, pairs: Stage, folder: Path) -> None:
        rows = load_from_disk(str(pairs.folder / "dataset"))
        if method.transform is not None:
            pairs_before, rows = rows, method.transform(rows)
            check_transformed(method.name, pairs_before, rows)
        settings = method.over(self.config.preference_training or {})
        student = WeakSupervisor(*self.factory.trained(start.folder), name="student")
        training.train_on_pairs(student, rows, settings, folder, self.seed, self.lora)

    def _paper_preferred(
        self, students: Mapping[str, Stage], labels: Stage, weak: Sequence[Stage]
    ) -> dict[str, Stage]:
        c = self.config
        if PREFERENCE_FROM not in students or "preference" not in c.stages:
            return {}
        start = students[PREFERENCE_FROM]
        spec = self.common() | {
            "training": dict(c.preference_training or {}),
            "candidates": c.num_preference_candidates,
        }
        action = partial(self._train_preferred, start, weak)
        return {PREFERENCE: Stage("student, cDPO", self.root / "students" / PREFERENCE, spec, action, (start, labels))}

    def _train_preferred(self, start: Stage, weak: Sequence[Stage], folder: Path) -> None:
        c = self.config
        training.train_on_preferences(
            WeakSupervisor(*self.factory.trained(start.folder), name="student"),
            self._ensemble(weak),
            Dataset.from_list(self.unlabelled_rows(self.splits.half_b)),
            c.training(c.preference_training),
            folder,
            self.seed,
            self.lora,
            num_candidates=c.num_preference_candidates,
            max_new_tokens=c.max_new_tokens,
            batch_size=c.generation_batch_size,
        )

    def _untaught(self, weak: Sequence[Stage]) -> dict[str, Stage]:
        """The supervisors' joint answer; and the student before any supervision, without and with examples in its
        prompt. A tiny student that nothing pre-trained says nothing."""
        found, shots = {}, self.config.num_shots
        if len(weak) > 1:
            spec = self.common() | self.label_spec() | {"test": self.config.num_test}
            folder, action = self.root / "predictions" / JOINT_ANSWER, partial(self._predict_jointly, weak)
            found[JOINT_ANSWER] = Stage(f"evaluate {JOINT_ANSWER}", folder, spec, action, tuple(weak))
        if self.base is None and self.config.student_model.startswith(TINY):
            if shots:
                raise ValueError(
                    f"`num_shots={shots}`: a tiny student that nothing pre-trained reads no examples. Leave it out."
                )
            return found
        found["untrained"] = self._evaluate("untrained", self.base)
        if shots > len(self.splits.half_a):
            raise ValueError(f"`num_shots={shots}`: half A has {len(self.splits.half_a)} examples. Ask for fewer.")
        if shots:
            found[FEW_SHOT] = self._evaluate(FEW_SHOT, self.base, {"shots": shots})
        return found

    def _predict_jointly(self, weak: Sequence[Stage], folder: Path) -> None:
        self.answer_jointly(self._ensemble(weak), self.unlabelled_rows(self.splits.test), folder)

    def answer_jointly(self, ensemble: WeakEnsemble, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """The supervisors' joint answer to prompts, written as a student's predictions are."""
        c = self.config
        labels = label_completions(
            ensemble,
            Dataset.from_list(list(rows)),
            mode="joint",
            num_candidates=c.num_candidates,
            max_new_tokens=c.max_new_tokens,
            output_dir=folder / "labels",
            batch_size=c.generation_batch_size,
        )
        write_completions(folder, rows, joint_answers(labels, rows))

    def _shots(self, system: str = FEW_SHOT) -> list[dict[str, Any]]:
        """Gold rows of half A that a system reads before each prompt."""
        return self.rows(self.splits.half_a[: self.config.num_shots]) if system == FEW_SHOT else []

    def predict_spec(self) -> dict[str, Any]:
        return {"beams": self.config.eval_beams, "max_new_tokens": self.config.max_new_tokens}

    def predict(self, name: str, trained: Stage | None, folder: Path) -> None:
        c = self.config
        loaded = self.factory.trained(trained.folder) if trained else self.factory.student(None)
        prompts = self.unlabelled_rows(self.splits.test)
        model = WeakSupervisor(*loaded, name=name)
        size, shots = c.generation_batch_size, self._shots(name)
        predict_completions(model, prompts, folder, c.eval_beams, c.max_new_tokens, size, shots)

    def _ensemble(self, weak: Sequence[Stage]) -> WeakEnsemble:
        supervisors = [
            WeakSupervisor(*self.factory.trained(stage.folder), name=name)
            for name, stage in zip(self.config.supervisor_names, weak, strict=True)
        ]
        return WeakEnsemble(supervisors, weights=self.config.weak_weights)

    def _untrained_student(self) -> Loaded:
        return self.factory.student(self.base, self.seed, self.texts())

    def texts(self) -> list[str]:
        return texts(self.rows(self.splits.half_a))

    def check_room(self, name: str, reader: Reader) -> None:
        parts = self.splits.parts()
        prompts = {split: self.unlabelled_rows(parts[split]) for split in ("half_b", "test")}
        ceiling = name == STUDENT and self.splits.half_b_has_gold
        taught = ("half_a", "validation", *(["half_b"] if ceiling else []))
        gold = {split: self.rows(parts[split]) for split in taught}
        check_room(called(name), reader, prompts, gold, self.config.max_new_tokens)
        if name == STUDENT and self.config.num_shots:
            shots = self._shots()
            longer = [row | {PROMPT: with_shots(row[PROMPT], shots)} for row in prompts["test"]]
            who = f"{called(name)} with `num_shots={len(shots)}`"
            check_room(who, reader, {"test": longer}, {}, self.config.max_new_tokens)


def _labels_of(method: Method) -> str:
    name = method.aggregator or method.labels
    if method.aggregator and method.labels not in ("independent", method.aggregator):
        raise ValueError(
            f"method {method.name!r}: `labels={method.labels!r}` and `aggregator={method.aggregator!r}` decide the "
            "same of completions; remove one."
        )
    if name == REFINED and method.supervisors:
        raise ValueError(f"method {method.name!r}: `labels={REFINED!r}` are judged by all supervisors; name none.")
    if name not in (*COMPLETION_AGGREGATORS, REFINED):
        known = ", ".join([*COMPLETION_AGGREGATORS, REFINED])
        if name in AGGREGATORS:
            raise ValueError(
                f"method {method.name!r}: {name!r} weighs several votes on one question, and each supervisor's "
                f"completion is an answer of its own. It is for classes; of completions there is {known}."
            )
        raise ValueError(f"method {method.name!r}: {name!r} is no completion aggregator; known: {known}.")
    return name


def texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a tiny model's tokenizer learns from."""

    def plain(value: Any) -> str:
        return value if isinstance(value, str) else "".join(message["content"] for message in value)

    return [plain(row[PROMPT]) + plain(row[COMPLETION]) for row in rows]
