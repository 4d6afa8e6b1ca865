"""Settings of the slot-filling experiment."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl_weaks.study.pipeline.config import ExperimentConfig

STAGES = ("pretrain", "weak", "label", "student", "ceiling", "preference", "evaluate", "report")


@dataclass
class SlotFillingConfig(ExperimentConfig):
    """Settings of `examples/slot_filling.py`. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str] = "slot_filling"
    known_stages: ClassVar[tuple[str, ...]] = STAGES

    preset: str | None = field(
        default=None,
        metadata={
            "help": "tiny (two CPU cores), slurp (--data_dir), small (one GPU), or paper; instead of --config. "
            "Default: tiny."
        },
    )
    output_dir: str = field(default="runs/slot_filling", metadata={"help": "Folder for everything the run makes."})
    data_dir: str | None = field(
        default=None, metadata={"help": "SLURP folder (train/devel/test.jsonl, slot_types.txt). Default: own grammar."}
    )
    dataset: str = field(
        default="grammar",
        metadata={"help": "grammar (embedded) or slurp; slurp without --data_dir is read from its public repository."},
    )
    pretrain: bool = field(
        default=False,
        metadata={"help": "Pre-train tiny models anew, instead of taking those that come with the package."},
    )
    pretrain_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of dialogue turns (another ontology) to pre-train a tiny student on."},
    )
    stages: list[str] = field(default_factory=lambda: list(STAGES), metadata={"help": f"Stages to run: {STAGES}."})
    num_gold: int = field(default=2000, metadata={"help": "Half A: utterances with gold labels for the supervisors."})
    num_weak: int = field(default=2000, metadata={"help": "Half B: utterances that the supervisors label."})
    num_validation: int = field(default=300, metadata={"help": "Gold utterances that choose the supervisors' epoch."})
    prompt: str = field(default="short", metadata={"help": "short, or paper (Appendix F)."})
    weak_pretraining: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Pre-training of tiny supervisors; what it leaves out is as in pretraining."}
    )
    weak_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "SFTConfig settings of the supervisors."}
    )
    student_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakSupervisionConfig settings of the student and its ceiling."}
    )
    preference_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakPreferenceConfig settings of the preference stage."}
    )
    num_candidates: int = field(default=5, metadata={"help": "Beams per supervisor. Authors' code: 5."})
    num_preference_candidates: int = field(default=10, metadata={"help": "Beams of the student. Authors' code: 10."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest completion, tokens. Authors' code: 64."})
    eval_beams: int = field(default=3, metadata={"help": "Beams when a model is evaluated. Authors' code: 3."})
    generation_batch_size: int = field(
        default=16,
        metadata={
            "help": "Prompts answered together, where memory allows; results differ by rounding alone. Ours: 16."
        },
    )

    def __post_init__(self):
        if self.dataset not in ("grammar", "slurp"):
            raise ValueError(f"`dataset` must be grammar or slurp; got {self.dataset!r}.")
        if self.prompt not in ("short", "paper"):
            raise ValueError(f"`prompt` must be short or paper; got {self.prompt!r}.")
        least = dict.fromkeys(("num_candidates", "max_new_tokens", "eval_beams", "generation_batch_size"), 1)
        least["num_preference_candidates"] = 2
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"`{name}` must be at least {smallest}; got {getattr(self, name)}.")
        super().__post_init__()
