"""`WeakPreferenceTrainer`: TRL's `DPOTrainer` for pairs that a weak ensemble ranked, with its doubt about each."""

import warnings
from dataclasses import fields
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from torch import Tensor
from transformers import PreTrainedModel
from trl import DPOTrainer

from ..columns import PAIR_EPSILON, PAIR_WEIGHT
from ..losses.dpo_losses import DPO_LOSSES, SORTING, PairBatch, divergence_score
from ..losses.preference import initial_pull, preference_loss, sequence_logps
from ._compat import is_peft_model, unbind_fused_head
from .common.dropout import silence_functional_dropout
from .common.model_card import weak_preference_section
from .preference.checks import (
    check_adapters,
    check_pairs,
    check_reference,
    drop_equal_pairs,
    warn_of_another_reference,
    warn_of_rounding,
    warn_of_unread_epsilon,
    without_other_texts,
)
from .preference.collator import WeakPreferenceCollator
from .preference.metrics import EffectivePairs, epsilon_metrics, reward_metrics, token_metrics, total_tokens
from .weak_preference_config import UNWEIGHTED, WeakPreferenceConfig
from .weak_trainer import WeakTrainer, checked_settings, refuse_arguments, refuse_empty


class WeakPreferenceTrainer(WeakTrainer, DPOTrainer):
    r"""
    Preference trainer for a strong student under a weak ensemble: conservative DPO (arXiv 2406.03199, Eq. 12), which
    TRL no longer has, with the flip probability and weight of each pair where the dataset brings them.

    A drop-in for [`~trl.DPOTrainer`]: the same arguments and datasets, and a [`WeakPreferenceConfig`]. With
    `preference_loss="sigmoid"`, or ε = 0, and no weights it trains and logs exactly as [`~trl.DPOTrainer`] does.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The student, as in [`~trl.DPOTrainer`].
        ref_model ([`~transformers.PreTrainedModel`], *optional*):
            The frozen reference. Without it the student is reloaded from its path, or, with PEFT, read with its
            adapters off.
        args ([`WeakPreferenceConfig`], *optional*):
            Configuration.
        kwargs:
            Everything else that [`~trl.DPOTrainer`] takes, except `data_collator`, which is refused. Beside TRL's
            `prompt`, `chosen`, `rejected`, datasets may have `pair_epsilon` in [0, 0.5) and `pair_weight` >= 0.

    Raises:
        ValueError: a dataset breaks the column contract (row, column and remedy are named), an in-memory model has no
            reference, or a setting is unsupported. Pairs of equal tokens are dropped and counted in a warning.

    Logged beside TRL's metrics: `weak/epsilon` (mean flip probability), `weak/optimum_margin` (cDPO: mean of
    log((1 - ε) / ε) / β, nats, over pairs with ε > 0; times β it compares with `rewards/margins`) and
    `weak/effective_pairs` (Kish's effective number of pairs since the last log, counting weight and doubt).

    ```python
    >>> from datasets import Dataset
    >>> pair = {"prompt": "play jazz", "chosen": "yes", "rejected": "no", "pair_epsilon": 0.2, "pair_weight": 1.0}
    >>> args = WeakPreferenceConfig(TEMPORARY, max_steps=1, report_to="none", use_cpu=True, bf16=False)
    >>> trainer = WeakPreferenceTrainer(TINY, args=args, train_dataset=Dataset.from_list([pair]))
    >>> trainer.train()
    {...}
    TrainOutput(global_step=1, ...)

    ```

    See also: [`build_preferences`] and [`pairs_from_comparisons`] for the pairs, [`WeakSupervisionTrainer`] for
    completions.
    """

    _tag_names = ["trl", "dpo", "trl_weaks", "weak-preference"]
    _name = "Weak Preference"
    side_inputs = (PAIR_EPSILON, PAIR_WEIGHT, "ref_chosen_logps", "ref_rejected_logps")  # one of each for a pair

    def __init__(
        self,
        model: "str | PreTrainedModel",
        ref_model: PreTrainedModel | None = None,
        args: WeakPreferenceConfig | None = None,
        **kwargs: Any,
    ):
        args = checked_settings(args, WeakPreferenceConfig, model, "weak-preference")
        refuse_arguments(
            kwargs, ("data_collator",), "the trainer's own keeps ε and weight with their pair; change the rows instead"
        )
        refuse_empty(kwargs.get("train_dataset"), "train")
        loaded = not isinstance(model, str)
        has_adapter = kwargs.get("peft_config") is not None or (loaded and is_peft_model(model))
        check_reference(model, ref_model, has_adapter, args.precompute_ref_log_probs)
        check_adapters(model, ref_model)
        if args.disable_dropout and loaded:
            silence_functional_dropout(model)  # before the reference is read, which super() may do
        if ref_model is not None:
            ref_model.eval()
        super().__init__(model, ref_model, args, **kwargs)
        if loaded and ref_model is None:
            warn_of_another_reference(self.model, self.ref_model)
        for either in (self.model, self.ref_model):
            if either is not None:
                unbind_fused_head(either.get_base_model() if is_peft_model(either) else either)
        if self._is_vision_dataset:
            raise ValueError(
                "Vision datasets are not supported: their collator carries no pair columns; train on text, or with "
                "`DPOTrainer`."
            )
        if args.disable_dropout:
            for either in (self.model, self.ref_model):
                if either is not None:
                    silence_functional_dropout(either)
        settings = {field.name: getattr(self.data_collator, field.name) for field in fields(self.data_collator)}
        self.data_collator = WeakPreferenceCollator(**settings)
        self._effective_pairs = {"train": EffectivePairs(), "eval": EffectivePairs()}
        if not self.is_deepspeed_enabled:  # it keeps float32 masters
            warn_of_rounding(self.model, args.learning_rate)

    def _prepare_dataset(
        self, dataset: Dataset | IterableDataset, processing_class: Any, args: WeakPreferenceConfig, dataset_name: str
    ) -> Dataset | IterableDataset:
        refuse_empty(dataset, dataset_name)
        dataset = check_pairs(dataset, dataset_name, args.pair_columns)
        if set(SORTING) & set(args.loss_type) and PAIR_WEIGHT in args.pair_columns:
            if PAIR_WEIGHT in (dataset.column_names or ()):
                raise ValueError(f"`{PAIR_WEIGHT}` of the {dataset_name} dataset cannot be used: {UNWEIGHTED}")
        warn_of_unread_epsilon(dataset, dataset_name, args)
        dataset = without_other_texts(dataset)
        dataset = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        return drop_equal_pairs(dataset, dataset_name, args.max_length, args.truncation_mode)

    def _supervision_section(self) -> str:
        return weak_preference_section(self.args, self.train_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for column in self.args.pair_columns:
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """As TRL does, which finds them again by rows and weights alone: what else the numbers depend on joins in."""
        reference = self.accelerator.unwrap_model(self.ref_model or self.model)
        adapters = {name: config.to_dict() for name, config in getattr(reference, "peft_config", {}).items()}
        args, weights = self.args, self._precompute_model_hash
        rest = (args.ld_alpha, args.max_length, args.truncation_mode, self.accelerator.mixed_precision)
        self._precompute_model_hash = Hasher.hash((weights, *rest, reference.config.to_dict(), adapters))
        try:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        finally:
            self._precompute_model_hash = weights

    def compute_ref_log_probs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Reference log-probabilities (n,), (n,) of chosen and rejected, nats, as TRL computes them."""
        return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k not in self.side_inputs})

    def _pair_value(self, inputs: dict[str, Any], column: str, default: float, like: Tensor) -> Tensor:
        if column in self.args.pair_columns and column in inputs:
            return inputs[column].to(like)
        return torch.full_like(like, default)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        mask = inputs["completion_mask"]
        model_inputs = {k: v for k, v in inputs.items() if k not in (*self.side_inputs, "completion_mask")}
        model_inputs["use_cache"] = False
        if self.aux_loss_enabled:
            model_inputs["output_router_logits"] = True
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(**model_inputs, labels=labels, fused_lm_head=True)
        mask = mask[:, 1:]
        chosen, rejected = sequence_logps(outputs.log_probs[:, -mask.size(1) :], mask, self.ld_alpha).chunk(2)
        if self.precompute_ref_logps:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            reference = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        ratios = chosen - reference[0], rejected - reference[1]

        epsilon = self._pair_value(inputs, PAIR_EPSILON, self.label_smoothing, chosen.detach())
        weight = self._pair_value(inputs, PAIR_WEIGHT, 1.0, chosen.detach())
        if PAIR_WEIGHT in inputs and PAIR_WEIGHT in self.args.pair_columns and set(SORTING) & set(self.loss_types):
            raise ValueError(f"`{PAIR_WEIGHT}` cannot be used: {UNWEIGHTED}")  # of a stream of unknown columns
        if self.args.preference_loss is None:
            losses = self._trl_losses(inputs, outputs, mask, (chosen, rejected), ratios)
        else:
            losses = preference_loss(self.args.preference_loss, self.beta * (ratios[0] - ratios[1]), epsilon)
        losses = weight * losses
        loss = losses.mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        self._record(inputs, outputs, mask, (chosen, rejected), ratios, epsilon, weight)
        if not self.model.training:  # the mean over pairs, without those that a sampler repeats
            self.add_sums({"loss": (losses + (loss - losses.mean()), torch.ones_like(losses))})
        if return_outputs:
            warnings.warn(
                "`return_outputs=True` and the logits for `compute_metrics` cost an extra forward pass and go away in "
                "TRL 2.0, as in `DPOTrainer`.",
                FutureWarning,
                stacklevel=2,
            )
            with torch.no_grad():
                outputs = model(**model_inputs)
        return (loss, outputs) if return_outputs else loss

    def _trl_losses(
        self,
        inputs: dict[str, Any],
        outputs: Any,
        mask: Tensor,
        logps: tuple[Tensor, Tensor],
        ratios: tuple[Tensor, Tensor],
    ) -> Tensor:
        """TRL's `loss_type`s with their `loss_weights`, (n,)."""
        args = self.args
        token_logps = outputs.log_probs[:, -mask.size(1) :]
        pairs = PairBatch(
            *logps,
            *ratios,
            *(divergence_score(ratio, args.f_divergence_type, args.f_alpha_divergence_coef) for ratio in ratios),
            *inputs["completion_mask"].sum(1).chunk(2),
            chosen_nll=-token_logps.chunk(2)[0].sum(1),
            chosen_predicted=mask.chunk(2)[0].sum(1),
            beta=self.beta,
            smoothing=self.label_smoothing,
            tau=args.discopop_tau,
        )
        losses = sum(w * DPO_LOSSES[name](pairs) for name, w in zip(self.loss_types, self.loss_weights, strict=True))
        if args.use_weighting:  # WPO (arXiv 2406.11827, Eq. 2)
            with torch.no_grad():
                aligned = (token_logps - outputs.log_sum_sq_probs[:, -mask.size(1) :]) * mask
                chosen, rejected = (aligned.sum(1) / mask.sum(1).clamp(min=1)).exp().chunk(2)
            losses = losses * chosen * rejected
        return losses

    def _record(
        self,
        inputs: dict[str, Any],
        outputs: Any,
        mask: Tensor,
        logps: tuple[Tensor, Tensor],
        ratios: tuple[Tensor, Tensor],
        epsilon: Tensor,
        weight: Tensor,
    ) -> None:
        mode = "train" if self.model.training else "eval"
        sums = token_metrics(outputs, mask) | reward_metrics(self.beta, *logps, ratios)
        self.add_sums(sums | epsilon_metrics(self.args.preference_loss, epsilon, self.beta))
        if self.aux_loss_enabled:
            aux_loss = self.accelerator.reduce(outputs.aux_loss.detach(), "mean").item()
            self._metrics[mode]["aux_loss"].append(aux_loss)
        if mode == "train":
            self._total_train_tokens += total_tokens(self.accelerator, inputs["attention_mask"])
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        pull = weight * initial_pull(self.args.preference_loss or "sigmoid", epsilon)
        self._effective_pairs[mode].add(self.accelerator, pull, drop_repeated=mode == "eval")

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        self._effective_pairs["eval"].read()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        effective = self._effective_pairs["eval"].read()
        if effective is not None:
            output.metrics[f"{metric_key_prefix}_weak/effective_pairs"] = effective
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            effective = self._effective_pairs["train"].read()
            if effective is not None:
                logs["weak/effective_pairs"] = effective
        super().log(logs, start_time)
