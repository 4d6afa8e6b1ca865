"""From what several supervisors say to what a student is taught: no models, no disk.

Whoever imports `AGGREGATORS` from here finds all aggregators of the library in it.
"""

# ruff: noqa: I001 - the order of the imports is that of the registry
from trl_weaks.aggregation.base import AGGREGATORS, Aggregator, aggregate, make_aggregator
from trl_weaks.aggregation.votes import log_linear, majority, mean
from trl_weaks.aggregation.dawid_skene import DawidSkene
from trl_weaks.aggregation.crowd import GLAD, MACE, Wawa
from trl_weaks.aggregation.completions import COMPLETION_AGGREGATORS, CompletionAggregator

__all__ = [
    "AGGREGATORS",
    "COMPLETION_AGGREGATORS",
    "GLAD",
    "MACE",
    "Aggregator",
    "CompletionAggregator",
    "DawidSkene",
    "Wawa",
    "aggregate",
    "log_linear",
    "majority",
    "make_aggregator",
    "mean",
]
