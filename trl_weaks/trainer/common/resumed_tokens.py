"""The count of tokens trained on, which TRL begins anew when a run is resumed."""

from typing import Any

from transformers import TrainerCallback

TOKENS = "trl_weaks.tokens"  # where the trainer's state keeps the count, in every checkpoint


class ResumedTokens:
    """Mixin for trainers: `num_tokens` continues where the checkpoint stopped. Stands before the trainer of TRL."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(_Resuming(self))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.state.stateful_callbacks[TOKENS] = {"args": {}, "attributes": {"tokens": self._total_train_tokens}}
        super()._save_checkpoint(model, trial)


class _Resuming(TrainerCallback):
    def __init__(self, trainer: ResumedTokens):
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
        self.trainer._total_train_tokens = int(tokens)
