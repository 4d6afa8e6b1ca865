"""Slot filling: which slots does an utterance state, as JSON? On the embedded grammar, or on SLURP."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trl_weaks.metrics.agreement import slot_agreement
from trl_weaks.metrics.slu_f1 import slu_f1_counts, slu_f1_from_counts
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.data import grammar, pretraining, slurp, slurp_download
from trl_weaks.study.data.prompts import FILLER_LEAD, build_prompt
from trl_weaks.study.data.rows import Splits as Utterances
from trl_weaks.study.data.targets import decode_slots, encode_slots
from trl_weaks.study.files import file_digest
from trl_weaks.study.stages import fingerprint
from trl_weaks.study.tasks.base import TASKS, CompletionTask, Example, Splits
from trl_weaks.study.tasks.slurp_types import SLURP_TYPES

TEST_SEED = 2026  # of the grammar's test split; presets were chosen without it
SENTENCES = 10000  # of pre-training, where the plan does not say how many
SEED = 0  # of pre-training
SCORES = ("slu_f1", "word_f1", "char_f1", "span_f1")


@TASKS.register()
class SlotFilling(CompletionTask):
    """Slots of an utterance as a JSON object, scored with SLU-F1.

    Example:

    >>> task = SlotFilling(SlotFillingConfig())
    >>> example = Example("1", "call ann at home", (("person", "ann"), ("place_name", "home")))
    >>> task.completion(example)
    '{"person": " ann", "place_name": " home"}'
    >>> round(task.score('{"person": " ann"}', example)["slu_f1"], 3)  # precision 1, recall 1/2
    0.667

    See also: [`CompletionTable`] for prompts of your own, [`slu_f1`] for the score, [`Classification`].
    """

    name = "slot_filling"
    config_class = SlotFillingConfig
    title = "Weak-to-strong slot filling"
    score_title = "SLU-F1"
    pretrains_on_pairs = True
    pretraining_keys = frozenset(
        {"reading", "jumbled_copying", "copying", "mixed_reading", "dialogues"}
        | {"sentences", "random_share", "clean_share", "training"}
    )

    def __init__(self, config: SlotFillingConfig):
        self._config = config
        self._lead = FILLER_LEAD[config.prompt]

    @classmethod
    def from_config(cls, config: SlotFillingConfig) -> "SlotFilling":
        return cls(config)

    @cached_property
    def _folder(self) -> Path | None:
        """Where SLURP lies, fetched if need be; None for the grammar."""
        c = self._config
        if c.data_dir:
            return Path(c.data_dir)
        return slurp_download.download(Path(c.output_dir) / "slurp", SLURP_TYPES) if c.dataset == "slurp" else None

    @cached_property
    def slot_types(self) -> list[str]:
        return slurp.load_slot_types(self._folder) if self._folder else grammar.slot_types()

    @property
    def identity(self) -> list[str]:
        return self.slot_types

    def splits(self, seed: int) -> Splits:
        found = self._utterances(seed)
        parts = (found.half_a, found.half_b, found.validation, found.test)
        return Splits(*(tuple(Example(e.id, e.text, e.slots) for e in part) for part in parts))

    def _utterances(self, seed: int) -> Utterances:
        c = self._config
        sizes = {"half_a": c.num_gold, "half_b": c.num_weak, "validation": c.num_validation}
        if self._folder:
            return slurp.load_splits(self._folder, **sizes, test=c.num_test, seed=seed)
        sizes["test"] = c.num_test or 1000
        found = grammar.load_splits(**sizes, seed=seed)
        return replace(found, test=grammar.load_splits(1, 1, 1, sizes["test"], seed=TEST_SEED).test)

    @cached_property
    def _prompt(self):
        return build_prompt(self._config.prompt, self.slot_types)

    def prompt(self, example: Example) -> str:
        return self._prompt(example.text)

    def completion(self, example: Example) -> str:
        return encode_slots(example.target, self._lead)

    def parsed(self, completion: str) -> bool:
        return decode_slots(completion)[1]

    def statistics(self, completion: str, example: Example) -> Sequence[float]:
        predicted, gold = decode_slots(completion)[0], [tuple(slot) for slot in example.target]
        return slu_f1_counts([[tuple(slot) for slot in predicted]], [gold])[0]

    def total(self, means: np.ndarray) -> dict[str, np.ndarray]:
        return {name: slu_f1_from_counts(means, score=name) for name in SCORES}

    def score(self, completion: str, example: Example) -> dict[str, float]:
        return {name: float(value) for name, value in self.total(self.statistics(completion, example)).items()}

    def agreement(self, answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return slot_agreement({name: [decode_slots(text)[0] for text in texts] for name, texts in answers.items()})

    def description(self) -> str:
        if self._folder:
            return f"SLURP (Bastianelli et al., 2020; text CC BY 4.0), {len(self.slot_types)} slot types."
        return (
            f"the embedded home-assistant grammar, {len(self.slot_types)} slot types; names, places and titles of the "
            "test split never occur in training."
        )

    # pre-training of tiny models

    def unlabelled(self, size: int) -> list[str]:
        if self._folder:
            return slurp.load_unlabelled(self._folder)[:size]
        return grammar.unlabelled(size)

    def pretraining_identity(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        turns = self._dialogue_file(plan)
        return {
            "data": fingerprint([self.slot_types, self.unlabelled(plan.get("sentences", SENTENCES))]),
            "dialogues": file_digest(turns) if turns else None,
        }

    def pretraining_rows(self, plan: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
        """Prompt-completion rows in the order to train on, and the texts that a tokenizer learns from.

        Reading comes first, then copying, then dialogues: mixed with dialogues from the start, copying was not
        learned in 1,300 steps (one seed, SLURP).

        Args:
            plan: that of [`curriculum`], with `sentences`, how many to use; `dialogues`, most turns to read where the
                settings name their folder; `training`, the trainer's settings.

        Raises:
            ValueError: a plan that comes to no rows.
        """
        batch = (plan.get("training") or {}).get("per_device_train_batch_size", 8)
        sentences = self.unlabelled(plan.get("sentences", SENTENCES))
        rows = pretraining.curriculum(sentences, plan, SEED)
        if self._dialogue_file(plan):
            turns = pretraining.dialogues(pretraining.read_turns(Path(self._config.pretrain_dir)), seed=SEED)
            rows += pretraining.by_length(list(islice(turns, plan.get("dialogues"))), batch, SEED)
        if not rows:
            tasks = sorted(self.pretraining_keys - {"sentences", "random_share", "clean_share", "training"})
            raise ValueError(f"`pretraining` asks for no rows; set one of {', '.join(tasks)}, or --pretrain_dir.")
        # Whole words as single tokens would each have to be learned to be copied; slot names take their place in the
        # vocabulary, and the task's own sentences, not the disguised ones, choose the rest.
        names = [f'{{"{slot_type}": "x", ' for slot_type in self.slot_types]
        return rows, [*sentences[:5000], *names * 100]

    def _dialogue_file(self, plan: Mapping[str, Any]) -> Path | None:
        """Where the plan's dialogue turns lie, if it has any."""
        folder = self._config.pretrain_dir
        return Path(folder) / pretraining.TURNS if folder and plan.get("dialogues") != 0 else None
