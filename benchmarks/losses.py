"""Cost of token losses over a vocabulary, one table per vocabulary, and the whole training step, in one run:

    OMP_NUM_THREADS=1 python benchmarks/losses.py                                                            # an hour
    OMP_NUM_THREADS=1 python benchmarks/losses.py --only ours --vocabularies 32000 --rounds 5 --step=""      # minutes

Rows share the same random hidden states, weight and labels. Time is that of forward + backward of the output layer, as
the median over rounds of `process_time` divided by that of the floor (three matrix products in chunks, the least any
gradient needs) in the same round; rounds alternate in direction. Memory is the peak of the process above its inputs,
each row in a process of its own.

A row that materialises logits runs on fewer tokens where `--limit` GiB would not hold its temporaries; its number of
tokens is in the table, its divisor is the floor of as many tokens, and its memory is that of as many. The training
step is `training_step.py` with the arguments of `--step`.
"""

import argparse
import functools
import json
import shlex
import statistics
import subprocess
import sys
import time

import torch
from loss_rows import CHUNK, COMPILED, FLOOR, Problem, ways
from process_memory import mebibytes

from trl_weaks.losses.vocabulary.cpu_kernels import load_kernels
from trl_weaks.study.environment import describe_environment

# Tensors of the size of the logits that stand beside each other, as measured at a vocabulary of 32,000.
COPIES = {
    "full logits, cross-entropy": 3,
    "naive soft labels": 5,
    "naive soft labels, KL": 6,
    "naive evidential": 10,
    "naive evidential + aux": 17,
    "naive evidential, soft": 11,
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
    if COMPILED in arguments.memory_of:
        load_kernels()
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


@functools.cache
def has_compiler() -> bool:
    try:
        load_kernels()
    except RuntimeError as error:
        print(f"Without compiled rows: {error}", file=sys.stderr)
        return False
    return True


def table(arguments: argparse.Namespace) -> list[dict]:
    names = [name for name in ways(None) if COMPILED not in name or has_compiler()]
    about = describe_environment()
    if arguments.only:
        names = [n for n in names if n == FLOOR or any(part in n for part in arguments.only)]
    print(
        f"\nT {arguments.tokens}, H {arguments.hidden}, V {arguments.vocabulary}, {arguments.dtype}, chunks of "
        f"{CHUNK}, torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} thread(s), {arguments.rounds} rounds, {about['date']}, {about['machine']}\n"
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
