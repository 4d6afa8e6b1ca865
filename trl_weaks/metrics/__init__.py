"""Scores of a weak-to-strong experiment: plain Python and numpy in, floats out.

Names are resolved on first use: what reads a command line needs no scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trl_weaks.metrics.slu_f1 import (
    COUNT_COLUMNS,
    slu_f1,
    slu_f1_counts,
    slu_f1_from_counts,
)  # at once: a file is called like a function of it

if TYPE_CHECKING:
    from trl_weaks.metrics.agreement import label_agreement, slot_agreement
    from trl_weaks.metrics.blind_spots import BlindSpots, blind_spot_intervals, blind_spot_share, confidence_spread
    from trl_weaks.metrics.bootstrap import bootstrap_scores
    from trl_weaks.metrics.calibration import brier_score, expected_calibration_error, reliability_bins
    from trl_weaks.metrics.chance_corrected import (
        capa,
        cohen_kappa,
        effective_supervisors,
        fleiss_kappa,
        krippendorff_alpha,
    )
    from trl_weaks.metrics.distances import pairwise_word_distance
    from trl_weaks.metrics.gain_audit import audit_prediction
    from trl_weaks.metrics.gain_bounds import misfit, misfit_bound, reverse_kl_misfit
    from trl_weaks.metrics.hf_slu_f1 import slu_f1_metric_path
    from trl_weaks.metrics.kernels import kernel_score, principal_kernel
    from trl_weaks.metrics.pgr import performance_gap_recovered, pgr_draws, pgr_interval, undefined_share
    from trl_weaks.metrics.selective import area_under_risk, binomial_upper, bounded_threshold, coverage_risk_curve
    from trl_weaks.metrics.significance import mcnemar_exact

_MODULES = {
    "label_agreement": "agreement",
    "slot_agreement": "agreement",
    "BlindSpots": "blind_spots",
    "blind_spot_intervals": "blind_spots",
    "blind_spot_share": "blind_spots",
    "confidence_spread": "blind_spots",
    "bootstrap_scores": "bootstrap",
    "brier_score": "calibration",
    "expected_calibration_error": "calibration",
    "reliability_bins": "calibration",
    "capa": "chance_corrected",
    "cohen_kappa": "chance_corrected",
    "effective_supervisors": "chance_corrected",
    "fleiss_kappa": "chance_corrected",
    "krippendorff_alpha": "chance_corrected",
    "pairwise_word_distance": "distances",
    "audit_prediction": "gain_audit",
    "misfit": "gain_bounds",
    "misfit_bound": "gain_bounds",
    "reverse_kl_misfit": "gain_bounds",
    "slu_f1_metric_path": "hf_slu_f1",
    "kernel_score": "kernels",
    "principal_kernel": "kernels",
    "performance_gap_recovered": "pgr",
    "pgr_draws": "pgr",
    "pgr_interval": "pgr",
    "undefined_share": "pgr",
    "area_under_risk": "selective",
    "binomial_upper": "selective",
    "bounded_threshold": "selective",
    "coverage_risk_curve": "selective",
    "mcnemar_exact": "significance",
}
__all__ = [
    "COUNT_COLUMNS",
    "BlindSpots",
    "audit_prediction",
    "area_under_risk",
    "binomial_upper",
    "blind_spot_intervals",
    "blind_spot_share",
    "bootstrap_scores",
    "bounded_threshold",
    "brier_score",
    "capa",
    "cohen_kappa",
    "confidence_spread",
    "coverage_risk_curve",
    "effective_supervisors",
    "expected_calibration_error",
    "fleiss_kappa",
    "kernel_score",
    "krippendorff_alpha",
    "label_agreement",
    "mcnemar_exact",
    "misfit",
    "misfit_bound",
    "pairwise_word_distance",
    "performance_gap_recovered",
    "pgr_draws",
    "pgr_interval",
    "principal_kernel",
    "reliability_bins",
    "reverse_kl_misfit",
    "slot_agreement",
    "slu_f1",
    "slu_f1_counts",
    "slu_f1_from_counts",
    "slu_f1_metric_path",
    "undefined_share",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
