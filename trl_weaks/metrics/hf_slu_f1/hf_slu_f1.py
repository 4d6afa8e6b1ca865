"""Script that `evaluate.load` copies and runs; nothing in the package imports it."""

import datasets
import evaluate

from trl_weaks.metrics.slu_f1 import check_slots, slu_f1

_CITATION = """\
@inproceedings{bastianelli2020slurp,
  title = {{SLURP}: A Spoken Language Understanding Resource Package},
  author = {Bastianelli, Emanuele and Vanzo, Andrea and Swietojanski, Pawel and Rieser, Verena},
  booktitle = {Proceedings of EMNLP},
  year = {2020}
}
"""


class SLUF1(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        slots = datasets.List(datasets.List(datasets.Value("string")))
        return evaluate.MetricInfo(
            description="SLU-F1 of slot filling: the harmonic mean of a word-level and a character-level F1.",
            citation=_CITATION,
            inputs_description="predictions, references: for each sentence a list of [type, filler] pairs of strings.",
            features=datasets.Features({"predictions": slots, "references": slots}),
            reference_urls=["https://arxiv.org/abs/2011.13205"],
        )

    # Rows are stored with a column type that turns one number among strings into another thing, so they are looked at
    # before: `compute` comes here with all of them, `add` with one.
    def add_batch(self, *, predictions: list, references: list, **kwargs) -> None:
        """Add sentences."""
        first = len(self)
        for column, rows in (("predictions", predictions), ("references", references)):
            for row, slots in enumerate(rows):
                check_slots(slots, first + row, column)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: list, reference: list, **kwargs) -> None:
        """Add one sentence."""
        check_slots(prediction, len(self), "predictions")
        check_slots(reference, len(self), "references")
        super().add(prediction=prediction, reference=reference, **kwargs)

    def _compute(self, predictions: list, references: list, average: str = "micro") -> dict:
        return slu_f1(predictions, references, average=average)
