"""A task's data and scores, tried before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from trl_weaks.study.report.results import ACCURACY, ROW, Measure
from trl_weaks.study.tasks.base import ClassificationTask, CompletionTask, Example, Splits, Task
from trl_weaks.study.tasks.metrics import is_finite_number
from trl_weaks.supervisors.reading.messages import check_prompts, is_messages

TRIED = 8  # examples of each split that are read again with other targets, and
OTHERS = 3  # how many of these; *ours*
SCORED = 100  # gold answers of the test split that are scored before any training; *ours*
BLIND = (
    "The answer must not be in what models read: make it of `text` alone, or of fields of your own in a class derived "
    "from `Example`."
)


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


def check_inputs(task: Task, splits: Splits) -> None:
    """
    Raises:
        ValueError: what a model is to read of an example (`prompt`, or `text` of classes) is empty, neither text nor
            messages, text here and messages there, something else at every call, or depends on the target; names
            task, split and example. The last two are tried on the first rows of each split.
    """
    name = "text" if isinstance(task, ClassificationTask) else "prompt"
    read, targets = getattr(task, name), [one.target for part in splits.parts().values() for one in part[:TRIED]]
    texts, places = [], []
    for split, examples in splits.parts().items():
        for number, example in enumerate(examples):
            where = f"task {task.name!r}, `{split}`, example {number} ({example.id!r})"
            texts.append(read(example))
            places.append(where)
            if number < TRIED:
                _check_blind(f"{where}: its {name}", read, example, texts[-1], targets)
    if name == "prompt":
        check_prompts(texts, places, "its prompt")
    for text, where in zip(texts, places, strict=True):  # a conversation to classify may end with an answer
        if not (isinstance(text, str) and text.strip()) and not (text and is_messages(text)):
            raise ValueError(f"{where}: its {name} is {text!r}; it must be text, or a list of messages.")


def _check_blind(
    what: str, read: Callable[[Example], Any], example: Example, given: Any, targets: Sequence[Any]
) -> None:
    """Of the targets of other examples, the first ones that differ take the place of its own."""
    if read(example) != given:
        raise ValueError(
            f"{what} is another one at the next call; let it depend on the example alone, so that a killed run can go "
            "on."
        )
    own, others = repr(example.target), {repr(target): target for target in targets if target is not None}
    for target in [target for shown, target in others.items() if shown != own][:OTHERS]:
        try:
            same = read(replace(example, target=target)) == given
        except Exception as error:
            raise ValueError(f"{what} cannot be made with another target, {target!r}: {error!r}. {BLIND}") from error
        if not same:
            raise ValueError(f"{what} changes where {target!r} stands in its target's place, {own}. {BLIND}")


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


def measure_of(task: Task, example: Example, *others: Example) -> Measure:
    """The scores of a task as the report wants them, tried on the gold answers of test examples and on an empty one.

    Raises:
        ValueError: the task's metric gives no scores, not always as many, or a value that is no finite number.
    """
    if isinstance(task, ClassificationTask):
        return ACCURACY
    gold = _gold(task, example)
    first = checked_statistics(task, gold, example)
    for other in others:
        checked_statistics(task, _gold(task, other), other, len(first))
    empty = [checked_statistics(task, "", one, len(first)) for one in (example, *others[: TRIED - 1])]
    _check_names(task, gold, example)
    if type(task).total is not CompletionTask.total:
        names = list(task.total(np.asarray(first, dtype=float)))
        scores: dict[str, Any] = {name: partial(_total, task, name) for name in names}
    else:
        names = list(task.score(gold, example))
        scores = {name: partial(_column, number) for number, name in enumerate(names)}
    _check_scores(task, names)
    full = [checked_statistics(task, _gold(task, one), one) for one in (example, *others[: TRIED - 1])]
    _check_total(task, scores, {"gold answers": full, "empty answers": empty})
    best, none = (float(scores[names[0]](np.asarray(part, dtype=float).mean(0))) for part in (full, empty))
    if best < none:
        raise ValueError(
            f"task {task.name!r}: the headline score {names[0]!r} is {best:.4g} for gold answers and {none:.4g} for "
            "empty ones. Higher must be better, else every PGR is upside down: for an error rate give 1 minus it."
        )
    return Measure(getattr(task, "score_title", "") or names[0].replace("_", " "), scores)


def _check_scores(task: CompletionTask, names: Sequence[Any]) -> None:
    """
    Raises:
        ValueError: no score, a name that is no text, or one that the rows of `results.json` have already.
    """
    if not names:
        raise ValueError(f"task {task.name!r}: it has no score; the first one is the headline.")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"task {task.name!r}: the name {name!r} of a score is no text.")
        if name in (*ROW, f"{names[0]}_per_seed", f"{names[0]}_interval"):
            raise ValueError(
                f"task {task.name!r}: a score cannot be called {name!r}, as every row has an entry of that name."
            )


def _check_total(task: CompletionTask, scores: Mapping[str, Any], given: Mapping[str, Sequence[Any]]) -> None:
    """
    Raises:
        ValueError: a score of the whole is no finite number, as where nothing was answered and it divides by 0.
    """
    for what, part in given.items():
        for name, score in scores.items():
            value = score(np.asarray(part, dtype=float).mean(0))
            if not is_finite_number(value):
                raise ValueError(f"task {task.name!r}: `total` gives {name} = {value!r} for {what}, no finite number.")


def _gold(task: CompletionTask, example: Example) -> str:
    gold = task.completion(example)
    if not isinstance(gold, str):
        raise ValueError(f"task {task.name!r}, example {example.id!r}: its completion is {gold!r}; it must be text.")
    return gold


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
    own = type(task).statistics is not CompletionTask.statistics
    try:
        found: Any = task.statistics(completion, example) if own else task.score(completion, example)
    except Exception as error:  # of the user's code
        told = error if isinstance(error, ValueError) else f"`{'statistics' if own else 'score'}` raised {error!r}"
        raise ValueError(f"{where}: {told}") from error
    if not own:
        if not isinstance(found, Mapping):
            raise ValueError(f"{where}: `score` gave {found!r}; it must give a dict of scores by name.")
    values = list(found.values() if isinstance(found, Mapping) else found)
    if length is not None and len(values) != length:
        raise ValueError(f"{where}: {len(values)} scores, where other answers have {length}.")
    for value in values:
        if not is_finite_number(value):
            raise ValueError(f"{where}: the score {value!r} is no finite number.")
    return values
