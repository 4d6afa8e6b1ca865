"""`WeakClassificationTrainer`: a sequence classifier trained on the votes of several weak supervisors."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..losses.base import WeakLoss
from ..losses.prediction_window import PredictionWindow
from ..pooling import harden
from ..supervisors.adapter_notes import write_notes
from ..supervisors.class_names import names_of
from ..supervisors.class_predictions import EVIDENCE_KEY, OFFSET_KEY, PRIOR_KEY, ClassPredictions
from ._compat import BaseTrainer, is_peft_model, parallelism
from .classification.adapters import with_adapters
from .classification.card import classification_card
from .classification.collapse import watch_collapse
from .classification.collator import WeakClassificationCollator
from .classification.data import (
    BARE,
    LABELS,
    PREPARED,
    ROW_WEIGHTS,
    ROWS,
    UNKNOWN,
    VOTE_WEIGHTS,
    VOTES,
    check_class_count,
    check_geometric_pool,
    check_lengths,
    check_rows,
    check_same_classes,
    count_classes,
    dataset_classes,
    row_weights,
    text_column,
)
from .classification.model import context_length, load_student, refuse_dead_head
from .classification.pooled_votes import pool_and_objective
from .classification.sets import (
    check_for_loss,
    check_prepared,
    check_target,
    gold_as_ids,
    is_bare,
    new_mark,
    plain_rows,
    tokenised,
)
from .classification.student_aggregation import lessons_of
from .common.callable_loss import chosen_loss
from .common.imitation_alarm import class_numbers
from .common.label_paths import unweighed
from .weak_classification_config import WeakClassificationConfig
from .weak_trainer import WeakTrainer, checked_settings, refuse_arguments, refuse_empty

WINDOW_FILE = "prediction_window.safetensors"


class WeakClassificationTrainer(WeakTrainer, BaseTrainer):
    r"""
    Trainer for a strong student that classifies texts, under several weak supervisors (arXiv 2406.03199, §3).

    The data has a column `text` (or `prompt`, text or messages), `weak_probs` (list[N][K], the votes; see
    [`label_classes`]), optional `weak_weights` (list[N], of the votes of a row beside each other), `triage_weight`
    (float, of the row beside the others: their losses are averaged with it) and gold `label` (a class id, or the
    name of a class where the data names them in `weak_classes` or a `ClassLabel` column; a number is a name where they
    are numbers), which serves metrics only. An evaluation set may bring `label` instead of votes; texts with neither
    are for `predict` and `predict_classes`, and have no loss.

    The gradient is that of the mean loss over all rows of an update: it depends on neither the accumulation steps nor
    the number of processes. (With `threshold="balanced"` the thresholds therefore come from the updates before, and
    the first update, which has none before it, takes the argmax.) In evaluation the loss is that of the end of
    training (progress 1).

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]): The student, any `*ForSequenceClassification`.
        args ([`WeakClassificationConfig`], *optional*): Configuration.
        train_dataset ([`~datasets.Dataset`] or path): Rows with votes, or the folder of a labelling run.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*): Rows with votes, gold, or both.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*): The student's tokenizer.
        loss ([`WeakLoss`] or `str`, *optional*): Used instead of the one `args` describes: any
            `(logits (n, K), targets (n, K), progress) -> (n,)` in nats; a name stands for `weak_loss` in `args`.
        peft_config ([`~peft.PeftConfig`], *optional*): Adapters; LoRA needs `task_type="SEQ_CLS"`.
        kwargs: `callbacks`, `optimizers`, `compute_metrics` and the like, as in [`~transformers.Trainer`].

    Raises:
        ValueError: malformed rows (row, column and remedy are named), a model with another number of labels, or a
            setting that cannot be honoured; all before training.

    Logged beside TRL's metrics: `accuracy` (share of the rows with known gold), `weak/agreement` (share of the rows
    where student and pooled label agree), `weak/gamma`, `weak/vacuity` (evidential losses). An evaluation's metrics
    carry its set's name, in the log and as `metric_for_best_model`: `eval_accuracy`, or `eval_a_accuracy` for
    `eval_dataset={"a": ...}`; those of `predict` begin with `test_`.

    ```python
    >>> from datasets import Dataset
    >>> rows = [{"text": "play jazz", "weak_probs": [[0.9, 0.1]]}, {"text": "stop", "weak_probs": [[0.2, 0.8]]}]
    >>> args = WeakClassificationConfig(TEMPORARY, max_steps=1, report_to="none", use_cpu=True, bf16=False)
    >>> trainer = WeakClassificationTrainer(TINY_CLASSIFIER, args, train_dataset=Dataset.from_list(rows))
    >>> trainer.train()
    {...}
    TrainOutput(global_step=1, ...)

    ```

    See also: [`label_classes`] and [`labels_from_votes`] for the votes, [`trl_weaks.aggregation`] for how they are
    pooled, [`WeakSupervisionTrainer`] for completions.
    """

    loss_is_scaled_for_ga = True
    _tag_names = ["trl", "trl_weaks", "weak-classification"]
    _name = "Weak Classification"
    side_inputs = (VOTES, VOTE_WEIGHTS, ROW_WEIGHTS)
    language_model = False
    watches_imitation = True
    _held_in = 0  # the update whose rows the loss's window holds
    _window_read = False  # from a checkpoint, for the training that begins
    _named_by = "the training data"  # who said in which order the classes are

    def __init__(
        self,
        model: "str | PreTrainedModel",
        args: WeakClassificationConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        loss: WeakLoss | str | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ):
        args = checked_settings(args, WeakClassificationConfig, model, "weak-classification")
        refuse_arguments(
            kwargs, ("data_collator", "compute_loss_func", "model_init"), "the trainer makes its own; leave it out"
        )
        args, self.weak_loss = chosen_loss(args, loss)
        train_dataset = plain_rows(train_dataset, "train")
        refuse_empty(train_dataset, "train")
        self._classes = dataset_classes(train_dataset, "train")
        train_dataset = gold_as_ids(train_dataset, self._classes, "train")
        self.num_classes = count_classes(train_dataset, "train")
        check_class_count(self._classes, self.num_classes, "The train dataset")
        set_seed(args.seed)  # the classification head starts at random
        model, processing_class, new = load_student(model, processing_class, self.num_classes, args, self._classes)
        self._know_classes(names_of(model.config.id2label, self.num_classes), "the student's `id2label`")
        model = with_adapters(model, peft_config, args, new)
        refuse_dead_head(model, self.weak_loss)
        self._take_dirichlet(model.config)
        self._pool, self._objective = pool_and_objective(self.weak_loss, args)
        self._context = context_length(model, processing_class)
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._mark, self._places, self._total_train_tokens = new_mark(), None, 0
        self._window_at_first = _window_state(self.weak_loss.window)
        super().__init__(
            model=model,
            args=args,
            data_collator=WeakClassificationCollator(processing_class.pad_token_id, args.pad_to_multiple_of),
            train_dataset=self._prepare_dataset(train_dataset, processing_class, args, "train"),
            eval_dataset=self._prepare_eval(eval_dataset, processing_class, args),
            processing_class=processing_class,
            **kwargs,
        )
        _refuse_parallelism(self)
        self._lessons = lessons_of(self, self._pool)
        # Rows are counted through `labels`, for every model class: `compute_loss` divides by that count itself.
        self.model_accepts_loss_kwargs, self._loss_shifts_labels, self.label_names = True, False, [LABELS]
        self._collapse = watch_collapse(self)
        self.model.add_model_tags(self._tag_names)

    def _take_dirichlet(self, config: PreTrainedConfig) -> None:
        found = self.weak_loss.dirichlet
        read = (None, 1.0, 0.0) if found is None else (found.evidence, found.prior, found.offset)
        self.evidence, self.prior, self.evidence_offset = read
        for key, value in zip((EVIDENCE_KEY, PRIOR_KEY, OFFSET_KEY), read, strict=True):
            setattr(config, key, value)

    def _prepare_eval(self, dataset: Any, tokenizer: PreTrainedTokenizerBase, args: WeakClassificationConfig) -> Any:
        if isinstance(dataset, dict):
            return {name: self._prepare_dataset(part, tokenizer, args, name) for name, part in dataset.items()}
        return None if dataset is None else self._prepare_dataset(dataset, tokenizer, args, "eval")

    def _prepare_dataset(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        args: WeakClassificationConfig,
        name: str,
        predicting: bool = False,
    ) -> Dataset:
        dataset = plain_rows(dataset, name)
        refuse_empty(dataset, name)
        if set(PREPARED) <= set(dataset.column_names):
            check_prepared(dataset, name, self.num_classes, self._mark, args.pooling if self._pool else None)
            return dataset
        classes = dataset_classes(dataset, name)
        check_same_classes(classes, self._classes, f"The {name} dataset", self._named_by)
        check_class_count(classes, self.num_classes, f"The {name} dataset")
        self._know_classes(classes, f"the {name} dataset")
        dataset = gold_as_ids(dataset, self._classes, name)
        column = text_column(dataset.column_names, name)
        check_target(dataset, name, predicting, args.process_index == 0)
        check_rows(dataset, name, self.num_classes)
        teaching = row_weights(dataset, name)
        self._places = check_for_loss(dataset, name, self._objective.loss, self._places)
        if args.pooling == "log_linear":
            check_geometric_pool(dataset, name)
        if self._pool is not None:
            dataset = self._pool(dataset, name)
        prepared = tokenised(dataset, name, column, tokenizer, self.num_classes, args).add_column(
            ROW_WEIGHTS, teaching
        )
        check_lengths(prepared, name, self._context, tokenizer.pad_token_id)
        prepared.info.description = (prepared.info.description or "") + self._mark
        return prepared

    def _know_classes(self, classes: list[str] | None, who: str) -> None:
        """The first to name the classes says in which order all others must have them."""
        if self._classes is None and classes is not None:
            self._classes, self._named_by = classes, who

    def _set_signature_columns_if_needed(self):
        self._signature_columns = [*PREPARED, ROWS, ROW_WEIGHTS]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        votes, weights, labels = inputs.pop(VOTES), inputs.pop(VOTE_WEIGHTS), inputs.pop(LABELS)
        numbers, row_weights = inputs.pop(ROWS), inputs.pop(ROW_WEIGHTS)
        with self.frozen_layers_reused(inputs):
            outputs = model(**inputs)
        votes, weights, teaching = self._supervise(outputs.logits, votes, weights, numbers)
        target = self._objective.target(votes, weights)
        self._observe(outputs.logits, votes, weights, target)
        row_weights = row_weights if teaching is None else row_weights * teaching
        rows = self._objective(outputs.logits, votes, weights, self._progress()) * row_weights
        count = torch.as_tensor(len(rows) if num_items_in_batch is None else num_items_in_batch)
        loss = rows.sum() / count.to(rows.device)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        told = numbers != BARE
        self._record(inputs, outputs.logits.detach(), rows.detach(), target, labels, row_weights, told)
        if self._alarms and not self.model.training:
            read = self._read(outputs.logits.detach()).probabilities
            self.add_sums(class_numbers(read, target, (numbers != UNKNOWN) & told))
        return (loss, outputs) if return_outputs else loss

    def _supervise(
        self, logits: Tensor, votes: Tensor, weights: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Votes and weights to train with, and which rows teach, where an aggregator learns from the student."""
        lessons = self._lessons
        if lessons is None:
            return votes, weights, None
        made = lessons.supervise(votes, weights, numbers)
        if not self.model.training:
            return *made, None
        lessons.observe(logits, votes, weights)
        return *made, lessons.teaching(votes, weights)

    def _start_afresh(self) -> None:
        super()._start_afresh()
        if self._window is not None and not (self.state.global_step and self._window_read):
            self._window.load_state_dict(dict(self._window_at_first))
        self._window_read, self._held_in = False, self.state.global_step

    @property
    def _window(self) -> PredictionWindow | None:
        return self.weak_loss.window

    def _observe(self, logits: Tensor, votes: Tensor, weights: Tensor, target: Tensor) -> None:
        """Hold the rows of all processes for what the loss remembers, which learns of them in the next update."""
        window = self._window
        if window is None or not self.model.training:
            return
        if self._held_in != self.state.global_step:
            window.release()
            self._held_in = self.state.global_step
        votes = votes if self._objective.soft_labels else harden(votes)
        pair = self.weak_loss.observed(logits, votes, weights, target)
        pair = self.accelerator.gather(self.accelerator.pad_across_processes(pair, dim=0, pad_index=-1))
        pair = pair[pair[:, 0, 0] >= 0]
        window.hold(pair[:, 0], pair[:, 1])

    def _record(
        self,
        inputs: dict[str, Tensor],
        logits: Tensor,
        rows: Tensor,
        target: Tensor,
        labels: Tensor,
        teach: Tensor,
        told: Tensor,
    ) -> None:
        predicted, known, one = logits.argmax(-1), labels != UNKNOWN, torch.ones_like(labels)
        top = target >= target.amax(-1, keepdim=True)
        agree = top.gather(-1, predicted[:, None])[:, 0]
        sums = {"weak/agreement": (agree & told, told), "accuracy": ((predicted == labels) & known, known)}
        vacant = self._read(logits).vacuity
        if vacant is not None:
            sums["weak/vacuity"] = (vacant, one)
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.reduce(inputs["attention_mask"].sum(), "sum"))
            self._collapse.see(predicted, target, teach, self._progress())
        else:
            counted = told & rows.isfinite() if self.args.logging_nan_inf_filter else told
            sums["loss"] = (rows.where(counted, 0.0), counted * teach)
        self.add_sums(sums)
        self._record_schedule(mode)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            logs.update({name: sum(values) / len(values) for name, values in self._metrics["train"].items()})
        super().log(logs, start_time)
        self._metrics["train" if self.model.training else "eval"].clear()

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if is_bare(dataloader.dataset):
            output.metrics.pop(f"{metric_key_prefix}_loss", None)  # of places that were filled
        return output

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        if not isinstance(eval_dataset, str):
            eval_dataset = self._prepare_eval(eval_dataset, self.processing_class, self.args)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        test_dataset = unweighed(test_dataset)
        test_dataset = self._prepare_dataset(test_dataset, self.processing_class, self.args, metric_key_prefix, True)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def predict_classes(self, dataset: Dataset) -> ClassPredictions:
        """Probabilities for a dataset of texts and, for an evidential student, strength and vacuity."""
        if self.args.prediction_loss_only:
            raise ValueError("`prediction_loss_only=True` keeps no predictions; leave it out to predict classes.")
        found = self.predict(dataset).predictions
        found = found if self.args.eval_do_concat_batches else np.concatenate(found)
        return self._read(torch.as_tensor(found))

    def _read(self, logits: Tensor) -> ClassPredictions:
        return ClassPredictions.from_logits(logits, self.evidence, self.prior, self.evidence_offset)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self.args.should_save and is_peft_model(self.model):
            write_notes(self.model.config, output_dir or self.args.output_dir)

    def _save_checkpoint(self, model, trial):
        self.create_model_card(model_name=(self.args.hub_model_id or Path(self.args.output_dir).name).split("/")[-1])
        super()._save_checkpoint(model, trial)
        window = self._window
        if window is not None:
            window.release()  # the update is complete
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if window is not None and len(window) and self.args.should_save:
            save_file(_window_state(window), folder / WINDOW_FILE)
        if self._lessons is not None and self.args.should_save:
            self._lessons.save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)  # under every strategy; `_load_from_checkpoint` is not
        if checkpoint is None:
            return
        file = Path(checkpoint) / WINDOW_FILE
        if self._window is not None and file.is_file():
            self._window.load_state_dict(load_file(file))
            self._window_read = True
        if self._lessons is not None:
            self._lessons.load(Path(checkpoint))

    def _draft_card(self, model_name: str | None, dataset_name: str | None, tags: Any) -> None:
        Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
        classification_card(self, model_name, dataset_name, tags).save(Path(self.args.output_dir) / "README.md")


def _window_state(window: Any) -> dict[str, Tensor]:
    """What a loss remembers now, for a file or a later training."""
    return {} if window is None else {name: value.cpu().clone() for name, value in window.state_dict().items()}


def _refuse_parallelism(trainer: BaseTrainer) -> None:
    if trainer.args.n_gpu > 1:
        raise ValueError("`nn.DataParallel` is not supported: use `accelerate launch`, or show one GPU only.")
    if parallelism(trainer.accelerator, "sp") or parallelism(trainer.accelerator, "cp"):
        raise ValueError("Sequence and context parallelism cut the text that the classifier reads whole.")
