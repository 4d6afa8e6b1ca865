"""Metrics of a training stretch or of one evaluation: exact ratios, named after their set, gone when it ends."""

from typing import Any

from torch import Tensor
from transformers import TrainerCallback

TOKENS = "trl_weaks.tokens"  # where the trainer's state keeps the tokens trained on, for resuming


class LoopMetrics:
    """
    Mixin for trainers that collect metrics in TRL's `_metrics`; stands before the trainer of TRL.

    - A metric that is a ratio is the quotient of two sums over all batches (`_record_ratio`), not a mean of quotients.
    - What an evaluation or a prediction collects goes into that call's result and ends with it. Several evaluation
      sets keep theirs apart: `eval_a_weak/agreement`, beside `eval_a_loss`.
    - `num_tokens` continues where the checkpoint stopped.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._ratios: dict[str, dict[str, tuple[float, float]]] = {"train": {}, "eval": {}}
        super().__init__(*args, **kwargs)
        self.add_callback(_Resuming(self))

    def _record_ratio(self, mode: str, name: str, numerator: float, denominator: float) -> None:
        """Add the sums of one batch, over all processes, to those of a metric."""
        above, below = self._ratios[mode].get(name, (0.0, 0.0))
        self._ratios[mode][name] = (above + numerator, below + denominator)

    def _rows_of_all(self, per_row: Tensor) -> Tensor:
        """`(rows, k)` of this process -> those of all processes, rows that fill up the last batch left out."""
        return self.accelerator.gather_for_metrics(per_row)

    def _take_ratios(self, mode: str) -> dict[str, float]:
        found = {name: above / below if below else 0.0 for name, (above, below) in self._ratios[mode].items()}
        self._ratios[mode].clear()
        return found

    def _take_metrics(self, mode: str) -> dict[str, float]:
        """All that was collected since the last time, which is forgotten."""
        found = {name: sum(values) / len(values) for name, values in self._metrics[mode].items()}
        self._metrics[mode].clear()
        return found | self._take_ratios(mode)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        self._take_metrics("eval")  # of steps outside of a loop
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        found = self._take_metrics("eval")
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            logs.update(self._take_ratios("train"))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.state.stateful_callbacks[TOKENS] = {"args": {}, "attributes": {"tokens": self._total_train_tokens}}
        super()._save_checkpoint(model, trial)

    def _count_tokens_from(self, tokens: int) -> None:
        self._total_train_tokens = tokens


class _Resuming(TrainerCallback):
    def __init__(self, trainer: LoopMetrics):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.global_step:
            return
        saved = state.stateful_callbacks.get(TOKENS)
        if saved is None:  # a checkpoint of an earlier version: the last that was logged
            logged = [log["num_tokens"] for log in state.log_history if "num_tokens" in log]
            tokens = logged[-1] if logged else 0
        else:
            tokens = saved["attributes"]["tokens"]
        self.trainer._count_tokens_from(int(tokens))
