# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
Answers of an API and of people, with whatever confidence they come with; a student trained on them.

    python examples/api_answers.py                           # answers made up here, in a minute on a CPU
    python examples/api_answers.py --prompts prompts.jsonl --answers answers.jsonl --model my-strong-model

Without files three sources answer requests to a home assistant: an API that states a confidence, one that was asked
five times, and a person. `prompts.jsonl` has the columns example_id and prompt; `answers.jsonl` has example_id,
supervisor, completion and may have confidence, logprobs and finish_reason.
"""

import argparse
import random
from collections import Counter

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer, labels_from_completions, supervisor_report
from trl_weaks.study.models.shipped import FOLDER

ROOMS = ["kitchen", "garage", "bedroom", "hall"]
STATES = ["on", "off"]


def made_up(seed: int = 0) -> tuple[list[dict], list[dict], dict[str, str]]:
    """Prompts, answers and the right answers."""
    rng = random.Random(seed)
    prompts, answers, gold = [], [], {}
    for i, (room, state) in enumerate((room, state) for room in ROOMS for state in STATES):
        prompts.append({"example_id": str(i), "prompt": f"turn the light in the {room} {state} ->"})
        gold[str(i)] = f" light {room} {state}"
        wrong = f" light {rng.choice(ROOMS)} {rng.choice(STATES)}"
        given = {"example_id": str(i), "supervisor": "stating"}
        sure = rng.random() < 0.7
        answers.append(given | {"completion": gold[str(i)] if sure else wrong, "confidence": 0.9 if sure else 0.4})
        for _ in range(5):  # the share of equal answers is its confidence
            answer = gold[str(i)] if rng.random() < 0.7 else wrong
            answers.append({"example_id": str(i), "supervisor": "sampled", "completion": answer})
        if i % 2:  # people answer half of the prompts, and state nothing
            answers.append({"example_id": str(i), "supervisor": "ann", "completion": gold[str(i)]})
    return prompts, answers, gold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", help="table of example_id and prompt")
    parser.add_argument("--answers", help="table of example_id, supervisor, completion and confidences")
    parser.add_argument("--model", help="student; by default a tiny one that comes with the package")
    parser.add_argument("--output_dir", default="student", help="folder of the student (%(default)s)")
    parser.add_argument("--max_steps", type=int, default=20, help="updates of the student (%(default)s)")
    parser.add_argument("--report_to", default="none", help="where to log: tensorboard, trackio, wandb (none)")
    options = parser.parse_args()
    if (options.prompts is None) != (options.answers is None):
        parser.error("--prompts and --answers belong together")
    prompts, answers, gold = (options.prompts, options.answers, None) if options.answers else made_up()

    labels = labels_from_completions(prompts, answers, gold=gold, calibration="temperature")
    sources = Counter(str(source) for row in labels["confidence_source"] for source in row)
    print(f"{len(labels)} rows; confidences by source: {dict(sources)}")
    print(supervisor_report(labels, gold).markdown())

    trainer = WeakSupervisionTrainer(
        model=options.model or str(FOLDER / "student"),
        args=WeakSupervisionConfig(
            output_dir=options.output_dir,
            max_steps=options.max_steps,
            learning_rate=1e-5 if options.model else 1e-3,
            bf16=False,
            report_to=options.report_to,
        ),
        train_dataset=labels,
    )
    trainer.train()
    trainer.save_model()
    print(f"student in {options.output_dir}")


if __name__ == "__main__":
    main()
