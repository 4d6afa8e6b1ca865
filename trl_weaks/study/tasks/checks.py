"""A task's data and scores, tried before anything is trained."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trl_weaks.study.report.results import ACCURACY, Measure
from trl_weaks.study.tasks.base import ClassificationTask, CompletionTask, Example, Splits, Task
from trl_weaks.study.tasks.metrics import is_finite_number


def check_splits(task: Task, splits: Any) -> Splits:
    """The splits, if a study can use them.

    Raises:
        ValueError: not [`Splits`] of [`Example`]s, an empty split (validation may be), an id that repeats, a text
            that stands in two splits, or a gold answer that is missing; names task, split and example.
    """
    if not isinstance(splits, Splits):
        raise ValueError(f"task {task.name!r}: `splits` gave a {type(splits).__name__}; it must give `Splits`.")
    ids: dict[str, str] = {}
    texts: dict[str, tuple[str, str]] = {}
    try:  # a generator would be used up by these checks
        splits = Splits(**{split: tuple(examples) for split, examples in splits.parts().items()})
    except TypeError as error:
        raise ValueError(f"task {task.name!r}: a split is no list of `Example`s ({error}).") from error
    for split, examples in splits.parts().items():
        if not examples and split != "validation":
            raise ValueError(f"task {task.name!r}: `{split}` is empty.")
        for number, example in enumerate(examples):
            where = f"task {task.name!r}, `{split}`, example {number}"
            _check_example(example, where, split)
            if example.id in ids:
                raise ValueError(f"{where}: the id {example.id!r} is in `{ids[example.id]}` already; ids must differ.")
            ids[example.id] = split
            other, other_id = texts.setdefault(" ".join(example.text.casefold().split()), (split, example.id))
            if other != split:
                raise ValueError(
                    f"{where} ({example.id!r}): its text stands in `{other}` too (example {other_id!r}); "
                    "models would be tested on what they were trained on. Keep one of them."
                )
    return splits


def _check_example(example: Any, where: str, split: str) -> None:
    if not isinstance(example, Example):
        raise ValueError(f"{where} is a {type(example).__name__}; it must be an `Example`.")
    if not isinstance(example.id, str) or not example.id:
        raise ValueError(f"{where}: the id {example.id!r} must be text.")
    if not isinstance(example.text, str) or not example.text.strip():
        raise ValueError(f"{where} ({example.id!r}): the text {example.text!r} must not be empty.")
    if example.target is None and split != "half_b":
        raise ValueError(f"{where} ({example.id!r}): there is no target; only `half_b` may be without.")


def label_index(task: ClassificationTask, example: Example) -> int:
    """The index of an example's class.

    Raises:
        ValueError: a name or index that is not among the task's classes; names the example.
    """
    label = task.label(example)
    if isinstance(label, str) and label in task.classes:
        return list(task.classes).index(label)
    if not isinstance(label, str | bool) and label in range(len(task.classes)):
        return int(label)
    raise ValueError(
        f"task {task.name!r}, example {example.id!r}: the label {label!r} is none of the classes {list(task.classes)} "
        f"and no index below {len(task.classes)}."
    )


def measure_of(task: Task, example: Example) -> Measure:
    """The scores of a task as the report wants them, tried on the gold answer of a test example and on an empty one.

    Raises:
        ValueError: the task's metric gives no scores, not always as many, or a value that is no finite number.
    """
    if isinstance(task, ClassificationTask):
        return ACCURACY
    gold = task.completion(example)
    if not isinstance(gold, str):
        raise ValueError(f"task {task.name!r}, example {example.id!r}: its completion is {gold!r}; it must be text.")
    first = checked_statistics(task, gold, example)
    checked_statistics(task, "", example, len(first))
    _check_names(task, gold, example)
    if type(task).total is not CompletionTask.total:
        names = list(task.total(np.asarray(first, dtype=float)))
        scores: dict[str, Any] = {name: partial(_total, task, name) for name in names}
    else:
        names = list(task.score(gold, example))
        scores = {name: partial(_column, number) for number, name in enumerate(names)}
    if not names:
        raise ValueError(f"task {task.name!r}: it has no score; the first one is the headline.")
    return Measure(getattr(task, "score_title", "") or names[0].replace("_", " "), scores)


def _check_names(task: CompletionTask, gold: str, example: Example) -> None:
    """
    Raises:
        ValueError: `score` gives the gold answer and an empty one other names, or in another order: its values are
            told apart by their place.
    """
    if type(task).statistics is CompletionTask.statistics:
        first, second = (list(task.score(text, example)) for text in (gold, ""))
        if first != second:
            raise ValueError(
                f"task {task.name!r}, example {example.id!r}: `score` gives {first} for the gold answer and {second} "
                "for an empty one; give every answer the same scores in the same order."
            )


def _total(task: CompletionTask, name: str, means: np.ndarray) -> np.ndarray:
    return np.asarray(task.total(means)[name])


def _column(number: int, means: np.ndarray) -> np.ndarray:
    return means[..., number]


def checked_statistics(
    task: CompletionTask, completion: str, example: Example, length: int | None = None
) -> Sequence[float]:
    """
    Raises:
        ValueError: values that are no finite numbers, or another number of them; names task and example.
    """
    where = f"task {task.name!r}, example {example.id!r}, the answer {completion[:60]!r}"
    if type(task).statistics is CompletionTask.statistics:
        found: Any = task.score(completion, example)
        if not isinstance(found, Mapping):
            raise ValueError(f"{where}: `score` gave {found!r}; it must give a dict of scores by name.")
    else:
        found = task.statistics(completion, example)
    values = list(found.values() if isinstance(found, Mapping) else found)
    if length is not None and len(values) != length:
        raise ValueError(f"{where}: {len(values)} scores, where other answers have {length}.")
    for value in values:
        if not is_finite_number(value):
            raise ValueError(f"{where}: the score {value!r} is no finite number.")
    return values
