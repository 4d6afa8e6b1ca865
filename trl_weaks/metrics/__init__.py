"""Scores of a weak-to-strong experiment: plain Python and numpy in, floats out."""

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
from trl_weaks.metrics.selective import binomial_upper, bounded_threshold, coverage_risk_curve
from trl_weaks.metrics.significance import mcnemar_exact
from trl_weaks.metrics.slu_f1 import COUNT_COLUMNS, slu_f1, slu_f1_counts, slu_f1_from_counts

__all__ = [
    "COUNT_COLUMNS",
    "BlindSpots",
    "audit_prediction",
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
