"""`WeakSupervisionTrainer`: TRL's `SFTTrainer` for completions whose labels come from several weak supervisors."""

import logging
from typing import Any
from uuid import uuid4

import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from transformers import PreTrainedModel
from trl import SFTTrainer

from .. import columns
from ..heads import WeakHeadRequest, add_weak_head
from ..losses.base import WeakLoss
from ..losses.vocabulary.cpu_kernels import load_kernels
from ._compat import global_then_local_main_first, is_peft_model, parallelism
from .callable_loss import as_weak_loss, chosen_loss
from .model_card import Supervision, weak_supervision_section
from .packing_checks import refuse_packing, refuse_packing_settings
from .preparation import PREPARED, TEXT, UNIT_IDS, UNIT_LOGPS, WEIGHTS, gold_rows, prepare_rows
from .tree_rows import take_forest, tree_inputs, why_rows
from .validation import check_columns, check_rows
from .weak_dataset import (
    context_length,
    normalise_weights,
    pack_rows,
    refuse_dataset,
    refuse_long,
    set_aside,
    untruncated,
)
from .weak_supervision_collator import SAMPLES, WeakSupervisionCollator
from .weak_supervision_config import WeakSupervisionConfig
from .weak_trainer import WeakTrainer, checked_settings, refuse_arguments, refuse_empty

logger = logging.getLogger(__name__)


class WeakSupervisionTrainer(WeakTrainer, SFTTrainer):
    r"""
    Trainer for a strong student under several weak supervisors (arXiv 2406.03199).

    A drop-in for [`~trl.SFTTrainer`]: the same arguments, a dataset with the columns of [`trl_weaks.columns`] (made by
    [`label_completions`]), and a [`WeakSupervisionConfig`]. With one supervisor, hard labels, `weak_loss="naive"` and
    `gamma_max=0` it trains exactly as [`~trl.SFTTrainer`] does.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The student, as in [`~trl.SFTTrainer`].
        args ([`WeakSupervisionConfig`], *optional*):
            Configuration.
        loss ([`WeakLoss`] or `str`, *optional*):
            A loss to use instead of the one `args` describes: any callable
            `(logits (n, V), targets (n, V), progress) -> (n,)` in nats, see [`trl_weaks.losses`]; or a name
            (`"naive"`, `"bayesian"`), which stands for `weak_loss` in `args`; the other settings stay.
        kwargs:
            Everything else that [`~trl.SFTTrainer`] takes, except `data_collator`, `compute_loss_func`,
            `compute_metrics` and `formatting_func`, which cannot be honoured and are refused.

    Raises:
        ValueError: a dataset breaks the column contract (row, column, remedy are named), or an unsupported setting.

    Logged beside TRL's metrics: `weak/confidence` (mean soft-label probability of the emitted token), `weak/agreement`
    (weighted share of tokens on which the student's top choice is the weak label) and `weak/gamma`. In evaluation the
    loss is that of the end of training (progress 1), so that `eval_loss` can be compared between steps.
    """

    _tag_names = ["trl", "trl_weaks", "weak-supervision"]
    _name = "Weak Supervision"
    side_inputs = PREPARED

    def __init__(
        self,
        model: "str | PreTrainedModel",
        args: WeakSupervisionConfig | None = None,
        loss: WeakLoss | str | None = None,
        **kwargs: Any,
    ):
        args = checked_settings(args, WeakSupervisionConfig, model, "weak-supervision")
        refuse_arguments(
            kwargs,
            ("data_collator", "compute_loss_func", "compute_metrics", "formatting_func"),
            "pass `loss` to change the loss; the batches and metrics are the trainer's own",
        )
        refuse_packing_settings(args)
        if args.use_cpu_kernels:
            if args.device.type != "cpu":
                raise ValueError(f"`use_cpu_kernels` is for training on a CPU, not on {args.device}; remove it.")
            load_kernels()
        self._given_train = kwargs.get("train_dataset")
        refuse_empty(self._given_train, "train")
        self._mark = f"\nPrepared for the trainer {uuid4().hex}."  # goes along with selections of the rows
        args, loss = chosen_loss(args, loss)
        self.weak_loss = as_weak_loss(loss)
        self._context = context_length(model, args)  # rows are checked before the trainer holds its model
        super().__init__(model=model, args=args, **kwargs)
        if parallelism(self.accelerator, "sp"):
            raise ValueError("Sequence parallelism uses the model's own loss; weak supervision does not support it.")
        if self._skip_prepare_dataset:
            raise ValueError("`skip_prepare_dataset=True` leaves out the alignment of the confidences; remove it.")
        self.data_collator = WeakSupervisionCollator(
            pad_token_id=self.data_collator.pad_token_id,
            padding_free=self.padding_free,
            pad_to_multiple_of=self.data_collator.pad_to_multiple_of,
            tree_width=self.model.config.get_text_config().hidden_size if self._trains_on_trees() else None,
        )
        base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if self.padding_free:
            refuse_packing(base)
        add_weak_head(base)

    def _trains_on_trees(self) -> bool:
        if self.args.token_trees is False:
            return False
        reason = why_rows(self.model, self.args, self.aux_loss_enabled)
        if reason and self.args.token_trees:
            raise ValueError(f"`token_trees=True` is not exact here: {reason}. Leave it unset to train on rows.")
        if reason:
            logger.info("No token trees: %s.", reason)
        return reason is None

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if isinstance(dataset, Dataset) and self._mark in dataset.info.description:  # evaluated again, perhaps in part
            return dataset
        refuse_dataset(dataset, processing_class, dataset_name)
        # an evaluation set may be called "train" too
        weak = dataset is self._given_train or columns.LOGPS in dataset.column_names
        if weak:
            check_columns(dataset.column_names, dataset_name)
            check_rows(dataset)
            if "completion_mask" in dataset.column_names or not self.completion_only_loss:
                raise ValueError("Weak labels speak about completions; `completion_only_loss=False` is not supported.")
            if dataset is self._given_train:
                self._supervision = Supervision.of(dataset)
            dataset, carried = set_aside(dataset)
        full = super()._prepare_dataset(dataset, processing_class, untruncated(args), False, None, dataset_name)
        limits = [limit for limit in (args.max_length, self._context) if limit is not None]
        refuse_long(full, min(limits, default=None), dataset_name)
        with global_then_local_main_first():  # the others find what it made in the cache
            if weak:
                full = concatenate_datasets([full, carried], axis=1).map(
                    prepare_rows,
                    batched=True,
                    fn_kwargs={
                        "tokenizer": processing_class,
                        "chat_template": self.chat_template,
                        "unit": args.confidence_unit,
                    },
                    remove_columns=[TEXT],
                    num_proc=args.dataset_num_proc,
                    desc=f"Moving confidences to the student's tokens ({dataset_name})",
                )
                full = normalise_weights(full)
            else:
                full = full.map(gold_rows, batched=True, desc="Trusting the gold labels")
            full = pack_rows(full, args, dataset_name) if packing else full
        full.info.description += self._mark
        return full

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in PREPARED if name not in self._signature_columns]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        forest, samples = take_forest(inputs), inputs.pop(SAMPLES, None)
        weights = inputs.pop(WEIGHTS)
        unit_logps = inputs.pop(UNIT_LOGPS)
        # The same reduction as SFTTrainer's: tokens of every rank and accumulation step, DDP averages the gradients.
        count = (inputs["labels"][:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
        scale_ranks = self.args.average_tokens_across_devices and num_items_in_batch is not None
        ranks = self.accelerator.num_processes if scale_ranks else 1
        request = WeakHeadRequest(
            loss=self.weak_loss,
            progress=self._progress(),
            weights=weights,
            unit_ids=inputs.pop(UNIT_IDS),
            unit_logps=unit_logps if self.args.soft_labels else None,
            split=self.args.confidence_split,
            chunk_size=self.args.loss_chunk_size,
            nodes=None if forest is None else forest.nodes,
            divisor=torch.as_tensor(count).clamp(min=1) / ranks,
            cpu_kernels=self.args.use_cpu_kernels,
        )
        inputs["use_cache"] = False
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        trees = {} if forest is None else tree_inputs(self.model, forest, inputs["input_ids"])
        outputs = model(**inputs | trees, weak_head=request)
        loss = outputs.loss
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._record(inputs, outputs, weights.to(outputs.label_mask.device), samples)
        if return_outputs:  # `predict` wants logits, which the loss does without
            with torch.no_grad():
                outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return (loss, outputs) if return_outputs else loss

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """As in [`~transformers.Trainer`], on weak or gold rows: loss, metrics, and the logits of every token (an
        extra forward pass, and `tokens * vocabulary` floats of memory)."""
        packing = self.args.packing if self.args.eval_packing is None else self.args.eval_packing
        rows = self._prepare_dataset(test_dataset, self.processing_class, self.args, packing, None, metric_key_prefix)
        return super().predict(rows, ignore_keys, metric_key_prefix)

    def _record(self, inputs: dict[str, Tensor], outputs: Any, weights: Tensor, samples: Tensor | None) -> None:
        """TRL's metrics under TRL's names, and the `weak/*` ones; `samples` as in [`WeakSupervisionCollator`]."""
        mode = "train" if self.model.training else "eval"
        mask = outputs.label_mask
        per_text = weights.sum(-1)
        token_weights = (per_text[:, None] if weights.dim() == 2 else per_text[:, 1:]) * mask
        weighted = [token_weights, token_weights * outputs.target_probs, token_weights * outputs.is_top1]
        per_token = torch.stack([t.float() for t in (mask, outputs.entropy, outputs.is_top1, *weighted)], -1)
        if samples is None:
            per_row = per_token.sum(1)
        else:
            where = samples[0, 1:].to(mask.device)
            per_row = per_token.new_zeros(int(samples.max()) + 1, per_token.shape[-1]).index_add(
                0, where, per_token[0]
            )
        sums = self._rows_of_all(per_row).sum(0).tolist()
        tokens, entropy, correct, weight, confidence, agreement = sums
        metrics = self._metrics[mode]
        metrics["entropy"].append(entropy / tokens if tokens else 0.0)
        metrics["mean_token_accuracy"].append(correct / tokens if tokens else 0.0)
        self._record_ratio(mode, "weak/confidence", confidence, weight)
        self._record_ratio(mode, "weak/agreement", agreement, weight)
        self._record_gamma(mode)
        if mode == "train":
            packed = torch.ones_like(inputs["input_ids"])  # padding-free rows carry no mask
            attended = self.accelerator.gather_for_metrics(inputs.get("attention_mask", packed).sum()).sum().item()
            self._total_train_tokens += attended
        metrics["num_tokens"] = [self._total_train_tokens]
        if self.aux_loss_enabled:
            metrics["aux_loss"].append(self.accelerator.gather_for_metrics(outputs.aux_loss).mean().item())

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        """TRL's model card, with a section on the supervision."""
        super().create_model_card(model_name=model_name, dataset_name=dataset_name, tags=tags)
        if self.is_world_process_zero():
            weak_supervision_section(self.args, self.weak_loss, self._supervision).append_to(self.args.output_dir)
