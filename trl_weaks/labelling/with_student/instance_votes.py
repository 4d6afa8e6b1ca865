"""Votes pooled by accuracies that depend on the text, as the student reads it."""

from dataclasses import dataclass

from datasets import Dataset

from ...aggregation.instance_accuracy import InstanceAccuracy
from .trained import TrainedStudent, check_classes, texts_of, vote_table, with_one_vote


@dataclass(frozen=True)
class PooledByInstance:
    """
    Each text's votes become one by an [`InstanceAccuracy`] over the student's hidden states; after arXiv 2203.12023.

    For classes only: completions do not agree or differ by a class. Cost beside the student that is trained: the one
    that is read, and its pass over the texts.

    Args:
        ridge: see there.
    """

    ridge: float = 0.03

    def __post_init__(self) -> None:
        InstanceAccuracy(self.ridge)

    def __call__(self, labels: Dataset, trained: TrainedStudent) -> Dataset:
        """Raises ValueError for no votes of the student's classes, or fewer than three supervisors."""
        who = type(self).__name__
        check_classes(labels, trained, who)
        votes, _ = vote_table(labels, who)
        states = trained.student.hidden_states(texts_of(labels, who)).numpy()
        found = InstanceAccuracy(self.ridge).fit(votes, states)(votes, states)
        return with_one_vote(labels, found.tolist(), ["instance_accuracy"] * len(labels))
