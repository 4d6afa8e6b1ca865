"""The two functions of the evidence that a Dirichlet divergence needs for every class, without special functions.

Of one class with evidence e and x = e / (1 + e), `dirichlet.class_term` is c(e) = e digamma(1 + e) - lnG(1 + e) - e.
Its value and slope, freed of what makes them grow, are almost straight lines in x on [0, 1]:

    c(e) = -ln(1 + e) / 2 + x R(x)          R from -0.5 to 1/2 - ln(2 pi) / 2
    dc/de = -(1 - x) (1 - x n(x))           n from 0.645 to 0.5

The coefficients are our own minimax fits (Lawson iteration on 400 Chebyshev nodes, values in 40 digits) with a
relative error of 8e-7 (R, exact at 0) and 2e-6 (n). float64 takes the exact functions.
"""

import functools
import math

import torch
from torch import Tensor

from ...dirichlet import class_term
from .row_reductions import RunSums, dot

_R = (-0.5, 0.07248064829468047, 0.010080218630362587, 0.0005193086111318695, -0.0014736819868682906, -0.0005453475747)
_N = (
    0.6449352448033588,
    -0.11429437223788409,
    -0.030282960101064363,
    -0.00497902308213,
    -0.000110932208,
    0.00473295614,
)
_PAIRS = [0, 1, 4, 5, 8]  # x x, x x^2, x^2 x^2, x^2 x^3, x^3 x^3 among the nine products
_LARGEST_LOG = 85.0  # float32 ends at exp(88.7)


class Workspace:
    """
    Three planes of one block of classes, `(3, n, V)`, and the views of them that every block needs: to make a view
    takes as long as a pass over thousands of classes.

    Args:
        planes: `(3, n, V)`, of any content; a caller puts `x = e / (1 + e)` into `x`.
        largest: A bound of `ln(1 + e)`.
    """

    def __init__(self, planes: Tensor, largest: float) -> None:
        self.x, self.square, self.cube = planes
        self.powers = planes.transpose(0, 1)
        self.halves, width = [], planes.shape[-1]
        while width > 1 and 2 * largest <= _LARGEST_LOG:
            half = width // 2
            self.halves.append((half, self.square[:, :half], self.square[:, half : 2 * half], width % 2))
            width, largest = half, 2 * largest
        self.last = self.square[:, :width]


class Sums:
    """What sums over classes of c(e) are made of, collected block by block; `like` is the whole `(n, V)`."""

    def __init__(self, like: Tensor) -> None:
        self.exact = like.dtype == torch.float64
        self.logs, self.firsts = RunSums(like), RunSums(like)
        self.products = like.new_empty(len(like), 3, 3)

    def values(self, b: slice) -> Tensor:
        """Sum over classes of c(e), `(block,)` float64."""
        if self.exact:
            return self.logs.total(b)
        products = self.products[b].double().flatten(1)[:, _PAIRS]
        coefficients = torch.tensor(_R, dtype=torch.float64, device=products.device)
        linear = coefficients[0] * self.firsts.total(b) - 0.5 * self.logs.total(b)
        return linear + (products * coefficients[1:]).sum(-1)


def collect(e: Tensor, work: Workspace, sums: Sums, b: slice) -> Tensor:
    """Fill the sums of a block, and return `n(x)`, `(block, V)`; e is at most exp(40) in float32."""
    if sums.exact:
        with torch.enable_grad():
            log_e = e.clamp(min=1e-300).log().requires_grad_()
            value = class_term(log_e.clamp(max=5).exp(), log_e)
            (slope,) = torch.autograd.grad(value.sum(), log_e)
        sums.logs.collect(value.detach(), b)
        # below 1e-8 its value at 0 is as good, and the division is not
        return torch.where(work.x > 1e-8, (1 + slope / work.x) / work.x, math.pi**2 / 6 - 1)
    _collect_log1p(e, work, sums.logs, b)
    sums.firsts.collect(work.x, b)
    _products_of_powers(work, sums.products[b])
    return _horner(_N, work.x, out=work.square)


def _collect_log1p(e: Tensor, work: Workspace, logs: RunSums, rows: slice) -> None:
    """
    Sum over classes of `ln(1 + e)`.

    `(1 + a)(1 + b) = 1 + (a + b + ab)` leaves half as many logarithms to take, without a loss of digits, and does so
    again while no product can overflow.
    """
    spare, source = [], e
    for half, a, b, odd in work.halves:
        if odd:
            spare.append(source[:, 2 * half, None].log1p())
        kept = a
        if source is e:
            a, b = e[:, :half], e[:, half : 2 * half]
        torch.addcmul(a, a, b, out=kept).add_(b)
        source = work.square
    logs.collect(torch.log1p(work.last if work.halves else e, out=work.last), rows, *spare)


def _products_of_powers(work: Workspace, products: Tensor) -> None:
    """The products of x, x^2 and x^3 with each other, summed over classes, `(n, 3, 3)`."""
    torch.mul(work.x, work.x, out=work.square)
    torch.mul(work.x, work.square, out=work.cube)
    if products.device.type == "cpu":
        torch.bmm(work.powers, work.powers.transpose(1, 2), out=products)
    else:
        for pair in _PAIRS:
            products[:, pair // 3, pair % 3] = dot(work.powers[:, pair // 3], work.powers[:, pair % 3])


@functools.cache
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return torch.tensor(values, dtype=dtype, device=device).unbind()


def _horner(coefficients: tuple[float, ...], x: Tensor, out: Tensor) -> Tensor:
    constants = _constants(coefficients[:-1], x.dtype, x.device)
    out = torch.add(constants[-1], x, alpha=coefficients[-1], out=out)
    for constant in constants[-2::-1]:
        torch.addcmul(constant, out, x, out=out)
    return out
