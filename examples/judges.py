# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
Judges' votes on pairs of answers become preference pairs, and DPO weighted by how sure the judges are.

    python examples/judges.py                                # judges made up here, in a minute on a CPU
    python examples/judges.py --prompts prompts.jsonl --comparisons votes.jsonl --model my-strong-model

Without files three judges compare answers in both orders: a good one, one that prefers what it is shown first, and one
that always takes the first, which leaves the weighting. `prompts.jsonl` has the columns example_id and prompt;
`votes.jsonl` has example_id, supervisor, completion_a, completion_b, preferred (a, b, tie or empty) and may have
confidence, writer_a and writer_b.
"""

import argparse
import json
import random

from trl_weaks import WeakPreferenceConfig, WeakPreferenceTrainer, pairs_from_comparisons
from trl_weaks.labelling.preferences import preference_report
from trl_weaks.study.models.shipped import FOLDER

JUDGES = {
    "careful": (0.9, 0.0),
    "hasty": (0.75, 0.3),
    "lazy": (0.5, 1.0),
}  # how good, and how often it takes the first


def made_up(seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Prompts, and votes on two answers to each, every judge in both orders."""
    rng = random.Random(seed)
    prompts, votes = [], []
    for i in range(24):
        prompts.append({"example_id": str(i), "prompt": f"wake me at {i} ->"})
        good, bad = f" alarm set for {i}", f" playing song {i}"
        for judge, (right, first) in JUDGES.items():
            for a, b in ((good, bad), (bad, good)):
                choice = a if rng.random() < first else (good if rng.random() < right else bad)
                vote = {"example_id": str(i), "supervisor": judge, "completion_a": a, "completion_b": b}
                votes.append(vote | {"preferred": "a" if choice == a else "b"})
    return prompts, votes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", help="table of example_id and prompt")
    parser.add_argument("--comparisons", help="table of example_id, supervisor, completion_a, completion_b, preferred")
    parser.add_argument(
        "--preference_loss", default="cw", help="cw weights DPO by 1 - 2 epsilon; or cdpo, rdpo, sigmoid (%(default)s)"
    )
    parser.add_argument("--model", help="student; by default a tiny one that comes with the package")
    parser.add_argument("--output_dir", default="aligned", help="folder of the student (%(default)s)")
    parser.add_argument("--max_steps", type=int, default=10, help="updates of the student (%(default)s)")
    parser.add_argument("--report_to", default="none", help="where to log: tensorboard, trackio, wandb (none)")
    options = parser.parse_args()
    if (options.prompts is None) != (options.comparisons is None):
        parser.error("--prompts and --comparisons belong together")
    prompts, votes = (options.prompts, options.comparisons) if options.comparisons else made_up()

    pairs = pairs_from_comparisons(prompts, votes)
    print(f"{len(pairs)} pairs; judges: {json.dumps(preference_report(pairs)['judges'], indent=1)}")

    trainer = WeakPreferenceTrainer(
        model=options.model or str(FOLDER / "student"),
        args=WeakPreferenceConfig(
            output_dir=options.output_dir,
            preference_loss=options.preference_loss,
            max_steps=options.max_steps,
            learning_rate=1e-6 if options.model else 1e-3,
            bf16=False,
            report_to=options.report_to,
        ),
        train_dataset=pairs,
    )
    trainer.train()
    trainer.save_model()
    print(f"student in {options.output_dir}")


if __name__ == "__main__":
    main()
