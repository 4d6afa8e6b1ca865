# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""Label a file of prompts with several weak supervisors, then look at the labels.

    python examples/label.py --dataset prompts.jsonl --supervisors gpt2 facebook/opt-125m --output_dir labels
    accelerate launch --num_processes 2 examples/label.py ...   (the same arguments; every process takes its share)

The arguments are those of `trl-weaks label` (`--help` lists them). `prompts.jsonl` holds lines such as
`{"example_id": "1", "prompt": "USER: wake me at nine ASSISTANT:"}`; a prompt may also be a list of messages. The
result is a prompt-completion dataset that a stock TRL `SFTTrainer` trains on, and that `WeakSupervisionTrainer` reads
with the supervisors' confidences.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import load_from_disk

from trl_weaks.cli import main
from trl_weaks.commands.label_options import add_options
from trl_weaks.distributed import processes


def show(folder: Path) -> None:
    """How often the supervisors agree, and the first rows."""
    labels = load_from_disk(str(folder / "dataset"))
    agreement = Counter(" + ".join(names) for names in labels["weak_supervisors"])
    for names, count in agreement.most_common():
        print(f"{count:6d} completions by {names}")
    for row in labels.select(range(min(3, len(labels)))):
        print(
            f"{row['weak_score']:8.3f} nats per token  {row['completion']!r}  by {', '.join(row['weak_supervisors'])}"
        )


def output_dir(arguments: Sequence[str]) -> Path:
    """The value of `--output_dir`, also when written with "=" or shortened, as `trl-weaks label` reads it."""
    options = argparse.ArgumentParser(prog="trl-weaks")
    add_options(options)
    return Path(options.parse_args(arguments).output_dir)


if __name__ == "__main__":
    main(["label", *sys.argv[1:]])
    if processes().is_main_process:
        show(output_dir(sys.argv[1:]))
