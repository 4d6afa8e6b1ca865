"""The dense passes of token losses over rows of logits as Triton kernels; see `triton_passes`, which calls them.

The formulas are those of `row_kernels.cpp`, with its polynomials. Rows are read in blocks of columns, once each: one
program per row where sums leave the pass, so that they come to the same bits every time; offsets are int64, since
`(n, V)` passes 2^31 elements. Logits of any float type are read as float32; sums leave in float64.
"""

import triton
import triton.language as tl

_NOWHERE = tl.constexpr(-1e30)  # as row_reductions.NOWHERE
_BELOW = tl.constexpr(-2e30)  # below any logit, and finite: the first block's largest minus it is a number


@triton.jit
def _exponential(z):
    """exp for at most 88, to the last digit or two: `tl.exp` loses a digit at 38. 0 below -87; NaN stays NaN."""
    held = tl.where(z < -87.0, -87.0, z)
    k = tl.floor(held * 1.44269504 + 0.5)
    f = (held - k * 0.693359375) + k * 2.12194440e-4
    tail = 1.9875691500e-4
    tail = tail * f + 1.3981999507e-3
    tail = tail * f + 8.3334519073e-3
    tail = tail * f + 4.1665795894e-2
    tail = tail * f + 1.6666665459e-1
    tail = tail * f + 5.0000001201e-1
    power = ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(z < -87.0, 0.0, (tail * f * f + f + 1.0) * power)


@triton.jit
def _log_one_plus(d, q, x):
    """ln(d), d = 1 + e >= 1, given q = 1 / d and x = e / d: all digits of e where it is small."""
    exponent = d.to(tl.int32, bitcast=True) & 0x7F800000
    k = ((exponent >> 23) - 127).to(tl.float32)
    u = tl.where(k == 0.0, x, 1.0 - q * exponent.to(tl.float32, bitcast=True))
    s = 1.77561521530
    s = s * u - 2.55257487297
    s = s * u + 2.04670047760
    s = s * u - 0.63345885277
    s = s * u + 0.35335037112
    s = s * u + 0.17329362035
    s = s * u + 0.25216174126
    s = s * u + 0.33324539661
    s = s * u + 0.50000137091
    s = s * u + 1.0
    return k * 0.69314718056 + u * s


@triton.jit
def _class_term(x, log_d):
    """c(e) = x R(x) - ln(1 + e) / 2."""
    r = 0.00036623885
    r = r * x - 0.00070196157
    r = r * x + 0.00031545846
    r = r * x - 0.00073784211
    r = r * x - 0.00091098156
    r = r * x + 3.566857e-05
    r = r * x + 0.01022773422
    r = r * x + 0.07246715575
    r = r * x - 0.5
    return x * r - 0.5 * log_d


@triton.jit
def _bend(x):
    """n(x)."""
    n = -0.00431361608
    n = n * x + 0.01371040661
    n = n * x - 0.01157506462
    n = n * x + 0.00860679802
    n = n * x - 0.00680844905
    n = n * x - 0.03029438481
    n = n * x - 0.11425978691
    return n * x + 0.64493417740


@triton.jit
def reduce_rows(logits, tops, largest, sums, width, stride, RIVAL: tl.constexpr, BLOCK: tl.constexpr):
    """
    `row_reductions.Reduction` of `(n, V)` logits, which stay what they are: `tops` `(n,)` float32, `largest` `(n,)`
    int64, `sums` `(n, 3)` float64, without the rival where `RIVAL`. Minus infinity counts as "no logit".

    Two parts of a row with largest logits a >= b join as `sum_a + exp(b - a) sum_b`: nothing is subtracted, and the
    rival of the lesser part becomes one of the others.
    """
    row = tl.program_id(0).to(tl.int64)
    top = tl.full([], _BELOW, tl.float32)
    at = tl.zeros([], tl.int64)
    total = tl.zeros([], tl.float64)
    dot = tl.zeros([], tl.float64)
    squares = tl.zeros([], tl.float64)
    for start in range(0, width, BLOCK):
        j = start + tl.arange(0, BLOCK)
        inside = j < width
        z = tl.load(logits + row * stride + j, mask=inside, other=0.0).to(tl.float32)
        z = tl.where(z < _NOWHERE, _NOWHERE, z)
        found, where = tl.max(tl.where(inside, z, _BELOW), 0, return_indices=True, return_indices_tie_break_left=True)
        if RIVAL:
            inside = inside & (j != start + where)
        shifted = z - found
        rest = tl.where(inside, tl.exp(shifted), 0.0)
        of_block = tl.sum(rest.to(tl.float64), 0)
        dot_of_block = tl.sum(rest * shifted, 0).to(tl.float64)
        squares_of_block = tl.sum(rest * rest, 0).to(tl.float64)
        rises = found > top
        fall = -tl.abs(found - top)
        share, fall = tl.exp(fall).to(tl.float64), fall.to(tl.float64)
        joins = tl.where(rises, total, of_block)
        squares_join = tl.where(rises, squares, squares_of_block)
        if RIVAL:
            joins += 1.0
            squares_join += 1.0
        dot = tl.where(rises, dot_of_block, dot) + share * (tl.where(rises, dot, dot_of_block) + joins * fall)
        squares = tl.where(rises, squares_of_block, squares) + share * share * squares_join
        total = tl.where(rises, of_block, total) + share * joins
        at = tl.where(rises, start + where, at).to(tl.int64)
        top = tl.where(rises, found, top)
    tl.store(tops + row, top)
    tl.store(largest + row, at)
    tl.store(sums + row * 3, total)
    tl.store(sums + row * 3 + 1, dot)
    tl.store(sums + row * 3 + 2, squares)


@triton.jit
def scaled_exponentials(
    logits, out, tops, scales, ids, values, width, stride, out_stride, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    """`exp(z - top) scale`, and values added at ids, `(n, COLUMNS)`, to `out`, which may be the logits themselves."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = j < width
    z = tl.load(logits + row * stride + j, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.exp(z - tl.load(tops + row)) * tl.load(scales + row)
    for c in tl.static_range(COLUMNS):
        of_column = tl.load(values + row * COLUMNS + c)
        gradient += tl.where(j == tl.load(ids + row * COLUMNS + c), of_column, 0.0)
    tl.store(out + row * out_stride + j, gradient.to(out.dtype.element_ty), mask=inside)


# a loss that is evaluated first without and then with a gradient runs one and the same program
@triton.jit(do_not_specialize=["groups", "write"])
def evidential_rows(
    logits, out, keeps, columns, shares, near, sums, width, stride, out_stride, offset, groups, write,
    SOFT: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """
    `cpu_kernels.compiled_evidential_rows`: keeps `(n, groups)`, columns `(n, groups, 3)`, shares `(n, 2)`, near `(n,)`
    int32, sums `(n, groups + 1)`; `SLOTS` is a power of two from `groups` on. `out` may be the logits themselves.

    Rows that are near the clamp take turns: their sums by `write` 0 (no gradient) or 1 (that of all other rows), and
    their gradient, with the columns that the sums have left, by `write` 2, which passes over them alone.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    totals = tl.zeros([SLOTS], tl.float64)
    dots = tl.zeros([], tl.float64)
    share, mass = tl.load(shares + row * 2), tl.load(shares + row * 2 + 1)
    waits = tl.load(near + row) != 0
    stop = tl.where((write == 2) & (waits == 0), 0, width)
    written = tl.where((write == 2) | ((write == 1) & (waits == 0)), width, 0)
    for start in range(0, stop, BLOCK):
        j = start + tl.arange(0, BLOCK)
        inside = j < width
        z = tl.load(logits + row * stride + j, mask=inside, other=_NOWHERE).to(tl.float32)
        evidence = _exponential(z + offset)
        gradient = evidence * share
        if SOFT:
            d = 1.0 + evidence
            q = 1.0 / d
            x = evidence * q
            dots += tl.sum((evidence * _log_one_plus(d, q, x)).to(tl.float64), 0)
            gradient += evidence * mass * x
        for g in range(groups):
            keep = tl.load(keeps + row * groups + g)
            column = columns + (row * groups + g) * 3
            weight, lift, pull = tl.load(column), tl.load(column + 1), tl.load(column + 2)
            e = evidence * (1.0 + keep * evidence)
            d = 1.0 + e
            q = 1.0 / d
            x = e * q
            of_block = tl.sum(_class_term(x, _log_one_plus(d, q, x)).to(tl.float64), 0)
            totals += tl.where(slot == g, of_block, 0.0)
            gradient += x * (weight * x * _bend(x) + lift + pull * e)
        tl.store(out + row * out_stride + j, gradient.to(out.dtype.element_ty), mask=j < written)
    if write != 2:
        tl.store(sums + row * (groups + 1) + slot, totals, mask=slot < groups)
        tl.store(sums + row * (groups + 1) + groups, dots)
