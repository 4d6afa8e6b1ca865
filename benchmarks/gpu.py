"""What the losses, the training step of a 7B model and labelling cost on one GPU, in at most eight minutes.

    python benchmarks/gpu.py --output gpu.json            # one H100 or H200; nothing is downloaded
    python benchmarks/gpu.py --rehearse --output r.json   # a minute on a CPU: tiny shapes, the same code
    python benchmarks/gpu.py --show gpu.json              # the tables of a log

Parts, in this order: (1) agreement with float64 on the CPU; (2) heads alone at vocabularies of 32,000 and 152,000:
ours, TRL's fused head, Liger's where `liger-kernel` is installed, full logits, and the three matrix products alone;
(3) the step of a model of Llama-2-7B's (`--shape mistral-7b`: Mistral's) configuration and random weights, LoRA and
then all weights, `SFTTrainer` and ours on the same rows; (4) labelling by three models of 1.3B. Everything that is
compared runs in turns, there and back; figures are medians and ranges, ratios those of the same round's pairs.

`--minutes` counts from the start of the process. A part that would not fit any more is left out by name, a part that
fails says why, and neither ends the others; the log is written after each. A step is everything from collator to
AdamW; memory is the most that PyTorch's allocator held, of a step with weights, gradients and moments.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path

STARTED = time.perf_counter()
PACKAGES = ("trl-weaks", "torch", "triton", "transformers", "trl", "peft", "accelerate", "liger-kernel")
# Seconds that a part needs at the least (a guess for one H200 until a log says better), and those it may take.
PARTS = {
    "agreement": (30, 60),
    "heads, V = 32,000": (25, 60),
    "heads, V = 152,000": (35, 80),
    "step, LoRA": (60, 100),
    "step, all weights": (60, 100),
    "labelling": (60, 120),
}
FULL = {
    "rounds": 10, "exact_tokens": 96, "vocabularies": (32_000, 152_000), "head_tokens": 8192, "head_width": 4096,
    "head_chunk": 1024, "step_prompts": 4, "step_prompt": 256, "step_completion": 256, "prompts": 64, "prefix": 400,
    "new_tokens": 20, "supervisors": None,
}  # fmt: skip
TINY = FULL | {
    "rounds": 2, "exact_tokens": 12, "vocabularies": (320, 1_520), "head_tokens": 24, "head_width": 32,
    "head_chunk": 8, "step_prompts": 2, "step_prompt": 12, "step_completion": 8, "prompts": 4, "prefix": 70,
    "new_tokens": 3, "shape": "rehearsal",
}  # fmt: skip


class OutOfTime(BaseException):  # no library that catches every `Exception` may take it for one of its own
    """The minutes are over while a part runs."""


def tiny_supervisors() -> dict:
    """The architectures of the real ones."""
    from gpu_models import SUPERVISORS

    found = {}
    for name, config in SUPERVISORS.items():
        sizes = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        inner = {"OPT-1.3B": {"ffn_dim": 128, "word_embed_proj_dim": 64}, "Pythia-1.4B": {"intermediate_size": 128}}
        found[name] = type(config)(**sizes, **inner.get(name, {"n_inner": 128}), max_position_embeddings=256)
    return found


def measurements(sizes: argparse.Namespace) -> dict:
    """Part -> what measures it, given the chip, the sizes and when to end."""
    from gpu_heads import agreement, heads
    from gpu_models import labelling, training

    small, large = sizes.vocabularies
    functions = (
        agreement, functools.partial(heads, vocabulary=small), functools.partial(heads, vocabulary=large),
        functools.partial(training, lora=True), functools.partial(training, lora=False), labelling,
    )  # fmt: skip
    return dict(zip(PARTS, functions, strict=True))


def plan(names: list[str], left: float) -> tuple[str, float | None]:
    """What to do with the first of the parts that remain: its seconds, leaving the others what they need; or None."""
    need, most = PARTS[names[0]]
    if need > left:
        return f"left out: needs about {need} s, and {max(0, left):.0f} s were left", None
    return "", min(most, max(need, left - sum(PARTS[name][0] for name in names[1:])))


def run_part(measure, *given) -> dict:
    """What a part found, or why it did not."""
    start = time.perf_counter()
    try:
        found = measure(*given)
    except OutOfTime:
        found = {"error": "stopped: the minutes were over"}
    except Exception as error:  # the other parts are worth having; the log keeps what happened
        found = {"error": f"{type(error).__name__}: {error}"[:500], "traceback": traceback.format_exc()}
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def about(chip, options: argparse.Namespace) -> dict:
    """Device, date, command and versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": chip.name, "memory, GiB": round(chip.gibibytes, 1), "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]), "rehearsal": options.rehearse,
        "python": platform.python_version(), "versions": versions, "minutes": options.minutes, "parts": {},
    }  # fmt: skip


def of_part(name: str, part: dict, rehearsal: bool) -> str:
    """Markdown of one part: its table, and its goals, each met or missed."""
    lines = [f"### {name}", ""]
    if "rows" not in part:
        return "\n".join([*lines, part.get("error") or part["left out"]])
    if part.get("about"):
        lines += [f"{part['about']}.", ""]
    lines += [f"| {' | '.join(part['columns'])} |", "|" + "---|" * len(part["columns"])]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in part["rows"]]
    if part.get("compiled passes") is False:
        lines += ["", "**The compiled passes did not run**; the rows that name them are PyTorch's operations."]
    if part["goals"]:
        lines += ["", "| goal | found | at most | |", "|---|---|---|---|"]
    for one in part["goals"]:
        value = "not measured" if one["value"] is None else f"{one['value']:.3g}"
        said = "rehearsal" if rehearsal else {True: "met", False: "**missed**", None: "not measured"}[one["met"]]
        lines.append(f"| {one['what']} | {value} | {one['at most']:.3g} | {said} |")
    return "\n".join(lines)


def heading(log: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in log["versions"].items() if version)
    head = f"`{log['command']}`, {log['date']}, {log['device']}, {log['memory, GiB']} GiB; {versions}"
    return head + ("\n\n**A rehearsal: no figure of it says anything.**" if log["rehearsal"] else "")


def measure_all(options: argparse.Namespace, sizes: argparse.Namespace) -> dict:
    from chip import Chip

    chip = Chip(options.rehearse)
    log, last = about(chip, options), STARTED + 60 * options.minutes - 10
    if sizes.supervisors is None and options.rehearse:
        sizes.supervisors = tiny_supervisors()
    log["sizes"] = {name: value for name, value in vars(sizes).items() if name != "supervisors"}
    print(heading(log), flush=True)

    def ring(*_):
        raise OutOfTime

    signal.signal(signal.SIGALRM, ring)
    names, functions = [name for name in PARTS if name in (options.only or PARTS)], measurements(sizes)
    for number, name in enumerate(names):
        why, seconds = plan(names[number:], last - time.perf_counter())
        if seconds is None:
            log["parts"][name] = {"left out": why}
        else:
            signal.setitimer(signal.ITIMER_REAL, max(1.0, last - time.perf_counter()))
            log["parts"][name] = run_part(functions[name], chip, sizes, time.perf_counter() + seconds)
            signal.setitimer(signal.ITIMER_REAL, 0)
            chip.clear()
            log["parts"][name]["MiB held after"] = round(chip.held())  # a part that leaves its model shows here
        print(f"\n{of_part(name, log['parts'][name], options.rehearse)}", flush=True)
        log["seconds"] = round(time.perf_counter() - STARTED, 1)
        if options.output:
            Path(options.output).write_text(json.dumps(log, indent=1) + "\n")
    return log


def parse(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="that the whole command may take")
    parser.add_argument("--shape", choices=("llama-2-7b", "mistral-7b"), default="llama-2-7b", help="of the step")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="at most, of every part")
    parser.add_argument("--output", help="JSON log of everything")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU: does every part work?")
    parser.add_argument("--show", metavar="LOG", help="print the tables of a log, and measure nothing")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    options = parse(given)
    if options.show:
        log = json.loads(Path(options.show).read_text())
        parts = (of_part(name, part, log["rehearsal"]) for name, part in log["parts"].items())
        print("\n\n".join([heading(log), *parts]))
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one GPU, else the trainers would take all
    sizes = argparse.Namespace(**({"shape": options.shape} | (TINY if options.rehearse else FULL)))
    sizes.rounds = options.rounds or sizes.rounds
    log = measure_all(options, sizes)
    failed = [name for name, part in log["parts"].items() if "error" in part]
    print(f"\n{log['seconds']:.0f} s in all" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
