"""Dawid and Skene with the student in the loop: what it predicts of a row is that row's prior."""

import numpy as np

from .base import AGGREGATORS, probabilities
from .dawid_skene import FLOOR, DawidSkene, confusions, counted, expected
from .with_student import RelabelsRows


@AGGREGATORS.register("student_dawid_skene")
class StudentDawidSkene(RelabelsRows, DawidSkene):
    r"""
    Expectation maximisation between the student and the supervisors' confusion matrices.

    $$q(y) \propto p_\mathrm{student}(y)^\tau \prod_i C_i[y, \hat y_i], \qquad
    C_i[y, k] \propto \sum_r q_r(y)\, [\hat y_{ri} = k]$$

    after Raykar et al. (2010), who learn a logistic regression and its annotators together, and the noisy-channel idea
    noted for weak-to-strong training; both from memory. Until the first relabelling the student is taught Dawid and
    Skene's labels; then it answers all training rows, EM runs to its end with those answers in the place of the class
    prior, and the student goes on with the new labels. Soft votes count as fractions, as in [`DawidSkene`]. Nothing
    was reported that could be compared.

    A student that has learned its labels by heart confirms them: `tau` below 1 trusts it less, and few epochs help.
    Evaluation rows keep Dawid and Skene's labels without the student.

    Args:
        tau: τ, how much the student's answer counts; 0 is Dawid and Skene with even classes. *ours*: 1, the posterior.
        every: updates from one relabelling to the next; None relabels before every epoch but
            the first, or at the half of a single one. *ours*
        steps, tolerance: of EM, as in [`DawidSkene`].

    Attributes:
        first: `(rows, K)`, Dawid and Skene's labels, after `fit`.
        learned: `(supervisors, K, K)`, the confusion matrices after the last relabelling.
        gains: nats, the log-likelihood after each step of EM of the last relabelling; it never falls.

    Raises:
        ValueError: an argument that is out of range.

    Example:

    >>> import numpy as np
    >>> votes = np.eye(2)[[[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0], [0, 1, 0]]]  # (rows, supervisors, K)
    >>> fitted = StudentDawidSkene().fit(votes)
    >>> student = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]])
    >>> fitted.first[4].round(2), fitted.relabel(student)[4].round(2)  # two say 0, and the student 1
    (array([1., 0.]), array([0., 1.]))

    See also: [`DawidSkene`] without the student, [`Raven`], which learns one weight of each supervisor.
    """

    def __init__(self, tau: float = 1.0, every: int | None = None, steps: int = 1000, tolerance: float = 1e-10):
        if not 0 <= tau < np.inf:
            raise ValueError(f"tau={tau} must be at least 0, and finite.")
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"every={every!r} is a number of updates, at least 1; None stands for an epoch.")
        if steps < 1:
            raise ValueError(f"steps={steps} of EM must be at least 1.")
        super().__init__(steps, tolerance)
        self.tau, self.every = tau, every

    def fit(self, votes: np.ndarray, weights: np.ndarray | None = None) -> "StudentDawidSkene":
        super().fit(votes, weights)
        self.first = probabilities(self, votes, weights)
        _, self._counts, _ = counted(votes, weights)
        self.reset()
        return self

    def reset(self) -> None:
        self.learned, self._share = self.confusion, self.first.mean(0)
        self.gains: list[float] = []

    def state(self) -> dict[str, np.ndarray]:
        return {"confusion": self.learned, "share": self._share}

    def load(self, state: dict[str, np.ndarray]) -> None:
        found, share = state.get("confusion"), state.get("share")
        if found is None or share is None or found.shape != self.confusion.shape:
            raise ValueError(f"the checkpoint's confusion matrices are not {self.confusion.shape}.")
        self.learned, self._share = found, share

    def logged(self, names: list[str]) -> dict[str, float]:
        """How often each supervisor is right, by the labels of the last relabelling: `accuracy_NAME`."""
        right = self._share @ np.diagonal(self.learned, axis1=1, axis2=2).T
        return {f"accuracy_{name}": float(value) for name, value in zip(names, right, strict=True)}

    def relabel(self, student: np.ndarray) -> np.ndarray:
        """
        Raises:
            ValueError: other rows or classes than were fitted, or a row that holds no probabilities; names it.
        """
        if student.shape != self.first.shape:
            raise ValueError(f"the student's probabilities are {student.shape}, the labels {self.first.shape}.")
        bad = ~(np.isfinite(student).all(-1) & (student >= 0).all(-1))
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"row {row}: the student gives {student[row].tolist()}, no probabilities.")
        prior, confusion, self.gains = self.tau * np.log(student.clip(FLOOR)), self.confusion, []
        for _ in range(self.steps):
            belief, total = expected(prior, self._counts, confusion)
            self.gains.append(total)
            if len(self.gains) > 1 and total - self.gains[-2] < self.tolerance * len(belief):
                break
            confusion = confusions(belief, self._counts)
        self.learned, self._share = confusion, belief.mean(0)
        return belief
