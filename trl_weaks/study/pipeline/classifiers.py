"""Classifiers: tiny ones built in place, or the ones a preset names."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    set_seed,
)

from trl_weaks.distributed import processes, whole_weights
from trl_weaks.study.config import StudyConfig
from trl_weaks.study.pipeline.models import TINY, Loaded, ModelFactory, named_if_it_fails, resolved
from trl_weaks.study.stages import Stage
from trl_weaks.supervisors.class_names import numbered, plain_name
from trl_weaks.supervisors.completeness import complete


class ClassifierFactory(ModelFactory):
    """Every classifier of a run, by name; the language-model head gives way to one output a class (paper, §5.1).

    All are trained to the task's order of classes, and each is said to have it, whatever its checkpoint called them.
    """

    def __init__(self, config: StudyConfig, classes: Sequence[str]):
        super().__init__(config)
        self._num_classes = len(classes)
        self._names = _names(classes)

    def weak(self, name: str, seed: int, texts: list[str]) -> Loaded:
        """A supervisor before its fine-tuning."""
        return self._tiny(name, seed, texts) if name.startswith(TINY) else self._load(name, seed)

    def _tiny(self, name: str, seed: int, texts: list[str]) -> Loaded:
        causal, tokenizer = self.build(name, seed, texts)
        causal.config.num_labels = self._num_classes
        with torch.random.fork_rng(devices=[]), whole_weights():
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(causal.config, dtype=torch.float32)
        return self._named(model), tokenizer

    def student(self, base: Stage | None, seed: int = 0, texts: Sequence[str] = ()) -> Loaded:
        """The student before any supervision: the pre-trained tiny one, a public model, or a tiny one at random."""
        name = self._config.student_model
        if base is None and name.startswith(TINY):
            return self._tiny(name, seed, list(texts))
        return self._partly_frozen(self._load(str(base.folder) if base else name, seed))

    def trained(self, folder: Path) -> Loaded:
        """A classifier that a stage left behind, on this process's device; a LoRA adapter is merged into its base."""
        if (folder / "adapter_config.json").exists():
            from peft import AutoPeftModelForSequenceClassification

            kwargs = {**self._kwargs, "num_labels": self._num_classes}
            with whole_weights():
                adapted = AutoPeftModelForSequenceClassification.from_pretrained(str(folder), **kwargs)
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            adapted.config.get_text_config().pad_token_id = tokenizer.pad_token_id
            model = self._named(adapted.merge_and_unload())
        else:
            model, tokenizer = self._load(str(folder), 0)
        return model.to(processes().device), tokenizer

    def _load(self, name: str, seed: int) -> Loaded:
        source = resolved(name)
        with named_if_it_fails(name), whole_weights():
            tokenizer = AutoTokenizer.from_pretrained(source)
            set_seed(seed)  # a new head starts at random
            model = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=self._num_classes, **self._kwargs
            )
            complete(model, source, self._kwargs)  # a head, and layers before it, may be new
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        return self._named(model), tokenizer

    def _named(self, model: PreTrainedModel) -> PreTrainedModel:
        model.config.id2label = dict(enumerate(self._names))
        model.config.label2id = {name: k for k, name in enumerate(self._names)}
        return model


def _names(classes: Sequence[str]) -> list[str]:
    """What a checkpoint calls the classes: numbers, and names that differ in case alone, would be mistaken for others,
    and stay `LABEL_n`."""
    unclear = numbered(classes) or len({plain_name(name) for name in classes}) < len(classes)
    return [f"LABEL_{k}" for k in range(len(classes))] if unclear else list(classes)
