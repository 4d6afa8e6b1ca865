"""
Why does a student of one weak supervisor not overtake it: the number of its errors, or that they are systematic?

    python benchmarks/wrong_labels.py --preset slurp --data_dir path/to/slurp --output_dir runs/classification_slurp

Reads the labels and the student's base that `examples/classification.py` left in `--output_dir` for the first seed,
and trains the same student on four kinds of labels of the last supervisor's texts: its soft votes, its hard ones, gold
with as many errors at random, and gold with its own confusions dealt to other texts of the class. Accuracy on `devel`.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import transformers
from datasets import Dataset, disable_progress_bars

from trl_weaks.columns import TEXT, WEAK_PROBS
from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.pipeline.launch import parse
from trl_weaks.study.pipeline.run import seed_runs
from trl_weaks.study.pipeline.students.classes import train_on_votes
from trl_weaks.study.tasks.classification import Classification
from trl_weaks.supervisors.classifier import WeakClassifier

VALIDATION = 1500


def label_sets(votes: np.ndarray, gold: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Name -> (n, K) labels, from one supervisor's probabilities (n, K) and the gold classes (n,)."""
    rng, classes = np.random.default_rng(seed), votes.shape[1]
    hard = votes.argmax(-1)
    at_random, dealt = gold.copy(), gold.copy()
    wrong = rng.permutation(len(gold))[: int((hard != gold).sum())]
    at_random[wrong] = (gold[wrong] + rng.integers(1, classes, len(wrong))) % classes
    for k in range(classes):
        rows = np.flatnonzero(gold == k)
        dealt[rows] = rng.permutation(hard[rows])
    sure = np.eye(classes)
    return {"soft": votes, "hard": sure[hard], "errors at random": sure[at_random], "errors dealt": sure[dealt]}


def main() -> None:
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    config = parse(ClassificationConfig, sys.argv[1:])
    seed, name = config.seeds[0], config.supervisor_names[-1]
    task = Classification(config)
    run = seed_runs(config, task, [])[0]
    factory, half_b = run.factory, run.splits.half_b
    votes = np.array(run.votes((name,))[WEAK_PROBS])[:, 0]
    devel = Classification(dataclasses.replace(config, num_validation=VALIDATION)).splits(seed).validation
    gold = np.array([example.target for example in half_b])
    settings = dict(config.student_training or {}) | {"weak_loss": "naive", "gamma_max": 0.0, "save_strategy": "no"}
    for kind, labels in label_sets(votes, gold, seed).items():
        rows = Dataset.from_dict({TEXT: [example.text for example in half_b], WEAK_PROBS: labels[:, None].tolist()})
        with tempfile.TemporaryDirectory() as folder:
            train_on_votes(factory.student(run.base, seed), rows, settings, Path(folder), seed)
            student = WeakClassifier(*factory.trained(Path(folder)), name="student")
            predicted = student.predict([example.text for example in devel]).classes.numpy()
        right, share = np.mean(predicted == [example.target for example in devel]), np.mean(labels.argmax(-1) == gold)
        print(f"{name}, {kind}: {share:.3f} of the labels right, accuracy {right:.3f} on {len(devel)} devel texts")


if __name__ == "__main__":
    main()
