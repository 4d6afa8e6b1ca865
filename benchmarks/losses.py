"""Cost of token losses over a vocabulary: time and peak memory of forward + backward of the output layer.

    python benchmarks/losses.py --tokens 2048 --hidden 1024 --vocabulary 32000 --rounds 5

Rows share the same random hidden states, weight and labels. Time is the median over rounds of `process_time` divided
by that of the floor in the same round (three matrix products in chunks, the least any gradient needs); rounds
alternate in direction. Memory is the peak of the process above its inputs, each row in a process of its own.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from trl_weaks.heads.chunked import ChunkedHeadLoss
from trl_weaks.heads.projection import LogitTransform
from trl_weaks.heads.request import WeakHeadRequest
from trl_weaks.heads.tokens import Tokens
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss

CHUNK = 256
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


def ways(problem: Problem) -> dict:
    evidential = EvidentialLoss(kl_coef=KL_COEF, kl_clamp=None)
    return {
        "floor: three matmuls": problem.floor,
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


def time_once(problem: Problem, way) -> float:
    problem.hidden.grad = problem.weight.grad = None
    start = time.process_time()
    way()
    return time.process_time() - start


def peak_memory(arguments: argparse.Namespace) -> None:
    """Child process: print MiB at the peak of one row above its inputs."""
    problem = Problem(arguments.tokens, arguments.hidden, arguments.vocabulary, getattr(torch, arguments.dtype))
    # the first matrix product allocates the library's own workspace
    torch.randn(256, 256) @ torch.randn(256, 256)
    way = ways(problem)[arguments.memory_of]
    if arguments.memory_of == "TRL fused head":
        import trl.kernels.chunked_logprob  # noqa: F401
    before = int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1])
    way()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 1024)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="rows whose name contains one of these; the floor always runs")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", help="also write the table here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.memory_of:
        return peak_memory(arguments)
    problem = Problem(arguments.tokens, arguments.hidden, arguments.vocabulary, getattr(torch, arguments.dtype))
    rows = ways(problem)
    if arguments.only:
        rows = {k: v for i, (k, v) in enumerate(rows.items()) if not i or any(part in k for part in arguments.only)}
    times = {name: [] for name in rows}
    for way in rows.values():  # warm-up
        time_once(problem, way)
    for number in range(arguments.rounds):
        for name in list(rows)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(time_once(problem, rows[name]))
    floor = times["floor: three matmuls"]
    table = []
    for name, seconds in times.items():
        ratios = [s / f for s, f in zip(seconds, floor, strict=True)]
        row = {"row": name, "seconds": statistics.median(seconds), "ratio": statistics.median(ratios)}
        row |= {"low": min(ratios), "high": max(ratios), "mib": None}
        if not arguments.no_memory:
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
            row["mib"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        table.append(row)
    print(
        f"T {arguments.tokens}, H {arguments.hidden}, V {arguments.vocabulary}, {arguments.dtype}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {arguments.rounds} rounds"
    )
    print("| row | seconds | ÷ floor | [min, max] | peak MiB |\n|---|---|---|---|---|")
    for r in table:
        memory = "" if r["mib"] is None else f"{r['mib']:.0f}"
        print(f"| {r['row']} | {r['seconds']:.2f} | {r['ratio']:.2f} | {r['low']:.2f} to {r['high']:.2f} | {memory} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"settings": vars(arguments), "rows": table}, file, indent=2)


if __name__ == "__main__":
    main()
