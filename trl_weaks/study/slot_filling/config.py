"""Settings of the slot-filling experiment; presets are YAML files with these names."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).resolve().parent.parent / "presets"
STAGES = ("pretrain", "weak", "label", "student", "ceiling", "preference", "evaluate", "report")


@dataclass
class SlotFillingConfig:
    """Settings of `examples/slot_filling.py`. A preset gives the values; the command line overrides them."""

    preset: str = field(default="tiny", metadata={"help": "tiny (two CPU cores), small (one GPU), or paper."})
    output_dir: str = field(default="runs/slot_filling", metadata={"help": "Folder for everything the run makes."})
    data_dir: str | None = field(
        default=None, metadata={"help": "SLURP folder (train/devel/test.jsonl, slot_types.txt). Default: own grammar."}
    )
    dataset: str = field(
        default="grammar",
        metadata={"help": "grammar (embedded) or slurp; slurp without --data_dir is read from its public repository."},
    )
    pretrain_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of dialogue turns (another ontology) to pre-train a tiny student on."},
    )
    stages: list[str] = field(default_factory=lambda: list(STAGES), metadata={"help": f"Stages to run: {STAGES}."})
    methods: list[str] = field(
        default_factory=lambda: ["headline"], metadata={"help": "headline, all, or names of table rows."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One full run per seed."})
    num_gold: int = field(default=2000, metadata={"help": "Half A: utterances with gold labels for the supervisors."})
    num_weak: int = field(default=2000, metadata={"help": "Half B: utterances that the supervisors label."})
    num_validation: int = field(default=300, metadata={"help": "Gold utterances that choose the supervisors' epoch."})
    num_test: int | None = field(default=None, metadata={"help": "Test utterances; default all."})
    familiar_values: int | None = field(
        default=None,
        metadata={
            "help": "Grammar: values of each open class in both halves; test values are always new. Default all."
        },
    )
    max_examples: int | None = field(default=None, metadata={"help": "Cap on every split, for a quick look."})
    prompt: str = field(default="short", metadata={"help": "short, or paper (Appendix F)."})
    weak_models: list[str] = field(
        default_factory=list, metadata={"help": "Names, ids or paths of the supervisors; tiny:<shape> builds one."}
    )
    student_model: str = field(default="", metadata={"help": "Name, id or path of the student, or tiny:llama."})
    model_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of from_pretrained, e.g. dtype, attn_implementation."}
    )
    tiny_models: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Sizes of the models that tiny:<shape> builds."}
    )
    pretraining: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Pre-training of a tiny student: tasks, sizes, trainer settings."}
    )
    weak_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "SFTConfig settings of the supervisors."}
    )
    weak_learning_rates: list[float] | None = field(
        default=None, metadata={"help": "One learning rate per supervisor, over the one in weak_training."}
    )
    student_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakSupervisionConfig settings of the student and its ceiling."}
    )
    preference_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakPreferenceConfig settings of the preference stage."}
    )
    use_peft: bool = field(default=False, metadata={"help": "Train the student and its ceiling with LoRA."})
    lora: dict[str, Any] | str | None = field(default=None, metadata={"help": "LoraConfig settings."})
    weak_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the supervisors; default equal (ours)."}
    )
    num_candidates: int = field(default=5, metadata={"help": "Beams per supervisor. Authors' code: 5."})
    num_preference_candidates: int = field(default=10, metadata={"help": "Beams of the student. Authors' code: 10."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest completion, tokens. Authors' code: 64."})
    eval_beams: int = field(default=3, metadata={"help": "Beams when a model is evaluated. Authors' code: 3."})

    def __post_init__(self):
        unknown = set(self.stages) - set(STAGES)
        if unknown:
            raise ValueError(f"Unknown stages {sorted(unknown)}; known: {', '.join(STAGES)}.")
        if self.dataset not in ("grammar", "slurp"):
            raise ValueError(f"`dataset` must be grammar or slurp; got {self.dataset!r}.")
        if self.data_dir is not None:
            self.dataset = "slurp"
        if self.prompt not in ("short", "paper"):
            raise ValueError(f"`prompt` must be short or paper; got {self.prompt!r}.")
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
        """Short names of the supervisors, unique, as columns and rows show them."""
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
    path = PRESETS / f"slot_filling_{preset}.yaml"
    if not path.is_file():
        known = sorted(p.stem.removeprefix("slot_filling_") for p in PRESETS.glob("slot_filling_*.yaml"))
        raise ValueError(f"Unknown preset {preset!r}. Known: {', '.join(known)}. Or pass --config with your own YAML.")
    return path
