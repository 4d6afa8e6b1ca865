"""Settings that every weak-to-strong experiment has; presets are YAML files with these names."""

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

PRESETS = Path(__file__).resolve().parent.parent / "presets"
MAPPING = dict[str, Any] | str | None
PRETRAINING_ROWS = ("sentences", "jumbled_copying", "dialogues")  # counts in a plan of pre-training
SPLITS = ("num_gold", "num_weak", "num_validation", "num_test")


@dataclass
class ExperimentConfig:
    """What the experiments share. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str]  # name of the experiment, as presets and folders begin
    known_stages: ClassVar[tuple[str, ...]]

    preset: str | None = field(default=None, metadata={"help": "Name of a preset."})
    output_dir: str = field(default="runs", metadata={"help": "Folder for everything the run makes."})
    data_dir: str | None = field(default=None, metadata={"help": "SLURP folder. Default: own grammar."})
    dataset: str = field(default="grammar", metadata={"help": "grammar (embedded) or slurp."})
    stages: list[str] = field(default_factory=list, metadata={"help": "Stages to run."})
    methods: list[str] = field(
        default_factory=lambda: ["headline"], metadata={"help": "headline, all, or names of table rows."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One full run per seed."})
    num_gold: int = field(default=0, metadata={"help": "Half A: examples with gold labels for the supervisors."})
    num_weak: int = field(default=0, metadata={"help": "Half B: examples that the supervisors label."})
    num_validation: int = field(default=0, metadata={"help": "Gold examples held out of training."})
    num_test: int | None = field(default=None, metadata={"help": "Test examples; default all."})
    workers: int = field(
        default=1,
        metadata={
            "help": "Most stages that run side by side, each on its share of the cores; one where there is a GPU."
        },
    )
    max_examples: int | None = field(
        default=None, metadata={"help": "Cap on every split and on pre-training, for a quick look."}
    )
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
        default=None, metadata={"help": "Pre-training of a tiny student: tasks, sizes, trainer settings."}
    )
    weak_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Trainer settings of the supervisors."}
    )
    weak_learning_rates: list[float] | None = field(
        default=None, metadata={"help": "One learning rate per supervisor, over the one in weak_training."}
    )
    student_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Trainer settings of the student and its ceiling."}
    )
    use_peft: bool = field(default=False, metadata={"help": "Train the student and its ceiling with LoRA."})
    lora: dict[str, Any] | str | None = field(default=None, metadata={"help": "LoraConfig settings."})
    weak_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the supervisors; default equal (ours)."}
    )

    def __post_init__(self):
        self._read_mappings()
        unknown = set(self.stages) - set(self.known_stages)
        if unknown:
            raise ValueError(f"Unknown stages {sorted(unknown)}; known: {', '.join(self.known_stages)}.")
        if self.data_dir is not None:
            self.dataset = "slurp"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` must be distinct and at least one; got {self.seeds}.")
        if len(set(self.weak_models)) != len(self.weak_models):
            raise ValueError(f"`weak_models` names a supervisor twice: {self.weak_models}.")
        for name in ("weak_weights", "weak_learning_rates"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.weak_models):
                raise ValueError(f"`{name}` has {len(values)} values for {len(self.weak_models)} supervisors.")
        if self.weak_weights is not None and not all(0 < weight < math.inf for weight in self.weak_weights):
            raise ValueError(f"`weak_weights` must be positive and finite; got {self.weak_weights}.")
        if self.max_examples is not None:
            for name in SPLITS:
                value = getattr(self, name)
                setattr(self, name, self.max_examples if value is None else min(value, self.max_examples))

    def capped(self, plan: dict[str, Any]) -> dict[str, Any]:
        """A plan of pre-training that reads at most `max_examples` sentences and dialogues, and makes as many rows."""
        if self.max_examples is None:
            return plan
        most = self.max_examples
        counts = {name: min(plan[name], most) for name in PRETRAINING_ROWS if isinstance(plan.get(name), int)}
        return plan | {"sentences": most} | counts

    def _read_mappings(self) -> None:
        """Settings that are mappings: a command line gives them as JSON."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type != MAPPING or value is None:
                continue
            if isinstance(value, str):
                try:
                    value = json.loads(value)
                except ValueError:
                    pass
                setattr(self, f.name, value)
            if not isinstance(value, dict):
                raise ValueError(f"`{f.name}` must be a mapping (JSON on the command line); got {value!r}.")

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

    @classmethod
    def preset_path(cls, preset: str) -> Path:
        """File of a preset.

        Raises:
            ValueError: no such preset; lists the known ones.
        """
        path = PRESETS / f"{cls.kind}_{preset}.yaml"
        if not path.is_file():
            known = sorted(p.stem.removeprefix(f"{cls.kind}_") for p in PRESETS.glob(f"{cls.kind}_*.yaml"))
            raise ValueError(
                f"Unknown preset {preset!r}. Known: {', '.join(known)}. Or pass --config with your own YAML."
            )
        return path
