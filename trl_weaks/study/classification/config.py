"""Settings of the classification experiment; presets are YAML files with these names."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).resolve().parent.parent / "presets"
STAGES = ("pretrain", "weak", "label", "student", "ceiling", "evaluate", "report")
TASKS = {"grammar": ("entertainment", "intent"), "slurp": ("scenario", "action"), "allenai/sciq": ("correct",)}


@dataclass
class ClassificationConfig:
    """Settings of `examples/classification.py`. A preset gives the values; the command line overrides them."""

    preset: str = field(default="tiny", metadata={"help": "tiny (two CPU cores) or paper."})
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
    methods: list[str] = field(
        default_factory=lambda: ["headline"], metadata={"help": "headline, all, or names of table rows."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One full run per seed."})
    num_gold: int = field(
        default=5000, metadata={"help": "Half A: texts with gold labels for the supervisors. Paper: 5000."}
    )
    num_weak: int = field(default=5000, metadata={"help": "Half B: texts that the supervisors label. Paper: 5000."})
    num_validation: int = field(default=500, metadata={"help": "Gold texts on which the supervisors are calibrated."})
    num_test: int | None = field(default=None, metadata={"help": "Test texts; default all (grammar: 1000)."})
    max_examples: int | None = field(default=None, metadata={"help": "Cap on every split, for a quick look."})
    weak_models: list[str] = field(
        default_factory=list, metadata={"help": "Names, ids or paths of the supervisors; tiny:<shape> builds one."}
    )
    student_model: str = field(
        default="", metadata={"help": "Name, id or path of the student; tiny:llama builds one."}
    )
    model_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of from_pretrained, e.g. dtype, attn_implementation."}
    )
    tiny_models: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Sizes of the models that tiny:<shape> builds."}
    )
    pretraining: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Pre-training of a tiny student on unlabelled text: sizes, trainer settings."}
    )
    weak_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakClassificationConfig settings of the supervisors."}
    )
    weak_learning_rates: list[float] | None = field(
        default=None, metadata={"help": "One learning rate per supervisor, over the one in weak_training."}
    )
    student_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakClassificationConfig settings of the student and its ceiling."}
    )
    use_peft: bool = field(default=False, metadata={"help": "Train the student and its ceiling with LoRA."})
    lora: dict[str, Any] | str | None = field(default=None, metadata={"help": "LoraConfig settings."})
    weak_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the supervisors; default equal (ours)."}
    )
    calibrate: bool = field(
        default=False, metadata={"help": "Fit each supervisor's temperature on the validation split before labelling."}
    )

    def __post_init__(self):
        unknown = set(self.stages) - set(STAGES)
        if unknown:
            raise ValueError(f"Unknown stages {sorted(unknown)}; known: {', '.join(STAGES)}.")
        if self.data_dir is not None:
            self.dataset = "slurp"
        if self.dataset not in TASKS:
            raise ValueError(f"`dataset` must be one of {', '.join(TASKS)}; got {self.dataset!r}.")
        if self.dataset == "slurp" and self.data_dir is None:
            raise ValueError(
                "`dataset=slurp` needs `--data_dir`, the folder with train.jsonl, devel.jsonl, test.jsonl."
            )
        self.task = self.task or TASKS[self.dataset][0]
        if self.task not in TASKS[self.dataset]:
            raise ValueError(f"`task` must be one of {', '.join(TASKS[self.dataset])}; got {self.task!r}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` must be distinct and at least one; got {self.seeds}.")
        if len(set(self.weak_models)) != len(self.weak_models):
            raise ValueError(f"`weak_models` names a supervisor twice: {self.weak_models}.")
        for name in ("weak_weights", "weak_learning_rates"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.weak_models):
                raise ValueError(f"`{name}` has {len(values)} values for {len(self.weak_models)} supervisors.")
        if self.max_examples is not None:
            for name in ("num_gold", "num_weak", "num_validation", "num_test"):
                value = getattr(self, name)
                setattr(self, name, self.max_examples if value is None else min(value, self.max_examples))

    @property
    def supervisor_names(self) -> list[str]:
        """Short names of the supervisors, unique, as rows show them."""
        names = [model.split(":")[-1].rstrip("/").split("/")[-1].lower() for model in self.weak_models]
        if len(set(names)) == len(names):
            return names
        return [f"{name}_{number}" for number, name in enumerate(names, 1)]

    def snapshot(self) -> dict[str, Any]:
        """All settings as plain values, for the report."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def preset_path(preset: str) -> Path:
    """File of a preset.

    Raises:
        ValueError: no such preset; lists the known ones.
    """
    path = PRESETS / f"classification_{preset}.yaml"
    if not path.is_file():
        known = sorted(p.stem.removeprefix("classification_") for p in PRESETS.glob("classification_*.yaml"))
        raise ValueError(f"Unknown preset {preset!r}. Known: {', '.join(known)}. Or pass --config with your own YAML.")
    return path
