"""What leaves the machine with a checkpoint: settings without secrets, and a card that says only what is so."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from .model_card import Result, complete_card

_for_others: ContextVar[bool] = ContextVar("for_others", default=False)


@contextmanager
def written_for_others() -> Iterator[None]:
    """Inside, settings are pickled without secrets; copies, and pickles for other processes, are made outside."""
    mark = _for_others.set(True)
    try:
        yield
    finally:
        _for_others.reset(mark)


class PublicSettings:
    """Mixin for configurations: `training_args.bin`, which is pushed with the model, holds neither the Hub's token nor
    where things lie on this machine; of an absolute path it keeps the last part."""

    of_no_choice = ()  # (name, value): defaults of TRL's class that choose nothing where such settings are taken

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if not _for_others.get():
            return state
        shown = {name: Path(v).name for name, v in state.items() if isinstance(v, str) and v[:1] in ("/", "~")}
        return state | shown | {"hub_token": None}


class Publishing:
    """Mixin for trainers: a true card, and checkpoints whose settings hold no secrets."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with written_for_others():
            super()._save(output_dir, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with written_for_others():
            super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        license: str | None = None,
        results: Mapping[str, Result] | None = None,
    ) -> None:
        """Write the card: TRL's, with the base model only where it is one of the Hub's, the supervision, and metrics.

        `push_to_hub(license=..., results=...)` passes these on.

        Args:
            license: a licence identifier of the Hub, such as `"apache-2.0"`; none is claimed by default.
            results: metrics of your own for the card's `model-index`, beside the last evaluation's: a number, or
                `(number, low, high)` with the ends of its 95 % interval, such as `{"pgr": (0.43, 0.33, 0.52)}`.

        Raises:
            ValueError: a result is neither.
        """
        if not self.is_world_process_zero():
            return
        self._draft_card(model_name, dataset_name, tags)
        path = Path(self.args.output_dir) / "README.md"
        card = ModelCard(path.read_text(encoding="utf-8"))
        complete_card(card, self, model_name, dataset_name, license, results)
        card.text = "\n\n".join(filter(None, [card.text.rstrip(), self._supervision_section()])) + "\n"
        card.save(path)

    def _draft_card(self, model_name: str | None, dataset_name: str | None, tags: Any) -> None:
        super().create_model_card(model_name=model_name, dataset_name=dataset_name, tags=tags)

    def _supervision_section(self) -> str | None:
        """Who supervised the model, and how, as markdown."""
        return None
