"""Builds tiny models in place, or loads the ones a preset names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trl_weaks.commands.sources import first_line
from trl_weaks.distributed import processes, whole_weights
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.files import file_digest
from trl_weaks.study.models.pypi import PYPI, known_model, pypi_model
from trl_weaks.study.models.tiny import Architecture, build_model, train_tokenizer
from trl_weaks.study.stages import Stage
from trl_weaks.supervisors.completeness import refuse_incomplete
from trl_weaks.trainer.common.frozen_layers import layers_of

TINY = "tiny:"
SHAPES = get_args(Architecture)
SIZES = ("vocab_size", "hidden_size", "layers", "heads", "max_length")
Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Reader:
    """What decides whether a text fits into a model: its tokenizer, and its number of positions, infinite for none."""

    kind: str
    tokenizer: PreTrainedTokenizerBase
    positions: float

    @classmethod
    def of(cls, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> "Reader":
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        return cls(config.model_type, tokenizer, positions or float("inf"))


class ModelFactory:
    """Every model of a run, by name.

    Args:
        config: the study's settings; `tiny_models` maps a name to `vocab_size`, `hidden_size`, `layers`, `heads`,
            `max_length` and `shape`, the name itself by default; `model_kwargs` goes to `from_pretrained`.
    """

    def __init__(self, config: StudyConfig):
        self._config = config
        self._digests: dict[str, dict[str, str]] = {}
        self._readers: dict[str, Reader] = {}
        self._kwargs = {"dtype": torch.float32} | (config.model_kwargs or {})
        for name in (*config.weak_models, config.student_model):
            if name.startswith(TINY):
                check_sizes(name, config.tiny_models or {})
            if not name:
                raise ValueError("`student_model` is not set. Choose a preset, or name a model.")

    def check(self) -> None:
        """Read the configuration and the tokenizer of every model that a stage to run will load by name.

        Raises:
            ValueError: one is not there, cannot be reached, or is no model; names the setting.
        """
        c = self._config
        wanted = [("weak_models", name) for name in c.weak_models if "weak" in c.stages]
        wanted += [("student_model", c.student_model)] if {"student", "ceiling"} & set(c.stages) else []
        for setting, name in wanted:
            if name.startswith(TINY):
                continue
            try:
                self.reader(name)
            except (OSError, ValueError, ImportError) as error:
                raise ValueError(
                    f"`{setting}`: {name!r} cannot be loaded. Name a folder, a model of the Hub that can be reached "
                    f"from here, or tiny:<shape>. {first_line(error)}"
                ) from error

    def reader(self, name: str, texts: Sequence[str] = ()) -> Reader:
        """Of a model, without its weights; a tiny one's tokenizer learns from the texts, as in `build`."""
        if name.startswith(TINY):
            own = name.removeprefix(TINY)
            tokenizer, positions = self._tokenizer(own, texts)
            return Reader(own, tokenizer, positions)
        if name not in self._readers:
            source = resolved(name)
            config = AutoConfig.from_pretrained(source)
            self._readers[name] = Reader.of(config, AutoTokenizer.from_pretrained(source))
        return self._readers[name]

    def _tokenizer(self, name: str, texts: Iterable[str]) -> tuple[PreTrainedTokenizerBase, int]:
        """A tiny model's, and its number of positions."""
        sizes = self._config.tiny_models[name]
        kind, positions = sizes.get("shape", name), sizes["max_length"]
        return train_tokenizer(kind, texts, sizes["vocab_size"], model_max_length=positions), positions

    def identity(self, name: str) -> dict[str, Any]:
        """What a stage's key needs to know of a model; of a folder, the bytes of its files."""
        found = {"model": name, **{key: str(value) for key, value in self._kwargs.items()}}
        if name.startswith(PYPI):
            return found | {"digest": known_model(name).digest}
        if name.startswith(TINY):
            return found | self._config.tiny_models[name.removeprefix(TINY)]
        return found | self._files(name)

    def _files(self, name: str) -> dict[str, Any]:
        if name not in self._digests:
            files = sorted(path for path in Path(name).glob("[!.]*") if path.is_file() and path.suffix != ".md")
            self._digests[name] = {path.name: file_digest(path) for path in files}
        return {"files": self._digests[name]} if self._digests[name] else {}

    def build(self, name: str, seed: int, texts: list[str]) -> Loaded:
        """A tiny model with a tokenizer trained on `texts`."""
        own = name.removeprefix(TINY)
        tokenizer, max_length = self._tokenizer(own, texts)
        given = self._config.tiny_models[own]
        sizes = {size: given[size] for size in ("hidden_size", "layers", "heads")}
        with whole_weights():  # else an earlier stage's ZeRO-3 would have it born in pieces, from other random numbers
            model = build_model(given.get("shape", own), tokenizer, **sizes, max_length=max_length, seed=seed)
        return model, tokenizer

    def pretrained(self, name: str) -> Loaded:
        """A model and tokenizer by id or path; a tokenizer without pad token borrows the end-of-sequence token.

        The borrowed pad is never scored: attention masks and labels mark padding, not token ids.
        """
        source = resolved(name)
        with named_if_it_fails(name), whole_weights():
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, **self._kwargs)
            refuse_incomplete(model, source, self._kwargs)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return model, tokenizer

    def weak(self, name: str, seed: int, texts: list[str]) -> Loaded:
        """A supervisor before its fine-tuning."""
        return self.build(name, seed, texts) if name.startswith(TINY) else self.pretrained(name)

    def student(self, base: Stage | None, seed: int = 0, texts: Sequence[str] = ()) -> Loaded:
        """The student before any supervision: the pre-trained tiny one, a public model, or a tiny one at random."""
        name = self._config.student_model
        if base is None and name.startswith(TINY):
            return self.build(name, seed, list(texts))
        return self._partly_frozen(self.pretrained(str(base.folder) if base else name))

    def _partly_frozen(self, loaded: Loaded) -> Loaded:
        """The student with all but its last `student_layers` layers frozen, its input embeddings too."""
        if self._config.student_layers is not None:
            freeze_lower_layers(loaded[0], self._config.student_layers)
        return loaded

    def trained(self, folder: Path) -> Loaded:
        """A model that a stage left behind, on this process's device; a LoRA adapter is merged into its base."""
        if (folder / "adapter_config.json").exists():
            from peft import AutoPeftModelForCausalLM

            with whole_weights():
                model = AutoPeftModelForCausalLM.from_pretrained(str(folder), **self._kwargs).merge_and_unload()
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        else:
            model, tokenizer = self.pretrained(str(folder))
        return model.to(processes().device), tokenizer


def check_sizes(name: str, tiny_models: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: `tiny_models` does not say, or says wrongly, what `name`, tiny:<something>, is.
    """
    own = name.removeprefix(TINY)
    if own not in tiny_models:
        raise ValueError(f"`tiny_models` gives no sizes for {name!r}; add an entry for it, or name a model.")
    sizes = tiny_models[own]
    if wrong := {*sizes} - {*SIZES, "shape"} or {*SIZES} - {*sizes}:
        state = "lacks" if wrong <= {*SIZES} else "has unknown"
        raise ValueError(f"`tiny_models: {own}` {state} {sorted(wrong)}; it has {', '.join(SIZES)} and maybe shape.")
    if (shape := sizes.get("shape", own)) not in SHAPES:
        raise ValueError(f"`tiny_models: {own}`: {shape!r} is no shape; name one of {', '.join(SHAPES)} by `shape`.")


@contextmanager
def named_if_it_fails(name: str) -> Iterator[None]:
    """
    Raises:
        ValueError: for whatever a broken checkpoint gives; names the model.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"the model {name} cannot be loaded: {first_line(error)}") from error


def resolved(name: str) -> str:
    """A name that `from_pretrained` takes; a model of PyPI is fetched the first time."""
    return str(pypi_model(name)) if name.startswith(PYPI) else name


def freeze_lower_layers(model: PreTrainedModel, last: int) -> None:
    """Freeze the input embeddings and all layers but the last ones; what lies beside the layers stays trainable.

    Raises:
        ValueError: the model has no such list of layers, or fewer than `last`.
    """
    layers = layers_of(model)
    if not 1 <= last <= len(layers):
        raise ValueError(f"`student_layers` is {last}; the student has {len(layers)} layers.")
    for module in (model.get_input_embeddings(), *layers[: len(layers) - last]):
        module.requires_grad_(False)
