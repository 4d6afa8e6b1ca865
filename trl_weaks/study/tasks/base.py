"""What a study needs to know of a task: its data, its prompts or texts, and how an answer is scored.

Two kinds: a [`CompletionTask`] asks for text, a [`ClassificationTask`] for one of several classes. A task is one
object in one file; `trl-weaks study --task my_task.py` and [`trl_weaks.study.run_study`] take it as they take those of
`TASKS`; a file of this folder with `@TASKS.register()` in front of a task is found by its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from trl_weaks.metrics.agreement import label_agreement
from trl_weaks.registry import Registry
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.stages import fingerprint

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Example:
    """One example of a task.

    Args:
        id: unique over all splits; results are joined on it.
        text: what the task is about; no text stands in two splits.
        target: the gold answer, of any type that JSON can hold; None where nobody knows it (in `half_b` alone).
    """

    id: str
    text: str
    target: Any = None


@dataclass(frozen=True)
class Splits:
    """Four sets of examples.

    `half_a` is gold for the weak supervisors. Of `half_b` the weak-to-strong methods see the text only; its gold,
    where there is any, is for the ceiling. On `validation` supervisors choose their epoch or are calibrated; it may be
    empty. `test` is the same for every seed, so that systems and seeds are compared example by example.
    """

    half_a: Sequence[Example]
    half_b: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]

    def parts(self) -> dict[str, Sequence[Example]]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def half_b_has_gold(self) -> bool:
        return all(example.target is not None for example in self.half_b)


class Task:
    """What both kinds share; derive from [`CompletionTask`] or [`ClassificationTask`]."""

    name: ClassVar[str] = ""
    kind: ClassVar[str]
    title: str = ""
    config_class: ClassVar[type[StudyConfig] | None] = None  # settings of its own; default those of its kind
    # plans of pre-training for tiny models, see `trl_weaks.study.pipeline.pretrain`
    pretraining_keys: ClassVar[frozenset[str]] = frozenset({"sentences", "training"})
    pretrains_on_pairs: ClassVar[bool] = False  # rows of prompt and completion, in their order; else raw text

    @classmethod
    def from_config(cls, config: Any) -> "Task":
        """The task for a study's settings; a task with settings of its own reads them here."""
        return cls()

    def splits(self, seed: int) -> Splits:
        """The examples; `test` does not depend on the seed.

        A study takes the first `num_gold`, `num_weak`, `num_validation` and `num_test` of them where its settings
        say so, so they should come in random order.
        """
        raise NotImplementedError(f"the task {self.name!r} has no `splits(seed)`.")

    def unlabelled(self, size: int) -> list[str]:
        """Up to `size` texts without labels, none of them a test text, on which a tiny student is pre-trained."""
        raise NotImplementedError

    @property
    def has_unlabelled(self) -> bool:
        return type(self).unlabelled is not Task.unlabelled

    def pretraining_rows(self, plan: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
        """Rows to pre-train a tiny model on (`text`, or `prompt` and `completion`), and a tokenizer's texts."""
        texts = self.unlabelled(plan.get("sentences", 10000))
        return [{"text": text} for text in texts], texts

    def pretraining_identity(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """What the rows of pre-training depend on beside the plan."""
        return {"data": fingerprint(self.unlabelled(plan.get("sentences", 10000)))}

    @property
    def identity(self) -> Any:
        """What training depends on beside the rows of the task; hashed into the keys of all stages."""
        return None

    def description(self) -> str:
        """One sentence on the data, for the report."""
        return f"the task `{self.name}`."

    @property
    def report_title(self) -> str:
        return self.title or f"Weak-to-strong: {self.name}"


class CompletionTask(Task):
    """A task whose answers are text.

    Three methods beside `splits` make one; a score of the whole test set that is no mean over its examples overrides
    `statistics` and `total` as well, so that the paired bootstrap stays exact.

    Example:

    >>> from trl_weaks.study import CompletionTask, Example, Splits
    >>> class Sums(CompletionTask):
    ...     name = "sums"
    ...     def splits(self, seed):
    ...         made = [Example(f"{a}-{b}", f"{a} + {b}", a + b) for a in range(20) for b in range(20)]
    ...         return Splits(made[:150], made[150:300], made[300:320], made[320:])
    ...     def prompt(self, example):
    ...         return f"{example.text} =\\n"
    ...     def completion(self, example):
    ...         return str(example.target)
    ...     def score(self, completion, example):
    ...         return {"exact_match": float(completion.strip() == str(example.target))}
    >>> Sums().score("7", Example("3-4", "3 + 4", 7))
    {'exact_match': 1.0}
    """

    kind = "completions"

    def prompt(self, example: Example) -> Prompt:
        """What a model is asked: text, or a list of messages. Must not depend on `example.target`."""
        raise NotImplementedError(f"the task {self.name!r} has no `prompt(example)`.")

    def completion(self, example: Example) -> str:
        """The gold answer as it is trained on."""
        raise NotImplementedError(f"the task {self.name!r} has no `completion(example)`.")

    def score(self, completion: str, example: Example) -> dict[str, float]:
        """Scores of one answer by name; the first is the headline, and higher is better."""
        raise NotImplementedError(f"the task {self.name!r} has no `score(completion, example)`.")

    def statistics(self, completion: str, example: Example) -> Sequence[float]:
        """What `total` needs of one answer, always as many numbers; here the values of `score`."""
        return list(self.score(completion, example).values())

    def total(self, means: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of a test set from its mean statistics, `(..., C) -> (...)` each, in the order of the report.

        A ratio of sums, such as F1, is the same ratio of means; it needs a value, too, where there is nothing to
        divide by.
        """
        raise NotImplementedError

    def parsed(self, completion: str) -> bool | None:
        """Whether an answer could be read; None, the default, where the task does not say."""
        return None

    def agreement(self, answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """How often supervisors say the same: supervisor -> its answers to the same examples."""
        return label_agreement({name: [text.strip() for text in texts] for name, texts in answers.items()})


class ClassificationTask(Task):
    """A task whose answers are classes.

    Example:

    >>> from trl_weaks.study import ClassificationTask, Example, Splits
    >>> class Parity(ClassificationTask):
    ...     name, classes = "parity", ("even", "odd")
    ...     def splits(self, seed):
    ...         made = [Example(str(n), f"Is {n} odd?", n % 2) for n in range(400)]
    ...         return Splits(made[:150], made[150:300], made[300:320], made[320:])
    >>> Parity().label(Example("3", "Is 3 odd?", 1))
    1
    """

    kind = "classes"
    classes: Sequence[str] = ()

    def text(self, example: Example) -> str:
        """What a classifier reads."""
        return example.text

    def label(self, example: Example) -> int | str:
        """The gold class, by index or name."""
        return example.target

    @property
    def identity(self) -> Any:
        return list(self.classes)


def _check_entry(entry: Any, name: str) -> None:
    kind = entry if isinstance(entry, type) else type(entry)
    if not issubclass(kind, CompletionTask | ClassificationTask):
        raise ValueError(f"the task {name!r} is {entry!r}; give a CompletionTask or a ClassificationTask.")
    if kind.name != name and getattr(entry, "name", "") != name:
        raise ValueError(f"the task {entry.name!r} is registered as {name!r}; a task has one name.")


# Tasks that `--task` takes by name: classes, made from a study's settings, or objects of the user's.
TASKS: Registry[type[Task] | Task] = Registry("task", _check_entry, package="trl_weaks.study.tasks", variable="TASKS")
