"""Settings of a study on tables of one's own: no code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from trl_weaks.commands.sources import refuse_missing, refuse_unknown_dataset
from trl_weaks.study.config import ClassStudyConfig, CompletionStudyConfig

FILE = "jsonl, csv or parquet file, or the id of a dataset on the Hub"


@dataclass
class Tables:
    """Where the rows of a study lie, and what its columns are called."""

    train_file: str = field(default="", metadata={"help": f"Gold rows for the supervisors: {FILE}."})
    unlabelled_file: str = field(
        default="", metadata={"help": "Rows that the supervisors label; with gold there, the ceiling learns from it."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Gold rows held out of training. Default: a tenth of the train file."}
    )
    test_file: str = field(default="", metadata={"help": "Gold rows on which everything is scored."})
    id_column: str = field(default="example_id", metadata={"help": "Column of ids; made where there is none."})

    def check(self) -> None:
        """
        Raises:
            ValueError: a file that is needed is not named, or a dataset that the Hub does not give.
            FileNotFoundError: what is named looks like a file and is not there.
        """
        for name in ("train_file", "unlabelled_file", "test_file"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is not set; name a {FILE}.")
        for name in ("train_file", "unlabelled_file", "validation_file", "test_file"):
            source = getattr(self, name)
            if source and not Path(source).exists():
                dataset = source.partition(":")[0]  # behind the colon is the split of a Hub's
                refuse_missing(f"--{name}", dataset)
                refuse_unknown_dataset(f"--{name}", dataset)


@dataclass
class CompletionTableConfig(CompletionStudyConfig, Tables):
    """Settings of `trl-weaks study --task completions`."""

    kind: ClassVar[str] = "completions"

    prompt_column: str = field(default="prompt", metadata={"help": "Column of prompts: text, or lists of messages."})
    completion_column: str = field(default="completion", metadata={"help": "Column of gold answers."})
    metric: str = field(
        default="exact_match",
        metadata={
            "help": "exact_match, token_f1, rouge, any metric that `evaluate` loads, or module:function or file.py:"
            "function, (completion, target) -> number or {name: number}; the first is the headline. Each answer is "
            "scored by itself, and the scores are averaged."
        },
    )


@dataclass
class ClassTableConfig(ClassStudyConfig, Tables):
    """Settings of `trl-weaks study --task classes`."""

    kind: ClassVar[str] = "classes"

    text_column: str = field(default="text", metadata={"help": "Column of texts."})
    label_column: str = field(default="label", metadata={"help": "Column of classes, by name."})
