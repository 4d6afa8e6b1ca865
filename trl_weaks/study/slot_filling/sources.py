"""Where the experiment's examples come from: the embedded grammar, or SLURP."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from trl_weaks.study.data import grammar, slurp, slurp_download
from trl_weaks.study.data.rows import Splits
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.slurp_types import SLURP_TYPES
from trl_weaks.study.stages import fingerprint

TEST_SEED = 2026  # of the grammar's test split; presets were chosen without it


class Source:
    """Splits, slot types and unlabelled text of one task.

    The test split is the same for every seed, so that systems and seeds can be compared example by example.
    """

    def __init__(self, config: SlotFillingConfig):
        self._config = config
        self._folder = Path(config.data_dir) if config.data_dir else None
        if config.dataset == "slurp" and self._folder is None:
            self._folder = slurp_download.download(Path(config.output_dir) / "slurp", SLURP_TYPES)

    @cached_property
    def slot_types(self) -> list[str]:
        return slurp.load_slot_types(self._folder) if self._folder else grammar.slot_types()

    @property
    def identity(self) -> list[str]:
        """What prompts say beside the examples."""
        return self.slot_types

    def text_identity(self, size: int) -> str:
        """Hash of what pre-training on `size` sentences reads."""
        return fingerprint([self.slot_types, self.unlabelled(size)])

    def splits(self, seed: int) -> Splits:
        """Half A, half B and validation by seed; the test split does not depend on it."""
        c = self._config
        sizes = {"half_a": c.num_gold, "half_b": c.num_weak, "validation": c.num_validation}
        if self._folder:
            return slurp.load_splits(self._folder, **sizes, test=c.num_test, seed=seed)
        sizes["test"] = c.num_test or 1000
        found = grammar.load_splits(**sizes, seed=seed)
        return replace(found, test=grammar.load_splits(1, 1, 1, sizes["test"], seed=TEST_SEED).test)

    def unlabelled(self, size: int) -> list[str]:
        """Up to `size` sentences without labels, none of them a test sentence."""
        if self._folder:
            return slurp.load_unlabelled(self._folder)[:size]
        return grammar.unlabelled(size)

    @property
    def description(self) -> str:
        """One sentence for the report."""
        if self._folder:
            return f"SLURP (Bastianelli et al., 2020; text CC BY 4.0), {len(self.slot_types)} slot types."
        return (
            f"the embedded home-assistant grammar, {len(self.slot_types)} slot types; names, places and titles of the "
            "test split never occur in training."
        )
