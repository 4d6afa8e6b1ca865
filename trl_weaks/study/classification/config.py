"""Settings of the classification experiment."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl_weaks.study.pipeline.config import ExperimentConfig

STAGES = ("pretrain", "weak", "label", "student", "ceiling", "evaluate", "report")
TASKS = {"grammar": ("entertainment", "intent"), "slurp": ("scenario", "action"), "allenai/sciq": ("correct",)}


@dataclass
class ClassificationConfig(ExperimentConfig):
    """Settings of `examples/classification.py`. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str] = "classification"
    known_stages: ClassVar[tuple[str, ...]] = STAGES

    preset: str | None = field(
        default=None,
        metadata={"help": "tiny (two CPU cores), slurp (--data_dir), or paper; instead of --config. Default: tiny."},
    )
    output_dir: str = field(default="runs/classification", metadata={"help": "Folder for everything the run makes."})
    data_dir: str | None = field(
        default=None, metadata={"help": "SLURP folder (train/devel/test.jsonl). Default: own grammar."}
    )
    dataset: str = field(default="grammar", metadata={"help": "grammar (embedded), slurp, or allenai/sciq (online)."})
    task: str | None = field(
        default=None,
        metadata={
            "help": "What to tell. grammar: entertainment (yes or no) or intent (20 classes); slurp: scenario or "
            "action; allenai/sciq: correct (yes or no). Default: the first."
        },
    )
    stages: list[str] = field(default_factory=lambda: list(STAGES), metadata={"help": f"Stages to run: {STAGES}."})
    num_gold: int = field(
        default=5000, metadata={"help": "Half A: texts with gold labels for the supervisors. Paper: 5000."}
    )
    num_weak: int = field(default=5000, metadata={"help": "Half B: texts that the supervisors label. Paper: 5000."})
    num_validation: int = field(default=500, metadata={"help": "Gold texts on which the supervisors are calibrated."})
    num_test: int | None = field(default=None, metadata={"help": "Test texts; default all (grammar: 1000)."})
    pretraining: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Pre-training of a tiny student on unlabelled text: sizes, trainer settings."}
    )
    weak_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakClassificationConfig settings of the supervisors."}
    )
    student_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakClassificationConfig settings of the student and its ceiling."}
    )
    calibrate: bool = field(
        default=False, metadata={"help": "Fit each supervisor's temperature on the validation split before labelling."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dataset not in TASKS:
            raise ValueError(f"`dataset` must be one of {', '.join(TASKS)}; got {self.dataset!r}.")
        if self.dataset == "slurp" and self.data_dir is None:
            raise ValueError(
                "`dataset=slurp` needs `--data_dir`, the folder with train.jsonl, devel.jsonl, test.jsonl."
            )
        self.task = self.task or TASKS[self.dataset][0]
        if self.task not in TASKS[self.dataset]:
            raise ValueError(f"`task` must be one of {', '.join(TASKS[self.dataset])}; got {self.task!r}.")
