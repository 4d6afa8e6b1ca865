"""Tasks made of tables: rows of one's own and a metric by name."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trl_weaks.commands.sources import first_line
from trl_weaks.study.table_config import ClassTableConfig, CompletionTableConfig
from trl_weaks.study.tasks.base import TASKS, ClassificationTask, CompletionTask, Example, Splits
from trl_weaks.supervisors.class_names import is_whole, without_point
from trl_weaks.supervisors.reading.messages import is_messages

Row = dict[str, Any]
PARTS = {"half_a": "train_file", "half_b": "unlabelled_file", "validation": "validation_file", "test": "test_file"}
VALIDATION = 0.1  # of the train file, where there is no file of its own; ours


class _Tables:
    """Reads the files of a study into examples; a column of gold may be missing in the unlabelled file alone."""

    def __init__(self, config: Any):
        config.check()
        self._config = config
        self._kinds: list[dict[str, str]] = []  # of each file: how a whole number of gold is written -> where first

    @classmethod
    def from_config(cls, config: Any):
        return cls(config)

    @cached_property
    def _parts(self) -> dict[str, list[Example]]:
        found = {name: self._examples(name) for name in PARTS if getattr(self._config, PARTS[name])}
        found = self._with_one_kind(found)
        if "validation" not in found:
            size = max(1, round(VALIDATION * len(found["half_a"])))
            mixed = random.Random("validation").sample(found["half_a"], len(found["half_a"]))
            found["validation"], found["half_a"] = mixed[:size], mixed[size:]
        return found

    def splits(self, seed: int) -> Splits:
        """The files as they are; the order of the first three depends on the seed."""
        parts = {
            name: tuple(rows) if name == "test" else tuple(random.Random(f"{seed}:{name}").sample(rows, len(rows)))
            for name, rows in self._parts.items()
        }
        return Splits(**parts)

    def _examples(self, part: str) -> list[Example]:
        from trl_weaks.labelling.sources.tables import as_id  # loads `datasets`

        source, text_column, gold_column = getattr(self._config, PARTS[part]), *self._columns()
        rows = _rows(source, PARTS[part])
        found, golds, id_column = [], {}, self._config.id_column
        for number, row in enumerate(rows):
            where = f"--{PARTS[part]} {source}, row {number}"
            given = row.get(id_column)
            if given is None and id_column != type(self._config).id_column:
                raise ValueError(
                    f"{where}: column {id_column!r} (--id_column) is empty or missing; it has {', '.join(row)}."
                )
            example_id = f"{part}-{number}" if given is None else as_id(given, where, number, id_column)
            if row.get(text_column) in (None, "", []):
                raise ValueError(
                    f"{where}: column {text_column!r} is empty or missing; the row has {', '.join(row)}. Choose it "
                    f"with {self._option}."
                )
            gold = row.get(gold_column)
            if gold is None and part != "half_b":
                raise ValueError(
                    f"{where}: column {gold_column!r} is empty or missing; the row has {', '.join(row)}. Choose it "
                    f"with {self._gold_option}."
                )
            golds[f"{where}: column {gold_column!r}"] = gold
            text = _text(row[text_column], f"{where}: column {text_column!r}", self.kind)
            found.append(Example(example_id, text, _gold(gold, f"{where}: column {gold_column!r}", self.kind)))
        self._kinds.append(_kinds_of(golds, whole_files=self.kind == "completions"))
        return found

    def _with_one_kind(self, parts: dict[str, list[Example]]) -> dict[str, list[Example]]:
        """The examples, if all files write whole numbers in one way.

        Raises:
            ValueError: a whole number is written as one here and as 7.0 there, as tables with gaps turn it: as text
                these are two answers.
        """
        _refuse_two_kinds(self._kinds)
        return parts

    def description(self) -> str:
        c = self._config
        return f"{Path(c.train_file).name}, {Path(c.unlabelled_file).name}, {Path(c.test_file).name}."


@TASKS.register()
class CompletionTable(_Tables, CompletionTask):
    """Prompts and answers from files, scored with a metric by name.

    Example:

    >>> import json, tempfile
    >>> rows = [{"prompt": "1 + 2 =", "completion": 3}, {"prompt": "3 + 4 =", "completion": 7}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "rows.jsonl")
    ...     _ = file.write_text("\\n".join(map(json.dumps, rows)))
    ...     config = CompletionTableConfig(train_file=str(file), unlabelled_file=str(file), test_file=str(file))
    ...     task = CompletionTable(config)
    ...     test = task.splits(0).test
    >>> test[1].target, task.score(" 7", test[1])
    ('7', {'exact_match': 1.0})

    See also: [`CompletionTask`] for a task in code, [`ClassTable`] for classes, [`exact_match`] and [`token_f1`].
    """

    name = "completions"
    config_class = CompletionTableConfig
    title = "Weak-to-strong report"
    _option, _gold_option = "--prompt_column", "--completion_column"

    def __init__(self, config: CompletionTableConfig):
        from trl_weaks.study.tasks.metrics import metric_by_name  # reads modules of the user's: no need for a name

        super().__init__(config)
        self._metric = metric_by_name(config.metric)

    def _columns(self) -> tuple[str, str]:
        return self._config.prompt_column, self._config.completion_column

    def prompt(self, example: Example) -> Any:
        return example.text.messages if isinstance(example.text, _Messages) else example.text

    def completion(self, example: Example) -> str:
        gold = example.target
        return gold if isinstance(gold, str) else "".join(message["content"] for message in gold)

    def score(self, completion: str, example: Example) -> dict[str, float]:
        return self._metric(completion, self.completion(example))


class _Messages(str):
    """A list of messages as the text of an example: what is said in it."""

    messages: Sequence[Mapping[str, Any]]

    def __new__(cls, messages: Sequence[Mapping[str, Any]]):
        made = super().__new__(cls, "\n".join(str(message["content"]) for message in messages))
        made.messages = messages
        return made


@TASKS.register()
class ClassTable(_Tables, ClassificationTask):
    """Texts and classes from files; the classes are the sorted names of the train file.

    Example:

    >>> import json, tempfile
    >>> rows = [{"text": "well made", "label": "good"}, {"text": "broken", "label": "bad"}] * 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "rows.jsonl")
    ...     _ = file.write_text("\\n".join(map(json.dumps, rows)))
    ...     config = ClassTableConfig(train_file=str(file), unlabelled_file=str(file), test_file=str(file))
    ...     task = ClassTable(config)
    ...     test = task.splits(0).test
    >>> task.classes, task.label(test[0])
    (['bad', 'good'], 'good')

    See also: [`ClassificationTask`] for a task in code, [`CompletionTable`] for answers that are text.
    """

    name = "classes"
    config_class = ClassTableConfig
    title = "Weak-to-strong report: classification"
    _option, _gold_option = "--text_column", "--label_column"

    def __init__(self, config: ClassTableConfig):
        super().__init__(config)

    def _columns(self) -> tuple[str, str]:
        return self._config.text_column, self._config.label_column

    def _with_one_kind(self, parts: dict[str, list[Example]]) -> dict[str, list[Example]]:
        """Where every class is a whole number, a file that writes them like 7.0, as one with gaps does, means 7."""
        given = [example.target for rows in parts.values() for example in rows if example.target is not None]
        if not all(is_whole(without_point(name)) for name in given):
            return super()._with_one_kind(parts)
        for kinds in self._kinds:
            _refuse_two_kinds([kinds])
        return {
            part: [replace(e, target=None if e.target is None else without_point(e.target)) for e in rows]
            for part, rows in parts.items()
        }

    @cached_property
    def classes(self) -> list[str]:
        parts = ["half_a"] if self._config.validation_file else ["half_a", "validation"]
        found = sorted({example.target for part in parts for example in self._parts[part]})
        alike: dict[str, str] = {}
        for name in found:
            if alike.setdefault(name.strip(), name) != name:
                raise ValueError(
                    f"the classes {alike[name.strip()]!r} and {name!r} differ in white space alone: name one."
                )
        return found


def _text(value: Any, where: str, kind: str) -> str:
    """What a model reads: text, or for completions messages.

    Raises:
        ValueError: neither; names row and column.
    """
    if isinstance(value, str):
        return value
    if kind == "completions" and is_messages(value):
        return _Messages(value)
    raise ValueError(f"{where} holds {value!r}; it must be text{', or a list of messages' * (kind == 'completions')}.")


def _gold(value: Any, where: str, kind: str) -> Any:
    """A gold answer as text; messages stay.

    Raises:
        ValueError: neither text, a number, nor, of completions, messages; names row and column.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):  # as it is written: 7, 0.5, True
        return str(value)
    messages = (
        isinstance(value, list) and value and all(isinstance(one, Mapping) and "content" in one for one in value)
    )
    if messages and kind == "completions":
        return value
    raise ValueError(
        f"{where} holds {value!r}; a gold answer is text, a number{', or messages' * (kind == 'completions')}."
    )


def _kinds_of(golds: Mapping[str, Any], whole_files: bool) -> dict[str, str]:
    """How whole numbers are written among the gold of a file, like 7 or like 7.0, and where first.

    Args:
        golds: by where they stand.
        whole_files: whether text counts only where all text of the file is of one kind: an answer may well be "7.0".
    """
    found: dict[str, str] = {}
    texts = {_kind(gold) for gold in golds.values() if isinstance(gold, str)}
    for where, gold in golds.items():
        if not isinstance(gold, str) or not whole_files or len(texts) == 1:
            found.setdefault(_kind(gold), where)
    return {kind: where for kind, where in found.items() if kind}


def _kind(gold: Any) -> str:
    """How a whole number is written, as 7 or as 7.0; nothing for what is none."""
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return ""
    text = str(gold)
    return "7.0" if without_point(text) != text else "7" if is_whole(text) else ""


def _refuse_two_kinds(kinds: Iterable[Mapping[str, str]]) -> None:
    together: dict[str, str] = {}
    for found in kinds:
        together = dict(found) | together
    if len(together) > 1:
        raise ValueError(
            f"{together['7.0']}: gold is written like 7.0, and like 7 in {together['7']}. As text, these are two "
            "answers: write one kind everywhere, best as text."
        )


def _rows(source: str, option: str) -> list[Row]:
    """The rows of a file, or of a dataset on the Hub (its split `train`, or the one after a colon).

    Raises:
        FileNotFoundError: it looks like a file and is not there.
    """
    from trl_weaks.labelling.sources.tables import read_table

    path = Path(source)
    if path.suffix in (".csv", ".jsonl", ".ndjson", ".parquet", ".json") or path.exists() or source.startswith("."):
        return read_table(path, f"--{option} {source}", [])
    from datasets import load_dataset

    name, _, split = source.partition(":")
    try:
        return read_table(load_dataset(name, split=split or "train"), f"--{option} {source}", [])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--{option} {source}: no such file, and no dataset of the Hub that can be reached from here. "
            f"{first_line(error)}"
        ) from error
