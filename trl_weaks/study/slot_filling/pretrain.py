"""Pre-training of a tiny student: what makes it stronger than its supervisors. It never sees a label of the task."""

import random
from itertools import islice
from pathlib import Path
from typing import Any

from trl_weaks._version import __version__
from trl_weaks.study.data.pretraining import copying, dialogues, read_turns
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.slot_filling import training
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.sources import Source
from trl_weaks.study.stages import Stage

SEED = 0  # one base for all seeds of the experiment, as with a public checkpoint
KEYS = {"sentences", "copying", "dialogues", "random_share", "clean_share", "training"}


def pretraining_rows(config: SlotFillingConfig, source: Source) -> tuple[list[dict[str, str]], list[str]]:
    """Prompt-completion rows in the order to train on, and the texts that a tokenizer learns from.

    Copying comes first: mixed with dialogues from the start, it was not learned in 1,300 steps (one seed, SLURP).

    Raises:
        ValueError: unknown settings, or dialogues asked for without a folder to read them from.
    """
    plan = dict(config.pretraining or {})
    unknown = set(plan) - KEYS
    if unknown:
        raise ValueError(f"`pretraining` has unknown settings {sorted(unknown)}; known: {sorted(KEYS)}.")
    shares = {name: plan[name] for name in ("random_share", "clean_share") if name in plan}
    sentences = source.unlabelled(plan.get("sentences", 10000))
    rows: list[dict[str, str]] = []
    for epoch in range(plan.get("copying", 0)):  # every pass asks for other spans
        rows += copying(sentences, seed=epoch, **shares)
    rng = random.Random(SEED)
    rng.shuffle(rows)
    if config.pretrain_dir:
        turns = dialogues(read_turns(Path(config.pretrain_dir)), seed=SEED)
        found = list(islice(turns, plan.get("dialogues")))
        rng.shuffle(found)
        rows += found
    if not rows:
        raise ValueError("`pretraining` asks for no rows; set copying, or --pretrain_dir.")
    # Whole words as single tokens would each have to be learned to be copied; slot names take their place in the
    # vocabulary, and the task's own sentences, not the disguised ones, choose the rest.
    names = [f'{{"{slot_type}": "x", ' for slot_type in source.slot_types]
    return rows, [*sentences[:5000], *names * 100]


def pretrain_stage(config: SlotFillingConfig, source: Source, factory: ModelFactory) -> Stage:
    """The stage that builds and pre-trains the student's base in `<output_dir>/base`."""
    settings: dict[str, Any] = {"train_sampling_strategy": "sequential"}
    settings |= (config.pretraining or {}).get("training") or {}

    def action(folder: Path) -> None:
        rows, texts = pretraining_rows(config, source)
        loaded = factory.build(config.student_model, SEED, texts)
        training.train_on_gold(loaded, rows, settings, folder, SEED)

    spec = {
        "version": __version__,
        "data": source.identity,
        "dialogues": config.pretrain_dir,
        "plan": config.pretraining,
        "model": factory.identity(config.student_model),
    }
    return Stage("student, pre-training", Path(config.output_dir) / "base", spec, action, cost=20000.0)
