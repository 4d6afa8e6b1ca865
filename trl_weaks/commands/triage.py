"""`trl-weaks triage`: which stored labels to accept, which to weight, and which to show to a person."""

import argparse
from pathlib import Path

from .look import add_labels_and_gold, read_labels

FORMATS = {".csv": "to_csv", ".jsonl": "to_jsonl"}
TOOLS = {"label_studio": "to_label_studio", "argilla": "to_argilla"}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_labels_and_gold(parser)
    add = parser.add_argument
    add("--risk", type=float, default=0.1, help="largest share of wrong labels among the accepted ones (0.1: ours)")
    add("--confidence", type=float, default=0.95, help="with which that holds (0.95: ours)")
    add("--budget", type=int, help="most examples that people can look at (all that are not accepted)")
    add("--audit", type=float, default=0.02, help="share of the accepted ones that a person sees too (0.02: ours)")
    add("--seed", type=int, default=0, help="of the audit (0)")
    add("-o", "--output", type=Path, help="write the queue for people: .csv or .jsonl, or as --tool reads it")
    add("--tool", choices=tuple(TOOLS), help="write the queue as this program imports it")


def triage(options: argparse.Namespace) -> None:
    """Print how many labels are accepted and with what bound; write the queue where a file is named.

    Raises:
        ValueError: no gold, a file of another kind, or a number out of range.
    """
    if options.gold is None:
        raise ValueError("triage measures on gold labels how often the committee is right: give --gold.")
    if options.tool and options.output is None:
        raise ValueError(f"--tool {options.tool} says how to write the queue: give a file, -o.")
    if options.output and not options.tool and options.output.suffix not in FORMATS:
        raise ValueError(f"-o {options.output}: write a .csv or .jsonl file, or choose a --tool.")
    labels, gold = read_labels(options)
    from ..labelling.reliability.triage import triage as sort_out

    found = sort_out(
        labels, gold, options.risk, options.confidence, options.budget, audit=options.audit, seed=options.seed
    )
    print(found.report())
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        getattr(found, TOOLS[options.tool] if options.tool else FORMATS[options.output.suffix])(options.output)
        print(f"Queue: {options.output} ({len(found.queue())} examples)")
