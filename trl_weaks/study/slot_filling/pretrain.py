"""Pre-training of tiny models; the student gets more of it than its supervisors. It never sees a label of the task."""

import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from trl_weaks._version import __version__
from trl_weaks.distributed import processes
from trl_weaks.study import shipped_models
from trl_weaks.study.data import pretraining
from trl_weaks.study.files import file_digest
from trl_weaks.study.pipeline.models import TINY, ModelFactory
from trl_weaks.study.slot_filling import training
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.sources import Source
from trl_weaks.study.stages import Stage

SEED = 0  # one base for all seeds of the experiment, as with a public checkpoint
SENTENCES = 10000  # where the plan does not say how many
TASKS = {"reading", "jumbled_copying", "copying", "mixed_reading", "dialogues"}
KEYS = TASKS | {"sentences", "random_share", "clean_share", "training"}


def pretraining_rows(
    config: SlotFillingConfig, source: Source, plan: dict[str, Any]
) -> tuple[list[dict[str, str]], list[str]]:
    """Prompt-completion rows in the order to train on, and the texts that a tokenizer learns from.

    Reading comes first, then copying, then dialogues: mixed with dialogues from the start, copying was not learned in
    1,300 steps (one seed, SLURP).

    Args:
        config: for the folder of dialogues.
        source: unlabelled sentences.
        plan: `sentences`, how many to use; `reading`, passes over them; `jumbled_copying`, rows of words without
            sense; `copying`, passes, with `mixed_reading` rows of reading for each row of copying; `dialogues`, most
            turns to read where the config names their folder; `random_share` and `clean_share` of copying;
            `training`, the trainer's settings.

    Raises:
        ValueError: a plan that comes to no rows.
    """
    batch = (plan.get("training") or {}).get("per_device_train_batch_size", 8)
    shares = {name: plan[name] for name in ("random_share", "clean_share") if name in plan}
    sentences = source.unlabelled(plan.get("sentences", SENTENCES))
    read = list(pretraining.reading(sentences))
    rows = [row for epoch in range(plan.get("reading", 0)) for row in pretraining.by_length(read, batch, epoch)]
    jumbled = pretraining.jumble(sentences, plan.get("jumbled_copying", 0), SEED)
    rows += pretraining.by_length(list(pretraining.copying(jumbled, SEED, random_share=0.1)), batch, SEED)
    copies = [
        row for epoch in range(plan.get("copying", 0)) for row in pretraining.copying(sentences, epoch, **shares)
    ]
    mixed = round(plan.get("mixed_reading", 0) * len(copies))
    rows += pretraining.by_length(copies + random.Random(SEED).choices(read, k=mixed), batch, SEED)
    if dialogue_file(config, plan):
        turns = pretraining.dialogues(pretraining.read_turns(Path(config.pretrain_dir)), seed=SEED)
        rows += pretraining.by_length(list(islice(turns, plan.get("dialogues"))), batch, SEED)
    if not rows:
        raise ValueError(f"`pretraining` asks for no rows; set one of {', '.join(sorted(TASKS))}, or --pretrain_dir.")
    # Whole words as single tokens would each have to be learned to be copied; slot names take their place in the
    # vocabulary, and the task's own sentences, not the disguised ones, choose the rest.
    names = [f'{{"{slot_type}": "x", ' for slot_type in source.slot_types]
    return rows, [*sentences[:5000], *names * 100]


def dialogue_file(config: SlotFillingConfig, plan: Mapping[str, Any]) -> Path | None:
    """Where the plan's dialogue turns lie, if it has any."""
    return (
        Path(config.pretrain_dir) / pretraining.TURNS if config.pretrain_dir and plan.get("dialogues") != 0 else None
    )


def pretraining_settings(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's settings of a plan; rows are read in its order."""
    return {"train_sampling_strategy": "sequential"} | (plan.get("training") or {})


def pretrain_stage(config: SlotFillingConfig, source: Source, factory: ModelFactory) -> Stage:
    """The stage that builds and pre-trains the student's base in `<output_dir>/base`.

    Raises:
        ValueError: unknown settings in `pretraining`.
    """
    return _base(config, source, factory, config.student_model, "student", dict(config.pretraining or {}))


def weak_plan(config: SlotFillingConfig) -> dict[str, Any]:
    """The supervisors' plan: what it leaves out is as in the student's, apart from the tasks."""
    shared = {k: v for k, v in (config.pretraining or {}).items() if k not in TASKS}
    return shared | {"dialogues": 0} | (config.weak_pretraining or {})


def weak_base_stage(config: SlotFillingConfig, source: Source, factory: ModelFactory, number: int) -> Stage | None:
    """The same for a supervisor built in place, in `<output_dir>/base-<name>`; `None` without `weak_pretraining`."""
    model, name = config.weak_models[number], config.supervisor_names[number]
    if not config.weak_pretraining or not model.startswith(TINY):
        return None
    return _base(config, source, factory, model, name, weak_plan(config))


def _base(
    config: SlotFillingConfig, source: Source, factory: ModelFactory, model: str, name: str, plan: dict[str, Any]
) -> Stage:
    unknown = set(plan) - KEYS
    if unknown:
        raise ValueError(f"`pretraining` has unknown settings {sorted(unknown)}; known: {sorted(KEYS)}.")

    def spec_of(plan: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": __version__,
            "data": source.text_identity(plan.get("sentences", SENTENCES)),
            "dialogues": file_digest(turns) if turns else None,
            "plan": plan,
            "model": factory.identity(model),
        }

    def action(folder: Path) -> None:
        if shipped is not None:
            if processes().is_main_process:
                shipped_models.copy(shipped, folder)
            return
        rows, texts = pretraining_rows(config, source, plan)
        loaded = factory.build(model, SEED, texts)
        training.train_on_gold(loaded, rows, settings, folder, SEED)

    turns = dialogue_file(config, plan)
    shipped = None if config.pretrain else shipped_models.find(spec_of(plan))
    if shipped is None:
        plan = config.capped(plan)  # what is shipped costs nothing, however many examples it read
    settings, spec = pretraining_settings(plan), spec_of(plan)
    if shipped is not None:
        spec["shipped"] = shipped["files"]
    folder = Path(config.output_dir) / ("base" if name == "student" else f"base-{name}")
    return Stage(f"{name}, pre-training", folder, spec, action)
