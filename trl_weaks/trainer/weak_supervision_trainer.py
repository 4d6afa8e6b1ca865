"""`WeakSupervisionTrainer`: TRL's `SFTTrainer` for completions whose labels come from several weak supervisors."""

import copy
import logging
from typing import Any
from uuid import uuid4

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments
from trl import SFTTrainer

from ..heads import WeakHeadRequest, add_weak_head
from ..losses.base import WeakLoss
from ..losses.vocabulary import triton_passes
from ..losses.vocabulary.cpu_kernels import find_kernels, load_kernels
from ._compat import global_then_local_main_first, is_peft_model, unbind_fused_head
from .common.callable_loss import chosen_loss, refuse_over_tokens
from .common.frozen_layers import refuse_rows
from .common.imitation_alarm import token_numbers
from .common.label_paths import at_path, unweighed
from .common.model_card import Supervision, weak_supervision_section
from .completions.collator import SAMPLES, WeakSupervisionCollator
from .completions.packing_checks import refuse_packing
from .completions.preparation import (
    KEY,
    PREPARED,
    TEXT,
    UNIT_IDS,
    UNIT_LOGPS,
    WEIGHTS,
    ends_without_mark,
    gold_rows,
    prepare_rows,
)
from .completions.refusals import LOSS_ALONE, refuse, refuse_student, refuse_tokenizer
from .completions.tree_rows import take_trees, tree_inputs, why_rows
from .completions.truncation import fit
from .completions.weak_dataset import (
    checked,
    for_trl,
    is_weak,
    joined,
    normalise_weights,
    pack_rows,
    refuse_prepared,
    set_aside,
    student_config,
    trl_settings,
)
from .weak_supervision_config import WeakSupervisionConfig
from .weak_trainer import WeakTrainer, checked_settings, refuse_empty

logger = logging.getLogger(__name__)


class WeakSupervisionTrainer(WeakTrainer, SFTTrainer):
    r"""
    Trainer for a strong student under several weak supervisors (arXiv 2406.03199).

    A drop-in for [`~trl.SFTTrainer`]: the same arguments, a dataset with the columns of [`trl_weaks.columns`] (made by
    [`label_completions`]), and a [`WeakSupervisionConfig`]. With one supervisor, hard labels, `weak_loss="naive"` and
    `gamma_max=0` it trains exactly as [`~trl.SFTTrainer`] does. Datasets without weak labels, in every format of TRL,
    are trained and evaluated by TRL itself; weak and plain evaluation sets stand side by side in a dict.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The student, as in [`~trl.SFTTrainer`].
        args ([`WeakSupervisionConfig`] or [`~trl.SFTConfig`] or [`~transformers.TrainingArguments`], *optional*):
            Configuration; those of TRL and transformers keep their values, as in TRL.
        loss ([`WeakLoss`] or `str`, *optional*):
            A loss to use instead of the one `args` describes: any callable
            `(logits (n, V), targets (n, V), progress) -> (n,)` in nats, see [`trl_weaks.losses`]; or a name of
            [`trl_weaks.losses.LOSSES`], which stands for `weak_loss` in `args`; the other settings stay.
        kwargs:
            Everything else that [`~trl.SFTTrainer`] takes. Datasets may be streams, whose rows are checked one by one.
            `formatting_func` of weak rows returns text that ends with the completion. Few things cannot be honoured
            beside weak labels; they are refused, see [`trl_weaks.trainer.completions.refusals`].

    Raises:
        ValueError: a dataset breaks the column contract (row, column, remedy are named), or an unsupported setting;
            before a model given by name is loaded.

    Logged beside TRL's metrics: `weak/confidence` (mean soft-label probability of the emitted token), `weak/agreement`
    (weighted share of tokens on which the student's top choice is the weak label) and `weak/gamma`. In evaluation the
    loss is that of the end of training (progress 1), so that `eval_loss` can be compared between steps.

    ```python
    >>> from datasets import Dataset
    >>> row = {"example_id": "0", "prompt": "play jazz", "completion": "{}", "weak_supervisors": ["a"]}
    >>> row |= {"weak_weights": [1.0], "weak_offsets": [[[0, 2]]], "weak_logps": [[-0.1]]}
    >>> args = WeakSupervisionConfig(TEMPORARY, max_steps=1, report_to="none", use_cpu=True, bf16=False)
    >>> trainer = WeakSupervisionTrainer(TINY, args, train_dataset=Dataset.from_list([row]))
    >>> trainer.train()
    {...}
    TrainOutput(global_step=1, ...)

    ```

    See also: [`WeakPreferenceTrainer`] for pairs, [`WeakClassificationTrainer`] for votes on classes,
    [`label_completions`] for the dataset, [`trl_weaks.losses`] for the losses.
    """

    _tag_names = ["trl", "sft", "trl_weaks", "weak-supervision"]
    _name = "Weak Supervision"
    side_inputs = PREPARED
    watches_imitation = True
    trusts_plain_rows = False  # a subclass may train rows without weak labels by the weak loss, as fully trusted ones

    def __init__(
        self,
        model: "str | PreTrainedModel",
        args: TrainingArguments | None = None,
        loss: WeakLoss | str | None = None,
        **kwargs: Any,
    ):
        args = checked_settings(args, WeakSupervisionConfig, model, "weak-supervision")
        self._kernels = _uses_kernels(args)
        args, self.weak_loss = chosen_loss(args, loss)
        refuse_over_tokens(self.weak_loss)
        config = student_config(model, args)
        refuse_student(config)
        self._context = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._mark = f"\nPrepared for the trainer {uuid4().hex}."  # goes along with selections of the rows
        self._supervision: Supervision | None = None
        self._meets_weak_rows = False  # then it has a weak head, and a collator for the weak columns
        self._made = False
        self._whole: dict[int, tuple[Any, Any]] = {}  # what TRL was given, and the checked dataset it is a part of
        self._given = {name: kwargs.get(name) for name in ("data_collator", "compute_loss_func", "formatting_func")}
        for part in ("train_dataset", "eval_dataset"):
            if isinstance(kwargs.get(part), dict):
                kwargs[part] = type(kwargs[part])({name: at_path(d) for name, d in kwargs[part].items()})
            elif part in kwargs:
                kwargs[part] = at_path(kwargs[part])
        self._check_given(args, loss, kwargs)  # before the model is loaded
        super().__init__(model=model, args=args, **kwargs)
        self._made = True
        if self._meets_weak_rows:
            self._get_ready()

    def _check_given(self, args: WeakSupervisionConfig, loss: Any, given: dict[str, Any]) -> None:
        """Check the weak datasets, and leave in `given` only what TRL is to see of them."""
        train, held_out, tokenizer = (given.get(n) for n in ("train_dataset", "eval_dataset", "processing_class"))
        refuse_empty(train, "train")
        refuse_rows(args, train, is_weak(train) or self.trusts_plain_rows)
        if is_weak(train):
            given["train_dataset"] = train = self._checked(train, args, tokenizer, "train")
            given["formatting_func"] = None  # applied to the weak rows already
        elif train is not None and not self.trusts_plain_rows:
            if loss is not None:
                raise LOSS_ALONE.error()
            if args.process_index == 0:
                logger.warning(
                    "The train dataset has no weak labels: it is trained exactly as SFTTrainer trains it, and the "
                    "settings of the weak loss have no effect on it."
                )
        self._given_train = train
        if isinstance(held_out, dict):
            given["eval_dataset"] = type(held_out)(
                {n: self._checked(d, args, tokenizer, n) if is_weak(d) else d for n, d in held_out.items()}
            )
        elif is_weak(held_out):
            given["eval_dataset"] = self._checked(held_out, args, tokenizer, "eval")

    def _checked(self, dataset: Any, args: WeakSupervisionConfig, tokenizer: Any, name: str) -> Any:
        refuse(args, self._given)
        if tokenizer is not None:
            refuse_tokenizer(getattr(tokenizer, "tokenizer", tokenizer))
        whole = checked(dataset, name, self._given["formatting_func"])
        own = for_trl(whole)
        self._whole[id(own)] = (own, whole)
        return own

    def _get_ready(self) -> None:
        """What weak rows need beside TRL's trainer."""
        if isinstance(self.data_collator, WeakSupervisionCollator):
            return
        base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if self.padding_free:
            refuse_packing(base)
        self.data_collator = WeakSupervisionCollator(
            pad_token_id=self.data_collator.pad_token_id,
            padding_free=self.padding_free,
            pad_to_multiple_of=self.data_collator.pad_to_multiple_of,
            tree_width=self.model.config.get_text_config().hidden_size if self._trains_on_trees() else None,
        )
        unbind_fused_head(base)
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
        if self._mark in _description(dataset):  # evaluated again, perhaps in part
            return dataset
        refuse_empty(dataset, dataset_name)
        refuse_prepared(dataset, dataset_name)
        if is_weak(dataset):
            own, whole = self._whole.pop(id(dataset), (None, None))
            if own is None:
                own = self._checked(dataset, args, processing_class, dataset_name)
                own, whole = self._whole.pop(id(own))
            prepared = self._prepare_weak(own, whole, processing_class, args, packing, dataset_name)
        else:
            function = formatting_func or self._given["formatting_func"]
            prepared = super()._prepare_dataset(dataset, processing_class, args, packing, function, dataset_name)
            if self.trusts_plain_rows:
                with global_then_local_main_first():
                    prepared = prepared.map(gold_rows, batched=True, desc="Trusting the gold labels")
                self._expect_weak_rows()
        if prepared is not dataset:
            prepared.info.description = _description(prepared) + self._mark
        return prepared

    def _expect_weak_rows(self) -> None:
        self._meets_weak_rows = True
        if self._made:
            self._get_ready()

    def _prepare_weak(self, own, whole, processing_class, args, packing, name):
        self._expect_weak_rows()
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        refuse_tokenizer(tokenizer)
        streamed = isinstance(own, IterableDataset)
        if own is self._given_train:
            self._supervision = Supervision.of(whole)
        if ends_without_mark(next(iter(whole)), tokenizer, self.chat_template):
            logger.warning(
                "The chat template writes nothing after an answer: the student does not learn where answers end, "
                "whatever the labels say about it. Give the template an end mark, such as the tokenizer's eos_token."
            )
        if streamed:
            self._read_on_every_process(args)
        keyed, carried = (own, None) if streamed else set_aside(own, whole)
        completion_only, self.completion_only_loss = self.completion_only_loss, True
        try:
            full = super()._prepare_dataset(keyed, processing_class, trl_settings(args), False, None, name)
        finally:
            self.completion_only_loss = completion_only
        limits = [limit for limit in (args.max_length, self._context) if limit is not None]
        with global_then_local_main_first():  # the others find what it made in the cache
            full = self._moved(full if streamed else joined(full, carried), tokenizer, args, name)
            full = fit(full, min(limits, default=None), args, packing, name)
            full = normalise_weights(full, name).remove_columns([KEY])
            return pack_rows(full, args, name) if packing else full

    def _read_on_every_process(self, args: WeakSupervisionConfig) -> None:
        """Streams are read by each process, as TRL has it for training: accelerate else cuts batches up by rows, and
        texts that are packed, or share a token tree, are not rows."""
        args.accelerator_config.dispatch_batches = False
        if self._made:
            self.accelerator.dataloader_config.dispatch_batches = False

    def _moved(self, dataset: Any, tokenizer: Any, args: WeakSupervisionConfig, name: str) -> Any:
        """Rows that TRL has tokenized, with the supervisors' confidences on their tokens."""
        given = {"tokenizer": tokenizer, "chat_template": self.chat_template}
        given |= {"unit": args.confidence_unit, "split": args.confidence_split}
        if isinstance(dataset, IterableDataset):
            moved = dataset.map(prepare_rows, batched=True, batch_size=1, fn_kwargs=given)
            return moved.select_columns([KEY, "example_id", "input_ids", "labels", *PREPARED])
        return dataset.map(
            prepare_rows,
            batched=True,
            fn_kwargs=given,
            remove_columns=[TEXT],
            num_proc=args.dataset_num_proc,
            desc=f"Moving confidences to the student's tokens ({name})",
        )

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in PREPARED if name not in self._signature_columns]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if WEIGHTS not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        packed, samples = take_trees(inputs), inputs.pop(SAMPLES, None)
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
            nodes=None if packed is None else packed.nodes,
            divisor=torch.as_tensor(count).clamp(min=1) / ranks,
            kernels=self._kernels,
        )
        inputs["use_cache"] = False
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        trees = {} if packed is None else tree_inputs(self.model, packed, inputs["input_ids"])
        with self.frozen_layers_reused(inputs, packed):
            outputs = model(**inputs | trees, weak_head=request)
        loss = outputs.weak_loss
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._record(inputs, outputs, weights.to(outputs.label_mask.device), samples)
        if return_outputs:  # `predict` and `compute_metrics` want logits, which the loss does without
            with torch.no_grad():
                outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return (loss, outputs) if return_outputs else loss

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """As in [`~transformers.Trainer`], on weak or plain rows: loss, metrics, and the logits of every token (an
        extra forward pass, and `tokens * vocabulary` floats of memory), a row for each row of the dataset in its
        order: nothing is packed or shuffled. A dataset that this trainer prepared already stays as it is."""
        if not self._skip_prepare_dataset:
            test_dataset = unweighed(test_dataset)
            args = copy.copy(self.args)
            args.shuffle_dataset = False
            test_dataset = self._prepare_dataset(
                test_dataset, self.processing_class, args, False, self._formatting_func, metric_key_prefix
            )
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def _record(self, inputs: dict[str, Tensor], outputs: Any, weights: Tensor, samples: Tensor | None) -> None:
        """TRL's metrics under TRL's names, and the `weak/*` ones; `samples` as in [`WeakSupervisionCollator`]."""
        mode = "train" if self.model.training else "eval"
        mask = outputs.label_mask
        per_text = weights.sum(-1)
        token_weights = (per_text[:, None] if weights.dim() == 2 else per_text[:, 1:]) * mask
        weighted = [token_weights, token_weights * outputs.target_probs, token_weights * outputs.is_top1]
        watched = {}
        if self._alarms and mode == "eval":
            watched = token_numbers(outputs.target_probs, outputs.log_probs, outputs.entropy, token_weights)
        columns = (mask, outputs.entropy, outputs.is_top1, *weighted, *watched.values())
        per_token = torch.stack([t.float() for t in columns], -1)
        if samples is None:
            per_row = per_token.sum(1)
        else:
            where = samples[0, 1:].to(mask.device)
            per_row = per_token.new_zeros(int(samples.max()) + 1, per_token.shape[-1])
            per_row = per_row.index_add(0, where, per_token[0])
        tokens, entropy, correct, weight, confidence, agreement, *others = per_row.unbind(-1)
        ours = {"weak/confidence": (confidence, weight), "weak/agreement": (agreement, weight)}
        ours |= {name: (sums, weight) for name, sums in zip(watched, others, strict=True)}
        theirs = {"entropy": (entropy, tokens), "mean_token_accuracy": (correct, tokens)}
        self.add_sums(ours if mode == "train" else ours | theirs)
        metrics = self._metrics[mode]
        self._record_schedule(mode)
        if mode == "train":  # as TRL means them: the mean over micro-batches
            total = self.accelerator.reduce(per_row[:, :3].sum(0), "sum").tolist()
            for name, value in zip(theirs, total[1:], strict=True):
                metrics[name].append(value / total[0] if total[0] else 0.0)
            packed = torch.ones_like(inputs["input_ids"])  # padding-free rows carry no mask
            attended = inputs.get("attention_mask", packed).sum()
            self._total_train_tokens += self.accelerator.reduce(attended, "sum").item()
        metrics["num_tokens"] = [self._total_train_tokens]
        if self.aux_loss_enabled:
            metrics["aux_loss"].append(self.accelerator.reduce(outputs.aux_loss.detach(), "mean").item())

    def _supervision_section(self) -> str | None:
        found = self._supervision
        return None if found is None else weak_supervision_section(self.args, self.weak_loss, found)


def _description(dataset: Any) -> str:
    info = dataset.info if isinstance(dataset, Dataset | IterableDataset) else None
    return (info.description if info else None) or ""


def _uses_kernels(args: WeakSupervisionConfig) -> bool:
    """Whether the loss passes over the vocabulary by compiled code; loads what is asked for by name."""
    if args.use_cpu_kernels:
        if args.device.type != "cpu":
            raise ValueError(f"`use_cpu_kernels` is for training on a CPU, not on {args.device}; remove it.")
        load_kernels()
    if args.use_triton_kernels:
        if args.device.type != "cuda":
            raise ValueError(f"`use_triton_kernels` is for training on CUDA, not on {args.device}; remove it.")
        triton_passes.load_kernels(args.device)
    if args.device.type == "cpu":
        return args.use_cpu_kernels or args.use_cpu_kernels is None and find_kernels() is not None
    if args.device.type == "cuda":
        return args.use_triton_kernels is not False and triton_passes.find_kernels() is not None
    return False
