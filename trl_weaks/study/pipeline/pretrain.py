"""Pre-training of tiny models; the student gets more of it than its supervisors. It never sees a label of the task."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trl_weaks._version import __version__
from trl_weaks.distributed import processes
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.models import shipped as shipped_models
from trl_weaks.study.pipeline.models import TINY, ModelFactory, Reader
from trl_weaks.study.pipeline.seed_run import STUDENT
from trl_weaks.study.pipeline.students.completions import train_on_gold
from trl_weaks.study.pipeline.students.training import train, trainer_settings
from trl_weaks.study.stages import Stage
from trl_weaks.study.tasks.base import Task

Check = Callable[[str, Reader], None]
SEED = 0  # one base for all seeds of the study, as with a public checkpoint
OF_TASKS = frozenset({"reading", "jumbled_copying", "copying", "mixed_reading", "dialogues"})


def base_stages(
    config: StudyConfig, task: Task, factory: ModelFactory, check: Check = lambda name, reader: None
) -> dict[str, Stage]:
    """The stages that build and pre-train tiny models, by supervisor, and `student`; a model that has none starts at
    random, or is one that somebody else pre-trained.

    Args:
        check: called with the model's name among these stages before it is trained, once it has a tokenizer.

    Raises:
        ValueError: unknown settings in `pretraining`, or a plan for a task without unlabelled text, or an adapter on
            a student that nobody trained.
    """
    plans: dict[str, tuple[str, dict[str, Any]]] = {}
    if not task.has_unlabelled:
        if config.pretraining or config.weak_pretraining:
            raise ValueError(f"`pretraining`: the task {task.name!r} has no unlabelled text; leave the setting out.")
        if config.use_peft and config.student_model.startswith(TINY):
            raise ValueError(
                "`use_peft`: an adapter on random weights cannot be loaded again; name a trained student."
            )
        return {}
    if config.student_model.startswith(TINY):
        plans[STUDENT] = (config.student_model, dict(config.pretraining or {}))
    if config.weak_pretraining:
        for name, model in zip(config.supervisor_names, config.weak_models, strict=True):
            if model.startswith(TINY):
                plans[name] = (model, weak_plan(config, task))
    return {name: _base(config, task, factory, model, name, plan, check) for name, (model, plan) in plans.items()}


def weak_plan(config: StudyConfig, task: Task) -> dict[str, Any]:
    """The supervisors' plan: what it leaves out is as in the student's, apart from the tasks."""
    shared = {k: v for k, v in (config.pretraining or {}).items() if k not in OF_TASKS}
    none = {"dialogues": 0} if "dialogues" in task.pretraining_keys else {}  # which else would be all there are
    return shared | none | (config.weak_pretraining or {})


def pretraining_settings(plan: Mapping[str, Any], in_order: bool) -> dict[str, Any]:
    """The trainer's settings of a plan; a task that orders its rows has them read in its order."""
    own = {"train_sampling_strategy": "sequential"} if in_order else {}
    return own | (plan.get("training") or {})


def _base(
    config: StudyConfig,
    task: Task,
    factory: ModelFactory,
    model: str,
    name: str,
    plan: dict[str, Any],
    check: Check,
) -> Stage:
    unknown = set(plan) - task.pretraining_keys
    if unknown:
        known = sorted(task.pretraining_keys)
        raise ValueError(f"`pretraining` has unknown settings {sorted(unknown)}; known: {known}.")

    def spec_of(plan: dict[str, Any]) -> dict[str, Any]:
        made_of = task.pretraining_identity(plan) | {"plan": plan, "model": factory.identity(model)}
        return {"version": __version__} | made_of

    def action(folder: Path) -> None:
        if shipped is None:
            logged = {"training": config.training(plan.get("training"))}  # no part of the stage's key
            pretrain(task, factory, model, plan | logged, folder, partial(check, name))
            return
        check(name, factory.reader(str(shipped_models.FOLDER / shipped["folder"])))
        if processes().is_main_process:
            shipped_models.copy(shipped, folder)

    shipped = None if config.pretrain else shipped_models.find(spec_of(plan))
    if shipped is None:
        plan = config.capped(plan)  # what is shipped costs nothing, however many examples it read
    spec = spec_of(plan) | ({} if shipped is None else {"shipped": shipped["files"]})
    folder = Path(config.output_dir) / ("base" if name == STUDENT else f"base-{name}")
    return Stage(f"{name}, pre-training", folder, spec, action)


def pretrain(
    task: Task,
    factory: ModelFactory,
    model: str,
    plan: Mapping[str, Any],
    folder: Path,
    check: Callable[[Reader], None] = lambda reader: None,
) -> None:
    """Build a tiny model and train it on the task's rows for it: pairs of prompt and completion, or raw text."""
    rows, texts = task.pretraining_rows(plan)
    loaded = factory.build(model, SEED, texts)
    check(Reader.of(loaded[0].config, loaded[1]))
    settings = pretraining_settings(plan, task.pretrains_on_pairs)
    if task.pretrains_on_pairs:
        train_on_gold(loaded, rows, settings, folder, SEED)
        return
    model, tokenizer = loaded
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_settings(settings, folder, SEED)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    train(trainer, folder, tokenizer)
