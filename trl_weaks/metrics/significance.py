"""Do two systems differ on the same test examples?"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> dict[str, float]:
    """McNemar's exact test, two-sided: only the examples on which exactly one system is right carry information.

    Under the hypothesis of no difference, `first_only` of them is binomial with probability 1/2 (McNemar, 1947).

    Args:
        first, second: for each example whether the system is right, in the same order.

    Returns:
        `first_only`, `second_only` (examples that only one gets right) and `p_value`; 1.0 when they never differ.

    Raises:
        ValueError: lengths differ, or a value is neither 0 nor 1.
    """
    right, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if right.ndim != 1 or right.shape != other.shape:
        raise ValueError(f"first {right.shape} and second {other.shape}: give one value per example for both")
    for name, values in (("first", right), ("second", other)):
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"{name}[{(~np.isin(values, (0, 1))).argmax()}] is neither right (1) nor wrong (0)")
    first_only, second_only = int(((right == 1) & (other == 0)).sum()), int(((right == 0) & (other == 1)).sum())
    differ = first_only + second_only
    p_value = float(binomtest(min(first_only, second_only), differ).pvalue) if differ else 1.0
    return {"first_only": first_only, "second_only": second_only, "p_value": p_value}
