"""What the report says of simulated annotators: how they were planted and voted, what was made of their votes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trl_weaks.aggregation import aggregate
from trl_weaks.columns import EXAMPLE_ID
from trl_weaks.labelling.reliability.report_card import supervisor_report
from trl_weaks.labelling.reliability.voters import supervisor_votes
from trl_weaks.markdown import table
from trl_weaks.metrics.agreement import right
from trl_weaks.study.annotators import ANNOTATORS, check_plan
from trl_weaks.study.pipeline.classes import ClassRun
from trl_weaks.study.report.page import half_b_gold, named_gold


def annotated_labels(runs: Sequence[ClassRun]) -> dict[str, Any]:
    """The plan, and per aggregator and seed the share of half B's labels that are right; {} without annotators."""
    used = [method.aggregator or "mean" for method in runs[0].methods if method.labels == ANNOTATORS]
    if not used:
        return {}
    shares: dict[str, list[float]] = {name: [] for name in dict.fromkeys(used)}
    labelled = []
    for run in runs:
        labels, gold = run.votes(labels=ANNOTATORS), half_b_gold(run.task, run)
        votes = supervisor_votes(labels)[1]
        truth = [gold[example] for example in labels[EXAMPLE_ID]]
        labelled.append(len(labels))
        for name, found in shares.items():
            found.append(float(right(aggregate(name, votes), truth).mean()))
    return {"plan": check_plan(runs[0].config.annotators), "labelled": labelled, "labels_right": shares}


def annotated_section(run: ClassRun, found: dict[str, Any]) -> str:
    """A section for the first seed's annotators and every seed's labels; empty without annotators."""
    if not found:
        return ""
    plan = found["plan"]
    labels = run.votes(labels=ANNOTATORS)
    card = supervisor_report(labels, named_gold(run.task, run, labels)).markdown().strip()
    rows = [
        [name, " ".join(f"{share:.4f}" for share in shares), f"{np.mean(shares):.4f}"]
        for name, shares in found["labels_right"].items()
    ]
    return (
        "## Simulated annotators\n\n"
        f"{len(plan['accuracies'])} annotators with planted confusion matrices vote on half B: accuracies "
        f"{', '.join(f'{a:g}' for a in plan['accuracies'])}, {plan['gaps']:.0%} of the votes missing, errors on few "
        f"classes (Dirichlet {plan['habits']:g}); each has a random stream of its own. Students of their votes learn "
        "from none of the supervisors above, so they have no PGR. Their votes, on the first seed:\n\n"
        f"{card}\n\nShare of half B's labels that are right after aggregation (of {found['labelled'][0]} texts with a "
        f"vote):\n\n{table(['aggregator', 'per seed', 'mean'], rows)}"
    )
