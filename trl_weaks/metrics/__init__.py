"""Scores of a weak-to-strong experiment: plain Python and numpy in, floats out."""

from trl_weaks.metrics.hf_slu_f1 import slu_f1_metric_path
from trl_weaks.metrics.slu_f1 import COUNT_COLUMNS, slu_f1, slu_f1_counts, slu_f1_from_counts

__all__ = ["COUNT_COLUMNS", "slu_f1", "slu_f1_counts", "slu_f1_from_counts", "slu_f1_metric_path"]
