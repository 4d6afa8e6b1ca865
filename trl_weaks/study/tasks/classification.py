"""Classification of utterances: the embedded grammar or SLURP; and SciQ, the paper's yes/no task."""

import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trl_weaks.commands.sources import refuse_unknown_dataset
from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.data import grammar, slurp
from trl_weaks.study.data.rows import Utterance, normalise, take
from trl_weaks.study.tasks.base import TASKS, ClassificationTask, Example, Splits

Row = dict[str, Any]  # of SciQ

ENTERTAINMENT = frozenset({"music", "film", "book", "podcast", "game"})
YES_NO = ("no", "yes")
_SUPPLY = 3  # utterances drawn for each one kept: a quarter of them is about entertainment, half of the kept ones


@TASKS.register()
class Classification(ClassificationTask):
    """What an utterance is about, or whether an answer to a science question is right.

    Example:

    >>> config = ClassificationConfig(num_gold=4, num_weak=4, num_validation=2, num_test=4)
    >>> task = Classification(config)
    >>> task.classes, [task.label(example) for example in task.splits(0).test]  # does it ask for entertainment?
    (['no', 'yes'], [0, 1, 1, 0])

    See also: [`ClassTable`] for texts of your own, [`ClassificationTask`] for a task in code, [`SlotFilling`].
    """

    name = "classification"
    config_class = ClassificationConfig
    title = "Weak-to-strong report: classification"

    def __init__(self, config: ClassificationConfig):
        self._config = config
        self._folder = Path(config.data_dir) if config.data_dir else None

    @classmethod
    def from_config(cls, config: ClassificationConfig) -> "Classification":
        return cls(config)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their ids."""
        if self._folder:
            return sorted(set(self._slurp_labels.values()))
        if self._config.task == "intent":
            return grammar.intent_names()
        return list(YES_NO)

    def splits(self, seed: int) -> Splits:
        c = self._config
        if self._folder:
            found = slurp.load_splits(self._folder, c.num_gold, c.num_weak, c.num_validation, c.num_test, seed)
            parts = (found.half_a, found.half_b, found.validation, found.test)
            return Splits(*(tuple(self._slurp_row(e) for e in part) for part in parts))
        if c.dataset == "grammar":
            return self._grammar_splits(seed)
        return sciq_splits(_load_sciq(), c.num_gold, c.num_weak, c.num_validation, c.num_test, seed)

    def unlabelled(self, size: int) -> list[str]:
        if self._folder:
            return slurp.load_unlabelled(self._folder)[:size]
        if self._config.dataset == "grammar":
            return grammar.unlabelled(size)
        raise ValueError("There is no unlabelled text for a tiny student on SciQ; name a pre-trained `student_model`.")

    def description(self) -> str:
        if self._folder:
            return (
                f"SLURP (Bastianelli et al., 2020; text CC BY 4.0): the {self._config.task} of an utterance, "
                f"{len(self.classes)} classes."
            )
        if self._config.dataset == "grammar":
            what = "does it ask for entertainment?" if self._config.task == "entertainment" else "what is it about?"
            return (
                f"the embedded home-assistant grammar: {what} {len(self.classes)} classes; names, places and titles "
                "of the test split never occur in training."
            )
        return "SciQ (Welbl et al., 2017): is the answer to the science question right? Half of the answers are."

    def _grammar_splits(self, seed: int) -> Splits:
        c = self._config
        sizes = (c.num_gold, c.num_weak, c.num_validation)
        supply = 1 if c.task == "intent" else _SUPPLY
        found = grammar.load_splits(*(supply * size + 20 for size in sizes), test=20, seed=seed)
        test_size = c.num_test or 1000
        test = grammar.load_splits(1, 1, 1, supply * test_size + 20, seed=0).test
        parts = zip((found.half_a, found.half_b, found.validation), sizes, strict=True)
        drawn = [self._grammar_rows(part, size, seed) for part, size in parts]
        return Splits(*drawn, self._grammar_rows(test, test_size, 0))

    def _grammar_rows(self, examples: Sequence[Utterance], size: int, seed: int) -> list[Example]:
        if self._config.task == "intent":
            names = self.classes
            return [Example(e.id, e.text, names.index(e.intent)) for e in examples[:size]]
        asked = [e for e in examples if e.intent in ENTERTAINMENT][: size // 2]
        other = [e for e in examples if e.intent not in ENTERTAINMENT][: size - len(asked)]
        rows = [Example(e.id, e.text, label) for label, part in enumerate((other, asked)) for e in part]
        return list(take(random.Random(f"{seed}:balance").sample(rows, len(rows)), size, "entertainment"))

    @cached_property
    def _slurp_labels(self) -> dict[str, str]:
        """Example id -> label, for all three files; an intent is its scenario and its action, as SLURP names them."""
        fields = ("scenario", "action") if self._config.task == "intent" else (self._config.task,)
        found = {}
        for split in ("train", "devel", "test"):
            path = self._folder / f"{split}.jsonl"
            for number, row in slurp.json_lines(path):
                parts = [(name, row.get(name) if isinstance(row, dict) else None) for name in fields]
                for name, label in parts:
                    if not isinstance(label, str) or not label:
                        raise ValueError(f"{path}, line {number}: field '{name}' holds {label!r}, no name.")
                found[row.get("id")] = "_".join(label for _, label in parts)  # the splits check ids
        return found

    def _slurp_row(self, utterance: Utterance) -> Example:
        return Example(utterance.id, utterance.text, self.classes.index(self._slurp_labels[utterance.id]))


def _load_sciq() -> dict[str, Iterable[Row]]:
    refuse_unknown_dataset("dataset 'sciq'", "allenai/sciq")
    from datasets import load_dataset

    return {split: load_dataset("allenai/sciq", split=split) for split in ("train", "validation", "test")}


def sciq_splits(
    rows: dict[str, Iterable[Row]], half_a: int, half_b: int, validation: int, test: int | None, seed: int
) -> Splits:
    """SciQ as a balanced yes/no task (§5.1 of the paper, after Burns et al.): is this the answer to the question?

    Both halves come from SciQ's train split, shuffled by the seed; half of the rows, drawn at random, show the right
    answer, the others one of the three distractors. The paper's sizes are 5,000, 5,000 and the test split's 1,000.

    Raises:
        ValueError: more rows are asked for than there are.
    """
    tested = {normalise(row["question"]) for row in rows["test"]}
    held_out = list(_distinct(rows["validation"], tested))
    train = list(_distinct(rows["train"], tested | {normalise(row["question"]) for row in held_out}))
    random.Random(f"{seed}:sciq").shuffle(train)
    first = take(train, half_a, "half_a")
    return Splits(
        yes_no(first, "a", seed),
        yes_no(take(train[half_a:], half_b, "half_b"), "b", seed),
        yes_no(take(held_out, min(validation, len(held_out)), "validation"), "v", seed),
        yes_no(take(list(rows["test"]), test, "test"), "t", 0),
    )


def _distinct(questions: Iterable[Row], seen: set[str]) -> Iterator[Row]:
    """The questions that are neither in `seen` nor that of an earlier row."""
    known = set(seen)
    for row in questions:
        if (key := normalise(row["question"])) not in known:
            known.add(key)
            yield row


def yes_no(questions: Sequence[Row], prefix: str, seed: int) -> list[Example]:
    """Questions with one answer each, exactly half of them (rounded down) the right one."""
    rng = random.Random(f"{seed}:{prefix}:answers")
    right = set(rng.sample(range(len(questions)), len(questions) // 2))
    found = []
    for number, question in enumerate(questions):
        wrong = rng.choice([question[f"distractor{k}"] for k in (1, 2, 3)])
        answer = question["correct_answer"] if number in right else wrong
        text = f"Q: {question['question']} A: {answer}"
        found.append(Example(f"sciq-{prefix}-{number}", text, int(number in right)))
    return found
