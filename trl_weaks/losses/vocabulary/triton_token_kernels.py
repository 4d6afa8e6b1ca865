"""The maths of one number per token as Triton kernels; see `triton_tokens`, which calls them.

PyTorch starts a kernel for each elementary operation, hundreds for a chunk of tokens; here a loss takes one or two.
The formulas are those of `token_rows`, `cross_entropy`, `evidential_tokens` and `dirichlet`, in float64 as there: a
Python number arrives as float32 unless its argument says otherwise (and, in the oldest Triton that is supported, even
then: 6e-8 of it). A program takes `BLOCK` tokens. Columns of `table` are those of `triton_tokens.COLUMNS`.
"""

import triton
import triton.language as tl

_TABLE = tl.constexpr(10)
_HEAD = tl.constexpr(6)  # numbers of a token in `record`, before four for each of its labels
_HALF_LOG_TAU = tl.constexpr(0.9189385332046727)  # ln(2 pi) / 2
_LOG_16 = tl.constexpr(2.772588722239781)


@triton.jit
def _log_sum(a, b):
    """ln(exp(a) + exp(b)); NaN stays NaN."""
    top = tl.where(a > b, a, b)
    gap = tl.where(a == b, 0.0, tl.where(a > b, b - a, a - b))
    y = tl.exp(gap)
    u = 1.0 + y  # and what was lost of y is made good by the quotient
    return top + tl.where(u == 1.0, y, tl.log(u) * (y / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _gammas(x):
    """ln Gamma(x), digamma(x), trigamma(x) for x in [1, 22]: Stirling's series at x + 15, and fifteen steps back."""
    product, inverses, squares = x, 1.0 / x, 1.0 / (x * x)
    for k in tl.static_range(1, 15):
        inverse = 1.0 / (x + k)
        product *= x + k
        inverses += inverse
        squares += inverse * inverse
    y = x + 15.0
    log_y, w = tl.log(y), 1.0 / y
    s = w * w
    gamma = 1.0 / 12 + s * (-1.0 / 360 + s * (1.0 / 1260 + s * (-1.0 / 1680 + s * (1.0 / 1188))))
    psi = 1.0 / 12 + s * (-1.0 / 120 + s * (1.0 / 252 + s * (-1.0 / 240 + s * (1.0 / 132))))
    slope = 1.0 / 6 + s * (-1.0 / 30 + s * (1.0 / 42 + s * (-1.0 / 30 + s * (5.0 / 66))))
    log_gamma = (y - 0.5) * log_y - y + _HALF_LOG_TAU + w * gamma - tl.log(product)
    return log_gamma, log_y - 0.5 * w - s * psi - inverses, w + 0.5 * s + s * w * slope + squares


@triton.jit
def _class_term(log_e):
    """`dirichlet.class_term` of the evidence exp(log_e), and its slope in log_e."""
    e = tl.exp(tl.where(log_e > 3.0, 3.0, log_e))
    log_gamma, digamma, trigamma = _gammas(1.0 + e)
    w = tl.exp(-tl.where(log_e < 2.5, 2.5, log_e))
    s = w * w
    series = w * (1.0 / 6 + s * (-1.0 / 90 + s * (1.0 / 210 + s * (-1.0 / 210 + s * (5.0 / 594)))))
    change = w * (1.0 / 6 + s * (-1.0 / 30 + s * (1.0 / 42 + s * (-1.0 / 30 + s * (5.0 / 66)))))
    value = tl.where(log_e < _LOG_16, e * (digamma - 1.0) - log_gamma, 0.5 - _HALF_LOG_TAU - 0.5 * log_e - series)
    return value, tl.where(log_e < _LOG_16, e * (e * trigamma - 1.0), change - 0.5)


@triton.jit
def _strength_term(log_total, width, remainder, log_gamma, SMALL: tl.constexpr):
    """
    `dirichlet.kl_strength_term` of `width` classes, and its slope in `log_total`; `remainder` is that of Stirling's
    series at the width, `log_gamma` is ln Gamma(width), `SMALL` whether it is below 16.
    """
    k = width.to(tl.float64)
    log_k = tl.log(k)
    growth = _log_sum(log_total - log_k, tl.zeros_like(log_total))
    rise = 1.0 / (1.0 + tl.exp(log_k - log_total))
    log_s = growth + log_k
    w = tl.exp(-tl.where(log_s < 2.5, 2.5, log_s))
    s = w * w
    odd = w * (1.0 / 6 + s * (-1.0 / 90 + s * (1.0 / 210 + s * (-1.0 / 210 + s * (5.0 / 594)))))
    even = s * (1.0 / 12 + s * (-1.0 / 120 + s * (1.0 / 252 + s * (-1.0 / 240 + s * (1.0 / 132)))))
    bend = w * (1.0 / 6 + s * (-1.0 / 30 + s * (1.0 / 42 + s * (-1.0 / 30 + s * (5.0 / 66)))))
    value = (k - 0.5) * growth + 0.5 - 0.5 * k * w + (odd - k * even) - remainder
    slope = rise * (k - 0.5 + 0.5 * k * w + (k * w - 1.0) * bend)
    if SMALL:
        e = tl.exp(tl.where(log_total > 3.0, 3.0, log_total))
        strength = tl.where(k + e > 16.0, 16.0, k + e)
        of_strength, digamma, trigamma = _gammas(strength)
        value = tl.where(k + e < 16.0, of_strength - log_gamma + e * (1.0 - digamma), value)
        slope = tl.where(k + e < 16.0, e * (1.0 - e * trigamma), slope)
    return value, slope


@triton.jit
def token_statistics(
    targets, tops, first, sums, table, is_top1, count, offset: tl.float64, RIVAL: tl.constexpr, BLOCK: tl.constexpr
):
    """`TokenRows` and its properties, of targets `(n,)`, tops `(n,)`, first `(n,)` and sums `(n, 3)`."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    target = tl.load(targets + i, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
    rest_max = tl.load(tops + i, mask=inside, other=0.0).to(tl.float64)
    at_first = tl.load(first + i, mask=inside, other=0) != 0
    tl.store(is_top1 + i, (target > rest_max) | ((target == rest_max) & at_first), mask=inside)
    target, rest_max, nothing = target + offset, rest_max + offset, tl.zeros_like(target)
    without_rival = tl.load(sums + i * 3, mask=inside, other=1.0)
    rest_sum = without_rival
    if RIVAL:
        rest_sum += 1.0
    log_sum = tl.log(rest_sum)
    log_prob = -_log_sum(rest_max + log_sum - target, nothing)
    log_rest_prob = -_log_sum(target - (rest_max + log_sum), nothing)
    rest_entropy = log_sum - tl.load(sums + i * 3 + 1, mask=inside, other=0.0) / rest_sum
    rest_entropy = tl.where(rest_entropy < 0.0, 0.0, rest_entropy)
    log_top = log_rest_prob - log_sum
    row = table + i * _TABLE
    tl.store(row, target, mask=inside)
    tl.store(row + 1, rest_max, mask=inside)
    tl.store(row + 2, rest_sum, mask=inside)
    tl.store(row + 3, without_rival, mask=inside)
    tl.store(row + 4, tl.load(sums + i * 3 + 2, mask=inside, other=0.0), mask=inside)
    tl.store(row + 5, log_prob, mask=inside)
    tl.store(row + 6, log_rest_prob, mask=inside)
    tl.store(row + 7, rest_entropy, mask=inside)
    tl.store(
        row + 8, tl.exp(log_rest_prob) * (rest_entropy - log_rest_prob) - tl.exp(log_prob) * log_prob, mask=inside
    )
    tl.store(row + 9, tl.exp(tl.where(log_prob > log_top, log_prob, log_top)), mask=inside)


@triton.jit(do_not_specialize=["skipped", "count", "supervisors"])
def label_probs(
    table, starts, stops, segments, cut_totals, logps, weights, divisors, probs, means, skipped, count, supervisors,
    SPLIT: tl.constexpr, CUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """
    `heads.tokens.Tokens.label_probs` of `count` tokens after those `skipped`: probs `(n, supervisors)`, means `(n,)`.
    One program per token adds up its unit, which goes from starts to stops, in the order of its tokens.
    """
    i = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(starts + i) - skipped, tl.load(stops + i) - skipped
    start, stop = tl.where(start < 0, 0, start), tl.where(stop > count, count, stop)
    sign = 1.0 if SPLIT == "eq8" else -1.0 if SPLIT == "confidence" else 0.0
    total, mean = tl.zeros([], tl.float64), tl.zeros([], tl.float64)
    for block in range(start, stop, BLOCK):
        j = block + tl.arange(0, BLOCK)
        masses = tl.exp(sign * tl.load(table + j * _TABLE + 9, mask=j < stop, other=0.0))
        total += tl.sum(tl.where(j < stop, masses, 0.0), 0)
    if CUT:
        known = tl.load(cut_totals + tl.load(segments + i))
        total = tl.where(known > 0.0, known, total)
    share = tl.exp(sign * tl.load(table + i * _TABLE + 9)) / total
    for s in range(supervisors):
        logp = tl.load(logps + i * supervisors + s).to(tl.float64)
        logp = tl.log(share) + logp if SPLIT == "eq8" else share * logp
        prob = tl.exp(tl.where(logp > 0.0, 0.0, logp))
        tl.store(probs + i * supervisors + s, prob)
        mean += tl.load(weights + i * supervisors + s) * prob
    tl.store(means + i, mean / tl.load(divisors + i))


@triton.jit(do_not_specialize=["count", "labels", "own"])
def soft_label_tokens(
    table, is_top1, scales, probs, loss, factors, values, count, labels, own,
    SOFT: tl.constexpr, RIVAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """
    `NaiveLoss.token_form`: loss `(n,)`, factors `(n,)` of the exponentials, and values `(n, 1 or 2)` at the emitted
    token and the rival; from scales and probs `(n, labels)`, of which `own` is the student's own.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    row = table + i * _TABLE
    rest_sum = tl.load(row + 2, mask=inside, other=1.0)
    log_p, log_r = tl.load(row + 5, mask=inside, other=0.0), tl.load(row + 6, mask=inside, other=0.0)
    rest_entropy = tl.load(row + 7, mask=inside, other=0.0)
    top1 = tl.load(is_top1 + i, mask=inside, other=0) != 0
    others, log_rival = tl.exp(log_r), log_r - tl.log(rest_sum)
    log_top = tl.where(log_p > log_rival, log_p, log_rival)
    value, share = tl.zeros_like(log_p), tl.zeros_like(log_p)
    at_target, at_rival = tl.zeros_like(log_p), tl.zeros_like(log_p)
    for label in range(labels):
        scale = tl.load(scales + i * labels + label, mask=inside, other=0.0)
        missing = tl.zeros_like(scale)
        if SOFT:
            missing = 1.0 - tl.load(probs + i * labels + label, mask=inside, other=1.0)
        elsewhere = tl.where(top1, 0.0, scale)
        gap = scale * (others - missing)
        if label == own:
            value -= scale * log_top
            share += scale * others
            at_target += elsewhere * tl.exp(log_p) - (scale - elsewhere) * others
            at_rival -= elsewhere
        else:
            value -= scale * ((1.0 - missing) * log_p + missing * (log_r - rest_entropy))
            share += gap
            at_target -= gap
    tl.store(loss + i, value, mask=inside)
    tl.store(factors + i, (share / rest_sum).to(tl.float32), mask=inside)
    if RIVAL:
        tl.store(values + i * 2, at_target.to(tl.float32), mask=inside)
        tl.store(values + i * 2 + 1, at_rival.to(tl.float32), mask=inside)
    else:
        tl.store(values + i, at_target.to(tl.float32), mask=inside)


@triton.jit
def _divergence(
    target, rest_max, keep_target, keep_rival, log_total, elsewhere, width, remainder, log_gamma,
    RIVAL: tl.constexpr, SMALL: tl.constexpr,
):  # fmt: skip
    """
    Of one label: F(E), and c(e~) of the tokens treated apart; F'(E); and the divergence's gradient at these tokens,
    the emitted one and the rival, which counts for nothing where the label names it.
    """
    strength, pull = _strength_term(log_total, width, remainder, log_gamma, SMALL)
    log_kept = target + tl.log(keep_target)
    log_kept = tl.where(log_kept < -700.0, -700.0, log_kept)
    term, slope = _class_term(log_kept)
    at_target = slope + pull * tl.exp(log_kept - log_total)
    strength, at_rival = strength + term, tl.zeros_like(target)
    if RIVAL:
        log_kept = rest_max + tl.log(tl.where(elsewhere, 1.0, keep_rival))
        log_kept = tl.where(log_kept < -700.0, -700.0, log_kept)
        term, slope = _class_term(log_kept)
        strength += tl.where(elsewhere, 0.0, term)
        at_rival = tl.where(elsewhere, 0.0, slope + pull * tl.exp(log_kept - log_total))
    return strength, pull * tl.exp(-log_total), at_target, at_rival


@triton.jit
def _kept(row, inside, prob, elsewhere, own_here, SOFT: tl.constexpr):
    """1 - y of the emitted token and of the rival, and the logarithm of all kept evidence; see `evidential_tokens`."""
    target, rest_max = tl.load(row, mask=inside, other=0.0), tl.load(row + 1, mask=inside, other=0.0)
    rest_sum, without_rival = tl.load(row + 2, mask=inside, other=1.0), tl.load(row + 3, mask=inside, other=1.0)
    keep_target = tl.where(elsewhere, 1.0, 0.0).to(tl.float64)
    keep_rival = 1.0 - keep_target
    log_total = _log_sum(rest_max + tl.log(without_rival), target)
    log_total = tl.where(elsewhere, log_total, rest_max + tl.log(rest_sum))
    if SOFT:
        missing = 1.0 - prob
        of_rival = prob + missing * without_rival / rest_sum
        others = without_rival - missing * tl.load(row + 4, mask=inside, other=0.0) / rest_sum
        of_label = _log_sum(rest_max + tl.log(others + of_rival), tl.log(missing) + target)
        keep_target = tl.where(own_here, keep_target, missing)
        keep_rival = tl.where(own_here, keep_rival, of_rival)
        log_total = tl.where(own_here, log_total, of_label)
    return keep_target, keep_rival, tl.where(log_total < -700.0, -700.0, log_total)


@triton.jit
def _store_columns(columns, weight, pull, inside):
    """As `evidential_parts.Divergences.columns`."""
    tl.store(columns, weight.to(tl.float32), mask=inside)
    tl.store(columns + 1, (pull - weight).to(tl.float32), mask=inside)
    tl.store(columns + 2, pull.to(tl.float32), mask=inside)


@triton.jit
def _likelihood(
    row, top1, scales, probs, record, shares, inside, width, labels, groups, own, SOFT: tl.constexpr
):  # fmt: skip
    """The expected cross-entropy: its loss, and its gradient at the tokens apart; what the pass takes of it."""
    target, rest_max = tl.load(row, mask=inside, other=0.0), tl.load(row + 1, mask=inside, other=0.0)
    nothing, log_rest = tl.zeros_like(target), rest_max + tl.log(tl.load(row + 2, mask=inside, other=1.0))
    log_strength = _log_sum(_log_sum(log_rest, target), nothing + tl.log(width.to(tl.float64)))
    per_evidence = tl.exp(-tl.where(log_rest < -80.0, -80.0, log_rest))
    total, value, mass, at_target, at_rival = nothing, nothing, nothing, nothing, nothing
    for label in range(labels):
        scale, prob = tl.load(scales + label, mask=inside, other=0.0), nothing + 1.0
        own_here = (nothing + label) == own
        if SOFT:
            prob = tl.where(own_here, 1.0, tl.load(probs + label, mask=inside, other=1.0))
        keep_target, keep_rival, _ = _kept(row, inside, prob, own_here & (top1 == 0), own_here, SOFT)
        total += scale
        value -= scale * prob * _log_sum(tl.where(own_here & (rest_max > target), rest_max, target), nothing)
        mass += scale * (1.0 - prob) * per_evidence
        at_target += scale * (tl.exp(target - log_strength) - (1.0 - keep_target) / (1.0 + tl.exp(-target)))
        at_rival += scale * (tl.exp(rest_max - log_strength) - (1.0 - keep_rival) / (1.0 + tl.exp(-rest_max)))
    share = total * tl.exp(-log_strength)
    tl.store(record, value + total * log_strength, mask=inside)
    tl.store(record + 1, at_target, mask=inside)
    tl.store(record + 2, at_rival, mask=inside)
    tl.store(record + 3, mass, mask=inside)
    tl.store(record + 4, tl.exp(rest_max) * _log_sum(rest_max, nothing), mask=inside)
    alone = share
    if not SOFT:
        alone = tl.where(nothing + groups > 0.0, 0.0, share)
    tl.store(shares, alone.to(tl.float32), mask=inside)
    tl.store(shares + 1, (-mass).to(tl.float32), mask=inside)
    return share, per_evidence


@triton.jit
def _divergences(
    row, top1, scales, probs, record, keeps, columns, near, inside, share, per_evidence, width, labels, own,
    remainder, log_gamma, coefficient, clamp, SOFT: tl.constexpr, RIVAL: tl.constexpr, SMALL: tl.constexpr,
):  # fmt: skip
    """Likewise of the divergences, and whether one may reach the clamp: its sum over the vocabulary is at most 0."""
    target, rest_max = tl.load(row, mask=inside, other=0.0), tl.load(row + 1, mask=inside, other=0.0)
    nothing = tl.zeros_like(target)
    weights, pulls, reaches = nothing, share, nothing > 1.0
    for label in range(labels):
        weight, prob = coefficient * tl.load(scales + label, mask=inside, other=0.0), nothing + 1.0
        own_here = (nothing + label) == own
        elsewhere = own_here & (top1 == 0)
        if SOFT:
            prob = tl.where(own_here, 1.0, tl.load(probs + label, mask=inside, other=1.0))
        keep_target, keep_rival, log_total = _kept(row, inside, prob, elsewhere, own_here, SOFT)
        strength, slope, of_target, of_rival = _divergence(
            target, rest_max, keep_target, keep_rival, log_total, elsewhere, width, remainder, log_gamma, RIVAL, SMALL
        )
        of_label = record + _HEAD + 4 * label
        tl.store(of_label, strength, mask=inside)
        tl.store(of_label + 1, slope, mask=inside)
        tl.store(of_label + 2, of_target, mask=inside)
        tl.store(of_label + 3, of_rival, mask=inside)
        reaches = reaches | (coefficient * strength > clamp)
        if SOFT:
            tl.store(keeps + label, ((prob - 1.0) * per_evidence).to(tl.float32), mask=inside)
            _store_columns(columns + 3 * label, weight, weight * slope, inside)
        weights += weight
        pulls += weight * slope
    tl.store(near, reaches.to(tl.int32), mask=inside)
    if not SOFT:
        tl.store(record + 5, share, mask=inside)
        tl.store(keeps, nothing.to(tl.float32), mask=inside)
        _store_columns(columns, weights, pulls, inside)


@triton.jit
def _settle(
    scales, record, columns, sums, loss, values, inside, labels, groups, coefficient, clamp,
    SOFT: tl.constexpr, RIVAL: tl.constexpr,
):  # fmt: skip
    """The loss, the gradient at the tokens apart, and the columns of a second pass, by the sums of the first one."""
    value = tl.load(record, mask=inside, other=0.0)
    at_target, at_rival = tl.load(record + 1, mask=inside, other=0.0), tl.load(record + 2, mask=inside, other=0.0)
    if SOFT:
        dots = tl.load(sums + groups, mask=inside, other=0.0) + tl.load(record + 4, mask=inside, other=0.0)
        value -= tl.load(record + 3, mask=inside, other=0.0) * dots
    if groups > 0:
        weights, pulls = tl.zeros_like(value), tl.zeros_like(value)
        if not SOFT:
            pulls = tl.load(record + 5, mask=inside, other=0.0)
        for label in range(labels):
            scale, of_label = tl.load(scales + label, mask=inside, other=0.0), record + _HEAD + 4 * label
            group = 0
            if SOFT:
                group = label
            total = tl.load(sums + group, mask=inside, other=0.0) + tl.load(of_label, mask=inside, other=0.0)
            nats = coefficient * total
            weight = tl.where(nats > clamp, 0.0, coefficient * scale)
            value += scale * tl.where(nats > clamp, clamp, nats)
            at_target += weight * tl.load(of_label + 2, mask=inside, other=0.0)
            at_rival += weight * tl.load(of_label + 3, mask=inside, other=0.0)
            pull = weight * tl.load(of_label + 1, mask=inside, other=0.0)
            if SOFT:
                _store_columns(columns + 3 * label, weight, pull, inside)
            weights += weight
            pulls += pull
        if not SOFT:
            _store_columns(columns, weights, pulls, inside)
    tl.store(loss, value, mask=inside)
    tl.store(values, at_target.to(tl.float32), mask=inside)
    if RIVAL:
        tl.store(values + 1, at_rival.to(tl.float32), mask=inside)


# one program before and after the pass over the vocabulary: where the first has run, the second does, too
@triton.jit(do_not_specialize=["count", "width", "labels", "groups", "own", "after"])
def evidential_tokens(
    table, is_top1, scales, probs, record, keeps, columns, shares, near, sums, loss, values,
    count, width, labels, groups, own, after,
    remainder: tl.float64, log_gamma: tl.float64, coefficient: tl.float64, clamp: tl.float64,
    SOFT: tl.constexpr, RIVAL: tl.constexpr, SMALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """
    `evidential_tokens.evidential_token_form` around `triton_kernels.evidential_rows`, whose arguments keeps, columns,
    shares, near and sums are; the rest is in `triton_tokens.evidential_numbers`.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    row, record = table + i * _TABLE, record + i * (_HEAD + 4 * labels)
    scales, probs, columns = scales + i * labels, probs + i * labels, columns + i * groups * 3
    if RIVAL:
        values += i * 2
    else:
        values += i
    if after != 0:
        _settle(
            scales, record, columns, sums + i * (groups + 1), loss + i, values, inside, labels, groups, coefficient,
            clamp, SOFT, RIVAL,
        )  # fmt: skip
    else:
        top1 = tl.load(is_top1 + i, mask=inside, other=0)
        share, per_evidence = _likelihood(
            row, top1, scales, probs, record, shares + i * 2, inside, width, labels, groups, own, SOFT
        )
        if groups > 0:
            _divergences(
                row, top1, scales, probs, record, keeps + i * groups, columns, near + i, inside, share, per_evidence,
                width, labels, own, remainder, log_gamma, coefficient, clamp, SOFT, RIVAL, SMALL,
            )  # fmt: skip
        else:
            tl.store(near + i, 0, mask=inside)
