"""Dirichlet distributions over K classes, read from logits (K may be a vocabulary).

The evidential losses let a student predict a concentration `alpha = 1 + evidence` instead of one categorical
distribution (Sensoy et al., 2018; Cui et al., arXiv 2406.03199, Sec. 3.3 and App. B). All functions take and return
tensors, reduce over the last dimension, are differentiable, and work in float64 inside: written naively, the
divergence below cancels terms of size K log K.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Evidence = Literal["exp", "softplus", "relu"]

# Logs of evidence below this are no evidence: exp(-700) is the last magnitude float64 keeps at full precision.
NO_EVIDENCE = -700.0
# From here on the Stirling series below are exact to float64.
_STIRLING_FROM = 16.0
# Bernoulli numbers B_2, B_4, ... of the Stirling series.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66)


def concentration(logits: Tensor, evidence: Evidence = "exp") -> Tensor:
    """
    Dirichlet concentration `alpha = evidence(logits) + 1`.

    `"exp"` is the authors' choice for generation. Beyond a cap (60 in float32, 650 in float64) it continues as the
    tangent line, so that sums over a vocabulary stay finite and a far too confident logit still has a gradient.
    `"relu"` gives no gradient to a logit below 0 (nothing at all to a head that starts at zero).

    Args:
        logits: Any floating dtype, `(..., K)`. Half precision is raised to float32.
        evidence: One of `"exp"`, `"softplus"`, `"relu"`.

    Returns:
        `(..., K)`, at least 1 everywhere, float32 or float64.

    Raises:
        ValueError: If `evidence` is not one of the three.
    """
    logits = _at_least_float32(logits)
    _check_evidence(evidence)
    if evidence == "softplus":
        return _softplus(logits) + 1
    if evidence == "relu":
        return torch.relu(logits) + 1
    cap = 650.0 if logits.dtype == torch.float64 else 60.0
    capped = logits.clamp(max=cap)
    return capped.exp() * (1 + (logits - capped)) + 1


def log_evidence(logits: Tensor, evidence: Evidence = "exp") -> Tensor:
    """
    Natural logarithm of the evidence, `(..., K)` -> `(..., K)`: exact where the evidence itself would overflow.

    No evidence is `NO_EVIDENCE` (-700), not minus infinity, so that gradients stay finite.

    Raises:
        ValueError: If `evidence` is not one of `"exp"`, `"softplus"`, `"relu"`.
    """
    _check_evidence(evidence)
    logits = _at_least_float32(logits)
    if evidence == "exp":
        return logits.clamp(min=NO_EVIDENCE)
    if evidence == "relu":
        return torch.where(logits > 0, logits.clamp(min=torch.finfo(logits.dtype).tiny).log(), NO_EVIDENCE)
    # log(log1p(exp(z))) is z - exp(z) / 2 + ... far below zero, where softplus itself underflows
    low = logits.clamp(min=NO_EVIDENCE)
    high = _softplus(logits.clamp(min=-30)).log()
    return torch.where(logits < -30, low, high)


def strength(alpha: Tensor) -> Tensor:
    """Dirichlet strength, the sum of the concentration: `(..., K)` -> `(...)`."""
    return _like(alpha.double().sum(-1), alpha)


def vacuity(alpha: Tensor) -> Tensor:
    """Share of the belief that no evidence backs, K / strength: `(..., K)` -> `(...)` in (0, 1] for alpha >= 1."""
    return _like(alpha.shape[-1] / alpha.double().sum(-1), alpha)


def expected_probability(alpha: Tensor) -> Tensor:
    """Mean of the Dirichlet, alpha / strength: `(..., K)` -> `(..., K)`, sums to 1."""
    exact = alpha.double()
    return _like(exact / exact.sum(-1, keepdim=True), alpha)


def expected_nll(alpha: Tensor, targets: Tensor) -> Tensor:
    """
    Negative log-likelihood of `targets` under the Dirichlet, Eq. 3 of Cui et al. (arXiv 2406.03199):
    `sum_k y_k (log strength - log alpha_k)`.

    Args:
        alpha: Concentration, `(..., K)`, positive.
        targets: Probabilities or one-hot rows, `(..., K)`.

    Returns:
        Nats, `(...)`.
    """
    exact, targets = alpha.double(), targets.double()
    return _like((targets * (exact.sum(-1, keepdim=True).log() - exact.log())).sum(-1), alpha)


def kl_to_uniform(alpha: Tensor) -> Tensor:
    """
    Divergence KL(Dir(alpha) || Dir(1)) of App. B, in nats: `(..., K)` -> `(...)`, for any positive `alpha`.

    Textbook form, e = alpha - 1, E = sum e, S = K + E:
    `lnG(S) - lnG(K) - sum lnG(1 + e) + sum e (digamma(1 + e) - digamma(S))`. It is evaluated as
    `strength_term(E) + sum_k class_term(e_k)` (see there), whose parts stay of the size of the result.
    """
    extra = alpha.double() - 1
    terms = class_term(extra, extra.clamp(min=_STIRLING_FROM).log())
    total = extra.sum(-1)
    growth = torch.log1p(total / alpha.shape[-1])
    return _like(strength_term(total, growth, alpha.shape[-1]) + terms.sum(-1), alpha)


def kl_from_log_evidence(log_e: Tensor) -> Tensor:
    """`kl_to_uniform` of concentration 1 + exp(log_e), float64: exact for any evidence, never overflows."""
    log_e = log_e.double().clamp(min=NO_EVIDENCE)
    terms = class_term(log_e.clamp(max=math.log(_STIRLING_FROM) + 1).exp(), log_e)
    return kl_strength_term(torch.logsumexp(log_e, -1), log_e.shape[-1]) + terms.sum(-1)


def kl_strength_term(log_total: Tensor, num_classes: int) -> Tensor:
    """`strength_term` from the logarithm of the total evidence, float64."""
    growth = _softplus(log_total - math.log(num_classes))  # ln(S / K)
    if num_classes >= _STIRLING_FROM:  # and there is no evidence below 0: the special functions would not be read
        return _stirling_strength(growth, float(num_classes))
    capped = log_total.clamp(max=math.log(_STIRLING_FROM) + 1).exp()
    return strength_term(capped, growth, num_classes)


def class_term(e: Tensor, log_e: Tensor) -> Tensor:
    """
    One class's share of the divergence, `e digamma(1 + e) - lnG(1 + e) - e`, float64, elementwise.

    It tends to `1/2 - ln(2 pi e) / 2`: taking e off here and giving it back in `strength_term` leaves nothing large.
    `e` is read below 16, `log_e` from there on (so either may be clamped at that point).
    """
    small = e.clamp(max=_STIRLING_FROM)
    direct = small * (_digamma(1 + small) - 1) - torch.lgamma(1 + small)
    log_e = log_e.clamp(min=math.log(_STIRLING_FROM))
    inverse = (-log_e).exp()
    series = sum(b * inverse ** (2 * n + 1) / (2 * n + 1) for n, b in enumerate(_BERNOULLI))
    return torch.where(e < _STIRLING_FROM, direct, 0.5 - 0.5 * (math.log(2 * math.pi) + log_e) - series)


def strength_term(total: Tensor, growth: Tensor, num_classes: int) -> Tensor:
    """
    What the strength S = K + E contributes, `lnG(S) - lnG(K) - E digamma(S) + E`, float64.

    With Stirling's series on both ends, R its remainder at K, it is
    `(K - 1/2) ln(S/K) + 1/2 - K/(2S) + sum_n B_2n (S^(1-2n)/(2n-1) - K S^(-2n)/(2n)) - R(K)`: no K log K to cancel.

    Args:
        total: Total evidence E; read only where S < 16, so it may be clamped above that.
        growth: ln(S / K), exact everywhere.
        num_classes: K.
    """
    k = float(num_classes)
    strength_ = (k + total).clamp(max=_STIRLING_FROM)
    direct = torch.lgamma(strength_) - math.lgamma(k) + (strength_ - k) * (1 - _digamma(strength_))
    return torch.where(k + total < _STIRLING_FROM, direct, _stirling_strength(growth, k))


def _stirling_strength(growth: Tensor, k: float) -> Tensor:
    """`strength_term` by Stirling's series at both ends, for S from 16 on."""
    log_s = (growth + math.log(k)).clamp(min=math.log(_STIRLING_FROM))
    inverse = (-log_s).exp()
    series = sum(
        b * (inverse ** (2 * n + 1) / (2 * n + 1) - k * inverse ** (2 * n + 2) / (2 * n + 2))
        for n, b in enumerate(_BERNOULLI)
    )
    return (k - 0.5) * growth + 0.5 - 0.5 * k * inverse + series - stirling_remainder(k)


def stirling_remainder(k: float) -> float:
    """What Stirling's formula leaves of ln Gamma(k)."""
    if k < _STIRLING_FROM:
        return math.lgamma(k) - ((k - 0.5) * math.log(k) - k + 0.5 * math.log(2 * math.pi))
    return sum(b / ((2 * n + 2) * (2 * n + 1) * k ** (2 * n + 1)) for n, b in enumerate(_BERNOULLI))


def _digamma(x: Tensor) -> Tensor:
    # torch differentiates digamma with a trigamma good to 1e-9 only; ten steps up the recurrence it is good to 1e-13
    return torch.digamma(x + 10) - sum(1 / (x + k) for k in range(10))


def _softplus(x: Tensor) -> Tensor:
    # torch's default turns linear at 20, where 2e-9 is still missing
    return torch.nn.functional.softplus(x, threshold=40)


def _check_evidence(evidence: str) -> None:
    if evidence not in get_args(Evidence):
        raise ValueError(f"evidence must be one of {', '.join(get_args(Evidence))}, not {evidence!r}")


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _like(x: Tensor, reference: Tensor) -> Tensor:
    return x if reference.dtype == torch.float64 else x.float()
