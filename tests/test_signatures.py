"""Outside scripts call these by name and by position: the first parameters keep their order and their defaults."""

import importlib
import inspect

import pytest

import trl_weaks

NONE = inspect.Parameter.empty
SIGNATURES = {
    "dirichlet.concentration": {"logits": NONE, "evidence": "exp"},
    "dirichlet.expected_nll": {"alpha": NONE, "targets": NONE},
    "dirichlet.kl_to_uniform": {"alpha": NONE},
    "losses.NaiveLoss": {},
    "losses.EvidentialLoss": {"evidence": ..., "kl_coef": ..., "kl_anneal": ..., "kl_clamp": ...},
    "losses.AuxiliaryConfidence": {"loss": NONE, "gamma_max": ..., "warmup": ..., "threshold": ...},
    "alignment.transfer_logps": {
        "source_offsets": NONE, "source_logps": NONE, "target_offsets": NONE, "shares": None, "text": None, "unit": ...
    },
    "metrics.slu_f1": {"predictions": NONE, "references": NONE, "average": "micro"},
    "metrics.performance_gap_recovered": {"weak": NONE, "student": NONE, "ceiling": NONE},
    "metrics.pgr_interval": {"weak": NONE, "student": NONE, "ceiling": NONE, "confidence": 0.95, "seed": 0},
    "WeakSupervisor": {"model": NONE, "tokenizer": NONE, "name": None},
    "WeakSupervisor.generate": {"self": NONE, "prompts": NONE, "num_candidates": 5, "max_new_tokens": 64},
    "WeakSupervisor.score": {"self": NONE, "prompts": NONE, "completions": NONE},
    "WeakEnsemble": {"supervisors": NONE, "weights": None},
    "label_completions": {
        "ensemble": NONE, "dataset": NONE, "mode": "independent", "num_candidates": 5, "output_dir": None
    },
    "label_classes": {"ensemble": NONE, "dataset": NONE},
    "labels_from_votes": {"examples": NONE, "votes": NONE, "aggregator": "mean", "classes": None},
    "labels_from_completions": {"examples": NONE, "answers": NONE, "scorers": None},
    "pairs_from_comparisons": {"examples": NONE, "comparisons": NONE},
    "trust_weights": {"ensemble": NONE, "labels": NONE, "known": NONE, "gold": NONE},
    "build_preferences": {
        "student": NONE, "ensemble": NONE, "dataset": NONE, "num_candidates": 10, "output_dir": None
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_first_parameters_in_order(name):
    head, _, rest = name.partition(".")
    found = importlib.import_module(f"trl_weaks.{head}") if head.islower() and rest else getattr(trl_weaks, head)
    for part in rest.split(".") if rest else ():
        found = getattr(found, part)
    parameters = list(inspect.signature(found).parameters.values())
    expected = SIGNATURES[name]
    assert [p.name for p in parameters[: len(expected)]] == list(expected)
    for parameter, default in zip(parameters, expected.values(), strict=False):
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, parameter.name
        if default is ...:
            assert parameter.default is not NONE, f"{parameter.name} has a default"
        else:
            assert parameter.default == default, parameter.name
