"""SLU-F1 as a metric script of `evaluate`, and where it lies."""

from pathlib import Path


def slu_f1_metric_path() -> str:
    """Folder for `evaluate.load(slu_f1_metric_path())`; works offline and needs the extra `evaluate`."""
    return str(Path(__file__).parent)
