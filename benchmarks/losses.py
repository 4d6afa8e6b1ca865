"""Cost of token losses over a vocabulary, one table per vocabulary, and the whole training step, in one run:

    OMP_NUM_THREADS=1 python benchmarks/losses.py

Rows share the same random hidden states, weight and labels. Time is that of forward + backward of the output layer, as
the median over rounds of `process_time` divided by that of the floor (three matrix products in chunks, the least any
gradient needs) in the same round; rounds alternate in direction. Memory is the peak of the process above its inputs,
each row in a process of its own.

A row that materialises logits runs on fewer tokens where `--limit` GiB would not hold its temporaries; its number of
tokens is in the table, its divisor is the floor of as many tokens, and its memory is that of as many. The training
step is `training_step.py` with the arguments of `--step`.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from process_memory import mebibytes
from torch import Tensor

from trl_weaks.heads.chunked import ChunkedHeadLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.request import WeakHeadRequest
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss

CHUNK = 256
# Tensors of the size of the logits that stand beside each other, as measured at a vocabulary of 32,000.
COPIES = {
    "full logits, cross-entropy": 3,
    "naive soft labels": 5,
    "naive evidential": 10,
    "naive evidential + aux": 17,
    "naive evidential, soft": 11,
}
FLOOR = "floor: three matmuls"
PROGRESS, GAMMA, KL_COEF = 0.8, 0.25, 1e-4


class Generic:
    """A loss without a closed form: the squared error of the probabilities."""

    linear_in_targets = False

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return (torch.softmax(logits, -1) - targets).square().sum(-1)


class Problem:
    """Random inputs of one shape, and every way to run them; each method is one forward + backward."""

    def __init__(self, tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype) -> None:
        g = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(tokens, hidden, generator=g).to(dtype).requires_grad_()
        self.weight = (torch.randn(vocabulary, hidden, generator=g) * 3 / math.sqrt(hidden)).to(dtype).requires_grad_()
        self.ids = torch.randint(vocabulary, (tokens,), generator=g)
        self.logps = torch.log(torch.rand(tokens, 1, generator=g))
        self.segments = torch.arange(tokens) // 3

    def floor(self) -> None:
        """z = h W', dh = z W, dW += z' h: what no gradient can do without."""
        h, w = self.hidden.detach(), self.weight.detach()
        grad_h, grad_w = torch.empty_like(h), torch.zeros_like(w)
        buffer = torch.empty(CHUNK, len(w), dtype=h.dtype)
        for start in range(0, len(h), CHUNK):
            part = h[start : start + CHUNK]
            z = torch.mm(part, w.t(), out=buffer[: len(part)])
            torch.mm(z, w, out=grad_h[start : start + CHUNK])
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

    def ours(self, loss, hard: bool = False) -> None:
        weights = torch.ones(len(self.ids), 1)
        tokens = Tokens(self.ids, weights, self.segments, None if hard else self.logps, "confidence")
        request = WeakHeadRequest(loss, PROGRESS, weights, chunk_size=CHUNK)
        ChunkedHeadLoss.apply(self.hidden, self.weight, None, tokens, request, LogitTransform())[0].backward()


def ways(problem: Problem | None) -> dict:
    """Name -> one forward + backward; of no problem, for the names alone, as the rows of `Problem` itself."""
    problem = Problem if problem is None else problem
    evidential = EvidentialLoss(kl_coef=KL_COEF, kl_clamp=None)
    return {
        FLOOR: problem.floor,
        "full logits, cross-entropy": problem.full_cross_entropy,
        "TRL fused head": problem.trl_fused_head,
        "naive soft labels": problem.naive_soft,
        "naive evidential": problem.naive_evidential,
        "naive evidential + aux": lambda: problem.naive_evidential(gamma=GAMMA),
        "naive evidential, soft": lambda: problem.naive_evidential(hard=False),
        "ours: soft labels": lambda: problem.ours(NaiveLoss()),
        "ours: soft labels + aux": lambda: problem.ours(AuxiliaryConfidence(NaiveLoss(), GAMMA)),
        "ours: evidential": lambda: problem.ours(evidential, hard=True),
        "ours: evidential + aux": lambda: problem.ours(AuxiliaryConfidence(evidential, GAMMA), hard=True),
        "ours: evidential, soft": lambda: problem.ours(evidential),
        "ours: evidential, soft + aux": lambda: problem.ours(AuxiliaryConfidence(evidential, GAMMA)),
        "ours: a generic callable": lambda: problem.ours(Generic()),
    }


def tokens_of(name: str, arguments: argparse.Namespace) -> int:
    """As many as were asked for, or the largest halving of it that stays below the limit."""
    tokens = arguments.tokens
    while COPIES.get(name, 0) * tokens * arguments.vocabulary * 4 > arguments.limit * 2**30 and tokens > CHUNK:
        tokens //= 2
    return tokens


def time_once(problem: Problem, way) -> float:
    problem.hidden.grad = problem.weight.grad = None
    start = time.process_time()
    way()
    return time.process_time() - start


def peak_memory(arguments: argparse.Namespace) -> None:
    """Child process: print MiB at the peak of one row above its inputs."""
    problem = problem_of(arguments, tokens_of(arguments.memory_of, arguments))
    # the first matrix product allocates the library's own workspace
    torch.randn(256, 256) @ torch.randn(256, 256)
    way = ways(problem)[arguments.memory_of]
    if arguments.memory_of == "TRL fused head":
        import trl.kernels.chunked_logprob  # noqa: F401
    before = mebibytes("VmRSS")
    way()
    print(mebibytes("VmHWM") - before)


def problem_of(arguments: argparse.Namespace, tokens: int) -> Problem:
    return Problem(tokens, arguments.hidden, arguments.vocabulary, getattr(torch, arguments.dtype))


def measure_times(arguments: argparse.Namespace, names: list[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> seconds of each round, and those divided by the floor's, of as many tokens, in the same round."""
    tokens = {name: tokens_of(name, arguments) for name in names}
    problems = {t: problem_of(arguments, t) for t in set(tokens.values())}
    runs = [(FLOOR, t) for t in problems] + [(name, t) for name, t in tokens.items() if name != FLOOR]
    small = problem_of(arguments, CHUNK)
    for name in names:  # libraries are loaded and memory is mapped before the first round
        time_once(small, ways(small)[name])
    del small
    seconds = {run: [] for run in runs}
    for number in range(arguments.rounds):
        for name, t in runs[:: 1 if number % 2 == 0 else -1]:
            seconds[name, t].append(time_once(problems[t], ways(problems[t])[name]))
            problems[t].hidden.grad = problems[t].weight.grad = None
    floors = {name: seconds[FLOOR, t] for name, t in tokens.items()}
    return {
        name: (seconds[name, t], [s / f for s, f in zip(seconds[name, t], floors[name], strict=True)])
        for name, t in tokens.items()
    }


def measure_memory(arguments: argparse.Namespace, name: str) -> float:
    given = {"tokens": arguments.tokens, "hidden": arguments.hidden, "vocabularies": arguments.vocabulary}
    given |= {"dtype": arguments.dtype, "limit": arguments.limit, "memory-of": name}
    options = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    done = subprocess.run([sys.executable, __file__, *options], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def table(arguments: argparse.Namespace) -> list[dict]:
    names = list(ways(None))
    if arguments.only:
        names = [n for n in names if n == FLOOR or any(part in n for part in arguments.only)]
    print(
        f"\nT {arguments.tokens}, H {arguments.hidden}, V {arguments.vocabulary}, {arguments.dtype}, chunks of "
        f"{CHUNK}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {arguments.rounds} rounds\n"
    )
    print("| row | tokens | seconds | ÷ floor | [min, max] | peak MiB |\n|---|---|---|---|---|---|", flush=True)
    rows, times = [], measure_times(arguments, names)
    for name, (seconds, ratios) in times.items():
        row = {"row": name, "vocabulary": arguments.vocabulary, "tokens": tokens_of(name, arguments)}
        row |= {"seconds": statistics.median(seconds), "ratio": statistics.median(ratios)}
        row |= {"low": min(ratios), "high": max(ratios)}
        row["mib"] = None if arguments.no_memory else measure_memory(arguments, name)
        rows.append(row)
        memory = "" if row["mib"] is None else f"{row['mib']:,.0f}"
        print(
            f"| {name} | {row['tokens']:,} | {row['seconds']:.2f} | {row['ratio']:.2f} | "
            f"{row['low']:.2f} to {row['high']:.2f} | {memory} |",
            flush=True,
        )
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048], help="one number, or one per vocabulary")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 152_000])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=8.0, help="GiB for the temporaries of a row")
    parser.add_argument("--only", nargs="*", help="rows whose name contains one of these; the floor always runs")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument(
        "--step", default="--shapes gpt2", help="arguments of training_step.py in one string; empty to leave it out"
    )
    parser.add_argument("--json", help="also write the tables here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(arguments.tokens) not in (1, len(arguments.vocabularies)):
        parser.error("--tokens takes one number, or as many as --vocabularies")
    return arguments


def main() -> None:
    arguments = parse()
    rows, tokens = [], arguments.tokens * (len(arguments.vocabularies) // len(arguments.tokens))
    for vocabulary, count in zip(arguments.vocabularies, tokens, strict=True):
        given = argparse.Namespace(**vars(arguments) | {"vocabulary": vocabulary, "tokens": count})
        if arguments.memory_of:
            return peak_memory(given)
        rows += table(given)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"settings": vars(arguments), "rows": rows}, file, indent=2)
    if arguments.step:
        import training_step

        print(f"\nWhole training step, {arguments.step}\n")
        training_step.main(shlex.split(arguments.step))


if __name__ == "__main__":
    main()
