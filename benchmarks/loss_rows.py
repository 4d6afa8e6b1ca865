"""The rows of `losses.py` and `gpu.py`: one problem of random inputs, and every way to get its loss and gradients."""

import copy
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trl_weaks.heads.chunked import ChunkedHeadLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.request import WeakHeadRequest
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss

CHUNK = 256
FLOOR = "floor: three matmuls"
COMPILED = "ours, compiled:"  # what the trainers do where the passes load; "ours:" are PyTorch's operations
PROGRESS, GAMMA, KL_COEF = 0.8, 0.25, 1e-4


class Generic:
    """A loss without a closed form: the squared error of the probabilities."""

    linear_in_targets = False

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return (torch.softmax(logits, -1) - targets).square().sum(-1)


class Problem:
    """Random inputs of one shape, and every way to run them; each method is one forward + backward."""

    def __init__(
        self, tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype, device: str = "cpu", chunk: int = CHUNK
    ) -> None:
        g, self.chunk = torch.Generator(device).manual_seed(0), chunk
        normal = functools.partial(torch.randn, generator=g, device=device)
        self.hidden = normal(tokens, hidden).to(dtype).requires_grad_()
        self.weight = (normal(vocabulary, hidden) * 3 / math.sqrt(hidden)).to(dtype).requires_grad_()
        self.ids = torch.randint(vocabulary, (tokens,), generator=g, device=device)
        self.logps = torch.log(torch.rand(tokens, 1, generator=g, device=device))
        self.segments = torch.arange(tokens, device=device) // 3

    def moved(self, device: torch.device | str, dtype: torch.dtype) -> "Problem":
        """The same numbers elsewhere, hidden states and weight in another type."""
        other = copy.copy(self)
        for name in ("hidden", "weight"):
            setattr(other, name, getattr(self, name).detach().to(device, dtype).requires_grad_())
        other.ids, other.logps, other.segments = (x.to(device) for x in (self.ids, self.logps, self.segments))
        return other

    def floor(self) -> None:
        """z = h W', dh = z W, dW += z' h: what no gradient can do without."""
        h, w = self.hidden.detach(), self.weight.detach()
        grad_h, grad_w = torch.empty_like(h), torch.zeros_like(w)
        buffer = h.new_empty(self.chunk, len(w))
        for start in range(0, len(h), self.chunk):
            part = h[start : start + self.chunk]
            z = torch.mm(part, w.t(), out=buffer[: len(part)])
            torch.mm(z, w, out=grad_h[start : start + self.chunk])
            grad_w.addmm_(z.t(), part)

    def full_cross_entropy(self) -> None:
        F.cross_entropy((self.hidden @ self.weight.t()).float(), self.ids, reduction="sum").backward()

    def trl_fused_head(self) -> None:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        outputs = ChunkedLogProbFunction.apply(
            self.hidden, self.weight, None, self.ids, 1.0, 32_768, None, 1.0, ("entropy", "is_top1")
        )
        (-outputs[0].sum()).backward()

    def _soft_labels(self, logits: Tensor) -> Tensor:
        probs, p = torch.softmax(logits.detach(), -1), self.logps.exp()
        target = probs.gather(-1, self.ids[:, None])
        return (probs * ((1 - p) / (1 - target))).scatter(-1, self.ids[:, None], p)

    def naive_soft(self) -> None:
        logits = (self.hidden @ self.weight.t()).float()
        (-(self._soft_labels(logits) * torch.log_softmax(logits, -1)).sum()).backward()

    def naive_soft_kl(self) -> None:
        """The loss of the authors' code: the same gradient, and the entropy of the label less in its value."""
        logits = (self.hidden @ self.weight.t()).float()
        F.kl_div(torch.log_softmax(logits, -1), self._soft_labels(logits), reduction="sum").backward()

    def _evidential(self, logits: Tensor, y: Tensor) -> Tensor:
        """The formula as printed, in float32."""
        alpha = torch.exp(logits) + 1
        nll = (y * (alpha.sum(-1, keepdim=True).log() - alpha.log())).sum(-1)
        kept = y + (1 - y) * alpha
        total = kept.sum(-1)
        kl = torch.lgamma(total) - torch.lgamma(kept).sum(-1) - math.lgamma(logits.shape[-1])
        kl = kl + ((kept - 1) * (torch.digamma(kept) - torch.digamma(total)[:, None])).sum(-1)
        return nll + KL_COEF * PROGRESS * kl

    def naive_evidential(self, hard: bool = True, gamma: float = 0.0) -> None:
        logits = (self.hidden @ self.weight.t()).float()
        y = F.one_hot(self.ids, logits.shape[-1]).float() if hard else self._soft_labels(logits)
        loss = self._evidential(logits, y)
        if gamma:
            own = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
            loss = (1 - gamma) * loss + gamma * self._evidential(logits, own)
        loss.sum().backward()

    def ours(self, loss, hard: bool = False, kernels: bool = False) -> Tensor:
        weights = torch.ones(len(self.ids), 1, device=self.ids.device)
        tokens = Tokens(self.ids, weights, self.segments, None if hard else self.logps, "confidence")
        request = WeakHeadRequest(loss, PROGRESS, weights, chunk_size=self.chunk, kernels=kernels)
        value = ChunkedHeadLoss.apply(self.hidden, self.weight, None, tokens, request, LogitTransform())[0]
        value.backward()
        return value.detach()


def losses() -> dict:
    """Name -> the loss, and whether its labels are hard."""
    evidential = EvidentialLoss(kl_coef=KL_COEF, kl_clamp=None)
    return {
        "soft labels": (NaiveLoss(), False),
        "soft labels + aux": (AuxiliaryConfidence(NaiveLoss(), GAMMA), False),
        "evidential": (evidential, True),
        "evidential + aux": (AuxiliaryConfidence(evidential, GAMMA), True),
        "evidential, soft": (evidential, False),
        "evidential, soft + aux": (AuxiliaryConfidence(evidential, GAMMA), False),
        "a generic callable": (Generic(), False),
    }


def ways(problem: Problem | None) -> dict:
    """Name -> one forward + backward; of no problem, for the names alone, as the rows of `Problem` itself."""
    problem = Problem if problem is None else problem
    found = {
        FLOOR: problem.floor,
        "full logits, cross-entropy": problem.full_cross_entropy,
        "TRL fused head": problem.trl_fused_head,
        "naive soft labels": problem.naive_soft,
        "naive soft labels, KL": problem.naive_soft_kl,
        "naive evidential": problem.naive_evidential,
        "naive evidential + aux": lambda: problem.naive_evidential(gamma=GAMMA),
        "naive evidential, soft": lambda: problem.naive_evidential(hard=False),
    }
    for name, (loss, hard) in losses().items():
        found[f"ours: {name}"] = functools.partial(problem.ours, loss, hard)
    for name, (loss, hard) in losses().items():
        found[f"{COMPILED} {name}"] = functools.partial(problem.ours, loss, hard, kernels=True)
    return found
