"""Co-supervised learning: for each example the vote of the specialist, and what the student can believe of it."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ...metrics.agreement import top_shares
from .trained import TrainedStudent, check_classes, texts_of, vote_table, with_one_vote

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CoSupervised:
    """
    After arXiv 2402.15505 and its code: the student of the level before picks, by the class that it predicts, the
    specialist whose vote is the label, and of these labels it keeps the share that it finds consistent. Then the
    student starts anew. They report 15 points of PGR and more over one teacher on ImageNet (AlexNet specialists for a
    DINOv2 probe, levels of 1, 2, 4 and 8).

    There the specialists' classes are given. Without `specialists` the specialist of a class is the supervisor whose
    votes give most probability to that class on the texts where the student predicts it (*ours*): no gold is read, and
    a student that follows one supervisor everywhere will go on to.

    Kept is a share of the labels, as large as the rate at which the specialist's class is among the student's `top`
    classes: those with the least cross-entropy under the student. For classes only: no completion is the domain of one
    supervisor. Cost: one student a level, here two.

    Args:
        specialists: supervisor -> the ids of its classes; every class has one.
        top: 3 is the *authors' code* for many classes; of K classes at most K - 1, which still says something.
        denoise: whether labels are left out at all.
    """

    specialists: Mapping[str, Sequence[int]] | None = None
    top: int = 3
    denoise: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.top, int) and self.top >= 1):
            raise ValueError(f"top={self.top!r} must be a whole number of at least 1.")

    def __call__(self, labels: Dataset, trained: TrainedStudent) -> Dataset:
        """
        Raises:
            ValueError: no votes of the student's classes, a row without the vote of its specialist, or specialists
                that leave out a class or are none of the supervisors.
        """
        who = type(self).__name__
        check_classes(labels, trained, who)
        votes, names = vote_table(labels, who)
        believed = trained.student.predict(texts_of(labels, who)).probabilities.double().numpy()
        says = believed.argmax(-1)
        rows = np.arange(len(votes))
        chosen = self._of_classes(votes, names, says, believed.shape[-1])[rows, says]
        picked = votes[rows, chosen]
        missing = np.isnan(picked).any(-1)
        if missing.any():
            row = int(missing.argmax())
            raise ValueError(f"{who}, row {row}: {names[chosen[row]]!r} is its specialist and gave no vote; drop it.")
        made = with_one_vote(labels, picked.tolist(), [names[one] for one in chosen])
        if not self.denoise:
            return made
        top = np.argsort(-believed, axis=-1, kind="stable")[:, : min(self.top, believed.shape[-1] - 1)]
        rate = np.take_along_axis(top_shares(picked), top, -1).sum(-1).mean()
        surprise = -(picked * np.log(believed.clip(min=1e-12))).sum(-1)
        best = np.argsort(surprise, kind="stable")[: max(1, math.ceil(rate * len(rows) - 1e-9))]
        logger.info("%s: %d of %d labels are kept.", who, len(best), len(rows))
        return made.select(sorted(best.tolist()))

    def _of_classes(self, votes: np.ndarray, names: Sequence[str], says: np.ndarray, classes: int) -> np.ndarray:
        """The place of the specialist for each row and class, `(n, K)`; only that of a row's own class is asked for.

        A supervisor without a vote on a row is no candidate there.
        """
        affinity = np.zeros((len(names), classes))
        if self.specialists is None:
            for k in np.unique(says):
                seen = votes[says == k][..., k]
                there = ~np.isnan(seen)
                affinity[:, k] = np.where(there, seen, 0.0).sum(0) / there.sum(0).clip(1)
        else:
            unknown = sorted(set(self.specialists) - set(names))
            if unknown:
                raise ValueError(f"CoSupervised: the specialist {unknown[0]!r} is none of {list(names)}.")
            for name, own in self.specialists.items():
                strange = [k for k in own if not 0 <= k < classes]
                if strange:
                    raise ValueError(f"CoSupervised: class {strange[0]} of {name!r} is none of 0 to {classes - 1}.")
                affinity[list(names).index(name), list(own)] = 1.0
            without = np.flatnonzero(affinity.sum(0) == 0)
            if len(without):
                raise ValueError(f"CoSupervised: class {int(without[0])} has no specialist.")
            return np.broadcast_to(affinity.argmax(0), (len(votes), classes))
        gone = np.isnan(votes).any(-1)
        return np.where(gone[..., None], -1.0, affinity).argmax(1)
