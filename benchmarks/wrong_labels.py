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

from trl_weaks.columns import LABEL, TEXT, WEAK_PROBS
from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.classification.models import ClassifierFactory
from trl_weaks.study.classification.pipeline import ClassificationRun
from trl_weaks.study.classification.pretrain import pretrain_stage
from trl_weaks.study.classification.sources import ClassSource
from trl_weaks.study.classification.training import train_on_votes
from trl_weaks.study.pipeline.launch import parse
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
    source = ClassSource(config)
    factory = ClassifierFactory(config, len(source.classes))
    base = pretrain_stage(config, source, factory)
    votes = np.array(ClassificationRun(config, source, factory, seed, base).votes((name,))[WEAK_PROBS])[:, 0]
    half_b = source.splits(seed).half_b
    devel = ClassSource(dataclasses.replace(config, num_validation=VALIDATION)).splits(seed).validation
    gold = np.array([row[LABEL] for row in half_b])
    settings = dict(config.student_training or {}) | {"weak_loss": "naive", "gamma_max": 0.0, "save_strategy": "no"}
    for kind, labels in label_sets(votes, gold, seed).items():
        rows = Dataset.from_dict({TEXT: [row[TEXT] for row in half_b], WEAK_PROBS: labels[:, None].tolist()})
        with tempfile.TemporaryDirectory() as folder:
            train_on_votes(factory.student(base, seed), rows, settings, Path(folder), seed)
            student = WeakClassifier(*factory.trained(Path(folder)), name="student")
            predicted = student.predict([row[TEXT] for row in devel]).classes.numpy()
        right, share = np.mean(predicted == [row[LABEL] for row in devel]), np.mean(labels.argmax(-1) == gold)
        print(f"{name}, {kind}: {share:.3f} of the labels right, accuracy {right:.3f} on {len(devel)} devel texts")


if __name__ == "__main__":
    main()
