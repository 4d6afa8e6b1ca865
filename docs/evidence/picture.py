"""The picture of the README:
python docs/evidence/picture.py docs/evidence/results/scenario_minilm_10_seeds.json docs/results.svg
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_weaks.study.report.plots import plot_pgr

# supervisors, what their labels are worth without a student, students that work and one that does not, the ceiling
ROWS = (
    "mean_vote",
    "single_gpt2",
    "single_opt",
    "single_gpt_neox",
    "naive",
    "bayesian",
    "dirichlet_votes",
    "naive_aux",
    "ceiling",
)


def chosen(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results with these rows only, in this order."""
    return {**results, "methods": {name: results["methods"][name] for name in ROWS}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="of a study of classes with the rows of the plan")
    parser.add_argument("picture", type=Path, help="the file to write, .svg or .png")
    asked = parser.parse_args()
    plot_pgr(chosen(json.loads(asked.results.read_text(encoding="utf-8"))), asked.picture, "Accuracy")
