"""The picture of the README:
python docs/evidence/picture.py docs/evidence/results/scenario_minilm.json docs/results.svg
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_weaks.study.report.plots import plot_pgr

# supervisors, what their labels are worth without a student, students that work and one that does not, the ceiling
ROWS = ("mean_vote", "single_gpt2", "single_opt", "single_gpt_neox", "naive", "bayesian", "naive_aux", "ceiling")


def chosen(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results with these rows only, in this order."""
    return {**results, "methods": {name: results["methods"][name] for name in ROWS}}


if __name__ == "__main__":
    plot_pgr(chosen(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), sys.argv[2], "Accuracy")
