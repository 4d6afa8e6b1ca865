"""What a trainer asks of the weak head, and what it gets back."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ..losses.base import WeakLoss, as_weak_loss

Split = Literal["confidence", "uniform", "eq8"]


@dataclass(frozen=True)
class WeakHeadRequest:
    """
    Everything beside `input_ids` and `labels` that a weak loss over the vocabulary needs. B rows, L padded length,
    S supervisors of a row at most. Label-shaped tensors are aligned with `input_ids`; the head does the shift.

    Args:
        loss: The loss, called with the vocabulary as its classes; a plain function becomes a `WeakLoss` here.
        progress: Fraction of the training done, in [0, 1].
        weights: Weight of each supervisor of the row, `(B, S)` float32; 0 pads rows with fewer supervisors. Where a
            row packs several texts, `(B, L, S)`, repeated on every token of a text.
        unit_ids: Confidence unit (word or span) of each label position, `(B, L)` long; -1 where there is none.
            A unit is one run of neighbouring supervised tokens of one text.
        unit_logps: Log-probability of the token's *whole* unit under each supervisor, `(B, L, S)` float32, repeated
            on every token of the unit. `None`: hard labels, probability 1.
        split: How a unit's log-probability is shared among its tokens. `"confidence"` (*authors' code*):
            `ln P_j = a_j ln P(unit)`, `a = softmax(-C)` over the unit, C the student's largest probability at that
            step, detached. `"uniform"`: equal shares. `"eq8"` (*paper*, as printed; it does not preserve the
            product of Eq. 7 and is meant for comparison): `P_j = softmax(C)_j P(unit)`.
        chunk_size: Tokens whose logits exist at once.
        nodes: Where the backbone computes other rows than `labels` has (token trees): for each label position the
            place of its hidden state among the backbone's, counted through all its rows, `(B, L)` long.
        divisor: What every loss is divided by, such as the number of tokens of the update. Half precision wants it
            here rather than after the forward: a gradient that is rounded, divided and rounded once more errs to one
            side.
        kernels: Whether logits take compiled passes where there are any for them: `losses.vocabulary.cpu_kernels` for
            float32 on a CPU, `triton_passes` for CUDA.
    """

    loss: WeakLoss
    progress: float
    weights: Tensor
    unit_ids: Tensor | None = None
    unit_logps: Tensor | None = None
    split: Split = "confidence"
    chunk_size: int = 256
    nodes: Tensor | None = None
    divisor: Tensor | float = 1.0
    kernels: bool = False

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(f"split must be one of {', '.join(get_args(Split))}, not {self.split!r}")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 token, not {self.chunk_size}")
        if self.weights.dim() not in (2, 3):
            raise ValueError(f"weights must be (rows, [length,] supervisors), not {tuple(self.weights.shape)}")
        if self.unit_logps is not None and self.unit_ids is None:
            raise ValueError("unit_logps need unit_ids: which tokens share a unit")
        object.__setattr__(self, "loss", as_weak_loss(self.loss))
        if self.loss.window is not None:
            raise ValueError('threshold="balanced" is for classification; use threshold="argmax" over a vocabulary')

    def without_prompt(self, labels: Tensor) -> Tensor:
        """`(B, P + L)` -> `(B, L)`: labels without the -100 of P learned tokens that PEFT puts before each row."""
        aligned = (self.unit_ids, self.unit_logps, self.weights if self.weights.dim() == 3 else None)
        extra = labels.shape[1] - next((x.shape[1] for x in aligned if x is not None), labels.shape[1])
        return labels[:, extra:] if extra > 0 and bool((labels[:, :extra] == -100).all()) else labels

    def check(self, labels: Tensor) -> None:
        """Raise `ValueError` where the shapes do not fit `labels`, `(B, L)`."""
        rows, length = labels.shape
        supervisors = self.weights.shape[-1]
        expected = {"weights": (rows, supervisors) if self.weights.dim() == 2 else (rows, length, supervisors)}
        if self.nodes is not None:
            expected["nodes"] = (rows, length)
        if self.unit_ids is not None:
            expected["unit_ids"] = (rows, length)
        if self.unit_logps is not None:
            expected["unit_logps"] = (rows, length, supervisors)
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must be {shape} beside these labels, not {tuple(getattr(self, name).shape)}")


@dataclass
class WeakHeadOutput(ModelOutput):
    """
    Output of a model called with `weak_head=`. All but the three losses without `per_token` are detached float32 (or
    bool) `(B, L-1)` tensors, zero where the label is -100.

    Args:
        loss: Sum over supervised tokens and supervisors of weight times loss, nats, divided by the request's divisor
            and nothing else; PEFT adds to it what adapters like AdaLoRA penalise.
        per_token_loss: Its summands: per token, the sum over the row's supervisors of weight times loss.
        log_probs: Log-probability of the emitted token under the student.
        entropy: Entropy of the student's distribution, nats.
        is_top1: Whether the emitted token is the (first) most likely one.
        target_probs: Probability P of the emitted token in the soft label, weighted mean over supervisors.
        top_probs: The student's largest probability.
        label_mask: Whether the label is not -100.
        aux_loss: Load-balancing loss of a mixture-of-experts backbone, when it was asked for router logits.
        weak_loss: `loss` under a name that nobody adds to. `SFTTrainer` trains without such penalties, too.
    """

    loss: torch.Tensor | None = None
    per_token_loss: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    is_top1: torch.Tensor | None = None
    target_probs: torch.Tensor | None = None
    top_probs: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None
    weak_loss: torch.Tensor | None = None
