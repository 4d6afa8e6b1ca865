"""One weak supervisor that classifies: a sequence classifier with its own tokenizer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..distributed import refuse_pieces
from ..inference.as_found import borrowed_tokenizer, inference
from ..inference.class_padding import padding_matters
from ..inference.padding import forget_lengths, positions_follow_length
from .adapters import Adapters
from .class_names import names_of
from .class_predictions import EVIDENCE_KEY, OFFSET_KEY, PRIOR_KEY, ClassPredictions
from .loading import load, name_of
from .reading.chat import rendered
from .reading.messages import Prompt
from .reading.text import refuse_split_special_tokens


def _ignore(_: int) -> None:
    """No-op progress callback."""


class WeakClassifier:
    """A `*ForSequenceClassification` model and its tokenizer, as weak supervisor n of N.

    An evidential student (`weak_evidence` in its config) answers with its Dirichlet's mean, others with a softmax.

    Args:
        model: with at least two labels; used without dropout and left as it was found.
        tokenizer: its fast tokenizer.
        name: unique in an ensemble; defaults to the last part of the model's path.
        max_length: cut texts to this many tokens; by default a text beyond the model's context is an error.
        batch_size: texts per forward pass.
        adapter, variant: as for `WeakSupervisor`.

    Raises:
        ValueError: fewer than two labels, a multi-label or regression model, a slow tokenizer, or model and
            tokenizer that disagree about padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        adapter: str | Sequence[str] | None = None,
        variant: str | None = None,
    ):
        self.name = name or PurePath(model.config._name_or_path or model.config.model_type).name
        self.model, self.tokenizer, self.variant = model, tokenizer, variant
        self.adapters = Adapters(model, adapter, self.name)
        self.max_length, self.batch_size = max_length, batch_size
        refuse_pieces(model, self.name)
        self.num_classes = model.config.num_labels
        self._check()
        self.context = min(
            (
                limit
                for limit in (
                    getattr(model.config.get_text_config(), "max_position_embeddings", None),
                    tokenizer.model_max_length,
                )
                if limit is not None and limit < 10**9
            ),
            default=None,
        )

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes in the model's order, as its configuration has them now; None for `LABEL_n`."""
        return names_of(self.model.config.id2label, self.num_classes)

    def _check(self) -> None:
        model, tokenizer = self.model, self.tokenizer
        problem = getattr(model.config, "problem_type", None)
        if problem not in (None, "single_label_classification"):
            raise ValueError(
                f"supervisor {self.name!r} was trained with problem_type={problem!r}: its outputs are not "
                "probabilities of classes that exclude each other. Use a single-label classifier; where this is "
                "one all the same, set `config.problem_type = None`."
            )
        if self.num_classes < 2:
            raise ValueError(f"supervisor {self.name!r} has {self.num_classes} label; a classifier needs two or more.")
        if not tokenizer.is_fast:
            raise ValueError(f"supervisor {self.name!r}: `{type(tokenizer).__name__}` is slow; use a fast tokenizer.")
        refuse_split_special_tokens(tokenizer, self.name)
        if tokenizer.pad_token_id is None or model.config.get_text_config().pad_token_id != tokenizer.pad_token_id:
            raise ValueError(
                f"supervisor {self.name!r}: its tokenizer pads with {tokenizer.pad_token_id}, its config says "
                f"{model.config.get_text_config().pad_token_id}. Set `tokenizer.pad_token` and `config.pad_token_id` "
                "to the same token: the prediction is read at the last token that is not padding."
            )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        name: str | None = None,
        device: str | torch.device | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> "WeakClassifier":
        """A classifier from the Hub or a folder, its pad token set and on the accelerator if there is one.

        Args:
            path: a sequence classifier, or a LoRA adapter of one.
            device: by default this process's accelerator, or the CPU.
            kwargs: for `AutoModelForSequenceClassification.from_pretrained`, such as `dtype` or `revision`.
        """
        model, tokenizer = load(path, AutoModelForSequenceClassification, device, **kwargs)
        return cls(model, tokenizer, name or name_of(path), max_length, batch_size)

    @borrowed_tokenizer
    def predict(
        self,
        texts: Sequence[Prompt],
        names: Sequence[str] | None = None,
        advance: Callable[[int], object] = _ignore,
    ) -> ClassPredictions:
        """Class probabilities of each text (or list of messages), in their order, on the CPU.

        Args:
            names: what to call each text in error messages.
            advance: called with the number of texts just done.

        Raises:
            ValueError: an empty or too long text, or probabilities that are not finite.
        """
        self._check()  # model and tokenizer may be set otherwise since
        names = names or [f"text {i}" for i in range(len(texts))]
        logits = torch.zeros(len(texts), self.num_classes)
        for rows, _, out in self._passes(texts, names):
            logits[rows] = out.float().cpu()
            advance(len(rows))
        return self._predictions(logits, names)

    def _predictions(self, logits: torch.Tensor, names: Sequence[str]) -> ClassPredictions:
        bad = (~logits.isfinite()).any(-1).nonzero()
        if len(bad):
            raise ValueError(
                f"{names[int(bad[0])]}: supervisor {self.name!r} gives logits that are not finite; check its weights, "
                "or load it in float32."
            )
        config = self.model.config
        evidence, prior = getattr(config, EVIDENCE_KEY, None), getattr(config, PRIOR_KEY, 1.0)
        return ClassPredictions.from_logits(logits, evidence, prior, getattr(config, OFFSET_KEY, 0.0))

    @borrowed_tokenizer
    def predict_with_states(
        self, texts: Sequence[Prompt], names: Sequence[str] | None = None
    ) -> tuple[ClassPredictions, torch.Tensor]:
        """What `predict` and `hidden_states` give, from one forward pass.

        Raises:
            ValueError: as either.
        """
        self._check()
        names = names or [f"text {i}" for i in range(len(texts))]
        logits, states = torch.zeros(len(texts), self.num_classes), torch.zeros(len(texts), self._head().in_features)
        for rows, state, out in self._passes_with_states(texts, names):
            logits[rows], states[rows] = out.float().cpu(), state
        return self._predictions(logits, names), states

    @borrowed_tokenizer
    def hidden_states(self, texts: Sequence[Prompt], names: Sequence[str] | None = None) -> torch.Tensor:
        """What the classification head reads of each text, (n, d) float32 on the CPU: the supervisor's last state.

        Raises:
            ValueError: an empty or too long text, or a model without a linear layer for its classes.
        """
        names = names or [f"text {i}" for i in range(len(texts))]
        states = torch.zeros(len(texts), self._head().in_features)
        for rows, state, _ in self._passes_with_states(texts, names):
            states[rows] = state
        return states

    @property
    def padding_matters(self) -> bool:
        """Whether padding would change a vote, so that only texts of one length are read together.

        Not told of models whose positions follow the length, whose texts are kept apart whatever padding does.
        """
        with self.adapters.in_use(), inference(self.model):
            return not positions_follow_length(self.model) and padding_matters(self.model)

    @property
    def has_states(self) -> bool:
        """Whether a linear layer makes the classes, so that `hidden_states` can read what goes into it."""
        return bool(self._heads())

    def _heads(self) -> list[nn.Linear]:
        linears = [m for n, m in self.model.named_modules() if isinstance(m, nn.Linear) and "lora_" not in n]
        return [module for module in linears if module.out_features == self.num_classes]

    def _head(self) -> nn.Linear:
        heads = self._heads()
        if not heads:
            raise ValueError(f"supervisor {self.name!r} has no linear layer for its {self.num_classes} classes.")
        return heads[-1]

    def _passes_with_states(
        self, texts: Sequence[Prompt], names: Sequence[str]
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Places of the texts of a batch, what the head read of each, and its logits."""
        read: list[torch.Tensor] = []
        pad_id = self.model.config.get_text_config().pad_token_id
        for rows, ids, out in self._passes(texts, names, _inputs_of(self._head(), read)):
            state = read.pop()
            if state.dim() == 3:  # decoders classify every position, and take the last whose token is not the padding
                last = (torch.arange(ids.shape[1], device=ids.device) * (ids != pad_id)).argmax(-1)
                state = state[torch.arange(len(rows), device=state.device), last.to(state.device)]
            yield rows, state.float().cpu(), out
            read.clear()

    def _passes(
        self, texts: Sequence[Prompt], names: Sequence[str], watched: AbstractContextManager[None] | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Places of the texts of a batch, its token ids and its logits, from passes made inside of `watched`."""
        ids = [self._encode(text, name) for text, name in zip(texts, names, strict=True)]
        with self.adapters.in_use(), inference(self.model):
            batches = list(self._batches([len(row) for row in ids]))
            with watched or nullcontext():
                for rows in batches:
                    forget_lengths(self.model)
                    batch = self.tokenizer.pad(
                        {"input_ids": [ids[i] for i in rows]}, padding_side="right", return_tensors="pt"
                    ).to(self.model.device)
                    out = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                    yield rows, batch["input_ids"], out.logits

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of like length; of one length where a longer row changes what the model says of the others."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        alike = positions_follow_length(self.model) or padding_matters(self.model)
        while order:
            rows = order[: self.batch_size]
            if alike:
                rows = [i for i in rows if lengths[i] == lengths[rows[0]]]
            yield rows
            order = order[len(rows) :]

    def _encode(self, text: Prompt, name: str) -> list[int]:
        plain = isinstance(text, str)
        if not plain:
            text = rendered(self.tokenizer, text, self.name, name)
        ids = self.tokenizer(
            text,
            add_special_tokens=plain,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            verbose=False,
        )["input_ids"]
        if all(token == self.tokenizer.pad_token_id for token in ids):
            raise ValueError(f"{name}: supervisor {self.name!r} reads no token in it. Drop the row.")
        if self.context is not None and len(ids) > self.context:
            raise ValueError(
                f"{name}: {len(ids)} tokens for supervisor {self.name!r}, which reads {self.context}. Give "
                "`max_length` to cut such texts, or drop the row."
            )
        return ids


@contextmanager
def _inputs_of(module: nn.Module, read: list[torch.Tensor]) -> Iterator[None]:
    """Inside, whatever the module is given is appended."""
    hook = module.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        yield
    finally:
        hook.remove()
