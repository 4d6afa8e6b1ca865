"""Where the time of the output layer goes on one chunk of tokens: three matrix products, and the passes over logits.

    OMP_NUM_THREADS=1 python benchmarks/logit_passes.py

Milliseconds of CPU time of this thread, median [min, max] over rounds. `split` reduces the logits to row statistics,
`closed form` turns them into the loss and its gradient; their sum over that of the products is what a loss adds to the
floor. Below, single calls on a block of logits that fits a second-level cache, in nanoseconds per logit: what a pass
costs at best, of which the evidential loss makes about 25.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.vocabulary.token_rows import TokenLabel, split_rows

EVIDENTIAL = EvidentialLoss(kl_coef=1e-4, kl_clamp=None)
LOSSES = {
    "soft labels": (NaiveLoss(), False),
    "soft labels + aux": (AuxiliaryConfidence(NaiveLoss(), 0.25), False),
    "evidential": (EVIDENTIAL, True),
    "evidential + aux": (AuxiliaryConfidence(EVIDENTIAL, 0.25), True),
    "evidential, soft": (EVIDENTIAL, False),
    "evidential, soft + aux": (AuxiliaryConfidence(EVIDENTIAL, 0.25), False),
}


def clock(*calls: Callable[[], object]) -> list[float]:
    """Milliseconds of this thread for each call."""
    marks = [time.thread_time()]
    for call in calls:
        call()
        marks.append(time.thread_time())
    return [1e3 * (b - a) for a, b in zip(marks, marks[1:], strict=False)]


def show(name: str, rounds: list[list[float]], floor: float | None = None) -> float:
    cells = [f"{statistics.median(v):.1f} [{min(v):.1f}, {max(v):.1f}]" for v in zip(*rounds, strict=True)]
    total = statistics.median([sum(r) for r in rounds])
    share = "" if floor is None else f"{total / floor:.3f}"
    print(f"| {name} | {' | '.join(cells)} | {total:.1f} | {share} |", flush=True)
    return total


def products(logits: torch.Tensor, width: int) -> tuple[Callable[[], object], ...]:
    n, vocabulary = logits.shape
    hidden, weight = torch.randn(n, width), torch.randn(vocabulary, width)
    grad_h, grad_w = torch.empty_like(hidden), torch.zeros_like(weight)
    return (
        lambda: torch.mm(hidden, weight.t(), out=logits),
        lambda: torch.mm(logits, weight, out=grad_h),
        lambda: grad_w.addmm_(logits.t(), hidden),
    )


def passes(name: str, source: torch.Tensor, logits: torch.Tensor, cpu_kernels: bool) -> list[float]:
    loss, hard = LOSSES[name]
    n, vocabulary = logits.shape
    ids, ones = torch.randint(vocabulary, (n,)), torch.ones(n, dtype=torch.float64)
    label = TokenLabel(ones, None if hard else torch.rand(n, dtype=torch.float64))
    logits.copy_(source)
    found = []
    return clock(
        lambda: found.append(split_rows(logits, ids, loss.token_form_plan(hard, logits.dtype), cpu_kernels)),
        lambda: loss.token_form(found[0], [label], 0.8, True),
    )


def single_calls(vocabulary: int, rounds: int) -> None:
    block = torch.randn(max(1, 65_536 // vocabulary), vocabulary)
    x, out, zero = torch.sigmoid(block), torch.empty_like(block), torch.tensor(0.3)
    calls = {
        "maximum": lambda: torch.amax(block, -1), "sum": lambda: torch.sum(x, -1),
        "product with a constant": lambda: torch.mul(block, 0.5, out=out),
        "fused multiply-add": lambda: torch.addcmul(zero, x, block, out=out),
        "quotient": lambda: torch.div(block, x, out=out), "exp": lambda: torch.exp(block, out=out),
        "log1p": lambda: torch.log1p(x, out=out), "dot product": lambda: torch.linalg.vecdot(block, x),
        "lgamma": lambda: torch.lgamma(x, out=out), "digamma": lambda: torch.digamma(x, out=out),
    }  # fmt: skip
    print("\n| single call | ns per logit |\n|---|---|")
    for name, call in calls.items():
        found = [sum(clock(*[call] * 50)) / 50 for _ in range(rounds)]
        print(f"| {name} | {statistics.median(found) * 1e6 / block.numel():.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256, help="of one chunk")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-kernels", action="store_true", help="the losses' compiled passes")
    arguments = parser.parse_args()
    print(f"{vars(arguments)}, float32, torch {torch.__version__}, {torch.get_num_threads()} thread(s)\n")
    torch.manual_seed(0)
    source = 3 * torch.randn(arguments.tokens, arguments.vocabulary)
    logits = torch.empty_like(source)
    calls = products(logits, arguments.hidden)
    clock(*calls)
    print("| products, ms | logits | hidden states' gradient | weight's gradient | sum | |\n|---|---|---|---|---|---|")
    floor = show("float32", [clock(*calls) for _ in range(arguments.rounds)])
    print("\n| loss, ms | split | closed form | sum | ÷ products |\n|---|---|---|---|---|")
    found = {name: [] for name in LOSSES}
    for number in range(arguments.rounds + 1):
        for name in list(LOSSES)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(passes(name, source, logits, arguments.cpu_kernels))
    for name, rounds in found.items():
        show(name, rounds[1:], floor)
    single_calls(arguments.vocabulary, arguments.rounds)


if __name__ == "__main__":
    main()
