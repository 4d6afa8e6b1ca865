# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
Votes of people and a model on intents, one of the voters always wrong in the same way; a student trained on them.

    python examples/votes.py                                 # Dawid-Skene, in a minute on a CPU
    python examples/votes.py --aggregator mean
    python examples/votes.py --votes votes.csv --texts texts.csv --model my-strong-model

Without files the votes are simulated on an embedded grammar: four voters, a third of the votes missing, and a student
that comes with the package. `votes.csv` has the columns example_id, supervisor, label and may have confidence;
`texts.csv` has example_id and text.
"""

import argparse
import random

import torch
from datasets import Dataset

from trl_weaks import WeakClassificationConfig, WeakClassificationTrainer, labels_from_votes, supervisor_report
from trl_weaks.study.models.shipped import FOLDER

INTENTS = {
    "alarm": ["wake me up at {}", "set an alarm for {}", "alarm at {} please"],
    "music": ["play some jazz at {}", "put on the radio at {}", "music at {} please"],
    "weather": ["will it rain at {}", "how warm is it at {}", "weather at {} please"],
}
HOURS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
VOTERS = {"ann": 0.9, "bob": 0.7, "llm": 0.8, "mix": 0.1}  # how often each is right


def simulated(seed: int = 0) -> tuple[list[dict], list[dict], dict[str, str]]:
    """Texts, votes and gold."""
    rng = random.Random(seed)
    texts = [(intent, form.format(hour)) for intent, forms in INTENTS.items() for form in forms for hour in HOURS]
    examples = [{"example_id": str(i), "text": text} for i, (_, text) in enumerate(texts)]
    gold = {str(i): intent for i, (intent, _) in enumerate(texts)}
    names, votes = list(INTENTS), []
    for example, intent in gold.items():
        for voter, right in VOTERS.items():
            if rng.random() < 0.3:
                continue  # a gap
            others = [names[(names.index(intent) + 1) % len(names)]] if voter == "mix" else names
            label = intent if rng.random() < right else rng.choice(others)
            votes.append({"example_id": example, "supervisor": voter, "label": label})
            if voter == "llm":
                votes[-1]["confidence"] = 0.8
    return examples, votes, gold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", help="table of example_id and text")
    parser.add_argument("--votes", help="table of example_id, supervisor, label and optionally confidence")
    parser.add_argument("--aggregator", default="dawid_skene", help="how votes become one label (%(default)s)")
    parser.add_argument("--model", help="student; by default a tiny one that comes with the package")
    parser.add_argument("--output_dir", default="student", help="folder of the student (%(default)s)")
    parser.add_argument("--max_steps", type=int, default=60, help="updates of the student (%(default)s)")
    parser.add_argument("--report_to", default="none", help="where to log: tensorboard, trackio, wandb (none)")
    options = parser.parse_args()
    if (options.texts is None) != (options.votes is None):
        parser.error("--texts and --votes belong together")
    examples, votes, gold = (options.texts, options.votes, None) if options.votes else simulated()

    labels = labels_from_votes(examples, votes, options.aggregator)
    print(supervisor_report(labels, gold).markdown())
    if gold:
        made = torch.tensor([row["weak_probs"][0] for row in labels])
        print(f"labels by {options.aggregator}: {share_right(labels, made, gold):.1%} right")

    trainer = WeakClassificationTrainer(
        model=options.model or str(FOLDER / "student"),
        args=WeakClassificationConfig(
            output_dir=options.output_dir,
            max_steps=options.max_steps,
            learning_rate=1e-5 if options.model else 1e-3,
            per_device_train_batch_size=16,
            bf16=False,
            report_to=options.report_to,
        ),
        train_dataset=labels,
    )
    trainer.train()
    trainer.save_model()
    print(f"student in {options.output_dir}, classes {trainer.model.config.id2label}")
    if gold:
        found = trainer.predict_classes(labels).probabilities
        print(f"student: {share_right(labels, found, gold):.1%} right")


def share_right(labels: Dataset, probabilities: torch.Tensor, gold: dict[str, str]) -> float:
    classes = labels[0]["weak_classes"]
    chosen = [classes[k] for k in probabilities.argmax(-1).tolist()]
    return sum(name == gold[e] for name, e in zip(chosen, labels["example_id"], strict=True)) / len(chosen)


if __name__ == "__main__":
    main()
