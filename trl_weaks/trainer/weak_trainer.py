"""What the three trainers share: the paper, float32 side inputs, progress, and the refusals made before long work."""

import copy
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from trl.models import unwrap_model_for_generation

from ..inference.prefix_trees import PrefixTrees
from ._compat import get_peak_flops_per_device, is_peft_model
from .common.frozen_layers import FOLDER, FrozenStates, refuse_cache, refuse_engines
from .common.imitation_alarm import ImitationAlarm
from .common.parallel_checks import (
    ParallelChecks,
    note_marks,
    refuse_launch,
    refuse_other_strategy,
    refuse_split_model,
)
from .common.publishing import Publishing
from .common.resumed_tokens import ResumedTokens
from .common.running_sums import Ratio, RunningSums
from .common.throughput import MFU, PER_DEVICE, PER_SECOND, Throughput, model_flops_utilisation

Settings = TypeVar("Settings", bound=TrainingArguments)


class WeakTrainer(Publishing, ResumedTokens, ParallelChecks):
    """Mixin for trainers under weak supervision; stands before the trainer of TRL that it extends.

    Attributes:
        side_inputs: float columns of a batch that no model takes. They stay float32: DeepSpeed casts every float
            input to the model's dtype, and bfloat16 rounds confidences above 0.998 to 1.
        language_model: whether the output layer is the vocabulary's, as TRL's count of FLOPs assumes.

    Logged with the loss: `perf/tokens_per_second` (padding not counted, all devices together),
    `perf/tokens_per_second_per_device` and, where TRL knows the device's peak and counts the model's FLOPs, `perf/mfu`
    in per cent: of full fine-tuning of the student alone, a reference model's passes and recomputation left out.
    """

    side_inputs: tuple[str, ...] = ()
    language_model = True
    watches_imitation = False  # whether its evaluations give an `ImitationAlarm` its numbers
    _paper = {
        "title": "Bayesian WeakS-to-Strong from Text Classification to Generation",
        "id": "2406.03199",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @inproceedings{cui2025bayesian,
                title  = {{Bayesian WeakS-to-Strong from Text Classification to Generation}},
                author = {Ziyun Cui and Ziyang Zhang and Guangzhi Sun and Wen Wu and Chao Zhang},
                year   = 2025,
                booktitle = {The Thirteenth International Conference on Learning Representations}
            }"""),
    }

    def __init__(self, *args: Any, **kwargs: Any):
        self._sums = {"train": RunningSums(), "eval": RunningSums()}
        with note_marks():
            super().__init__(*args, **kwargs)
        refuse_other_strategy(self)
        refuse_split_model(self)
        self._frozen_states = self._keep_frozen_states()
        self._throughput = Throughput()
        self.add_callback(self._throughput)
        self.add_callback(_FreshStart(self._start_afresh, self._finish))

    @contextmanager
    def whole_model(self) -> Iterator[PreTrainedModel]:
        """The student, all its weights on every process: for generation during or after training.

        ZeRO-3 gathers them for the time (a 7B model in bfloat16: 13 GiB more on each GPU); elsewhere they are whole
        already. Every process must enter and leave; inside, each may do as much as it likes.

        Raises:
            ValueError: under FSDP.
        """
        if self.is_fsdp_enabled:
            raise ValueError(
                "FSDP keeps the student in pieces. Call `save_model`, and load what it saved inside "
                "`trl_weaks.distributed.whole_weights()`."
            )
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            yield model

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        side = {name: inputs[name].to(self.args.device) for name in self.side_inputs if name in inputs}
        return super()._prepare_inputs({k: v for k, v in inputs.items() if k not in side}) | side

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._throughput.rows += len(inputs["input_ids"])
        return super().training_step(model, inputs, *args, **kwargs)

    def add_sums(self, values: Mapping[str, Ratio]) -> None:
        """Add one batch's numerators (B,) and denominators (B,) by name, of training or evaluation (`RunningSums`).

        Training logs each ratio under its name, evaluation under the set's (`eval_NAME`, `eval_a_NAME`, `test_NAME`).
        A name `loss` replaces the evaluation's own, which weighs repeated rows on several processes.
        """
        training = self.model.training
        self._sums["train" if training else "eval"].add(self.accelerator, values, drop_repeated=not training)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """One pass over one set, for `evaluate` and `predict`: its metrics carry its name, and none outlives it."""
        self._forget("eval")
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            found = {name: sum(values) / len(values) for name, values in self._metrics["eval"].items()}
            found |= self._sums["eval"].read()
        finally:
            self._forget("eval")
        named = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        exact = {f"{metric_key_prefix}_loss": named.pop(f"{metric_key_prefix}_loss")} if "loss" in found else {}
        output.metrics.update(named | output.metrics | exact)  # a metric that the user computes keeps its name
        return output

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Every row of the dataset, in its order, whatever the settings say of batches: who predicts joins the
        predictions to the rows. Rows that share a sequence (`padding_free`) are answered one by one."""
        asked = self.args
        self.args = copy.copy(asked)
        self.args.train_sampling_strategy, self.args.dataloader_drop_last = "random", False
        if getattr(self, "padding_free", False):
            self.args.per_device_eval_batch_size = 1
        try:
            return super().get_test_dataloader(test_dataset)
        finally:
            self.args = asked

    def _start_afresh(self) -> None:
        self._forget("train")
        self._throughput.restart(self._total_train_tokens)
        for alarm in self._alarms:
            if not self.watches_imitation:
                raise ValueError(
                    f"`ImitationAlarm` watches students of weak labels; `{type(self).__name__}` has none."
                )
            alarm.check(self.eval_dataset, self.args.eval_strategy)

        self._finish()  # what a killed run left
        if self._frozen_states is not None:
            self._frozen_states.begin(self.train_dataset, self.state.num_train_epochs)

    def _keep_frozen_states(self) -> FrozenStates | None:
        if not getattr(self.args, "cache_frozen_layers", False):
            return None
        refuse_engines(self)
        return FrozenStates(self.model, Path(self.args.output_dir, FOLDER))

    def frozen_layers_reused(
        self, inputs: Mapping[str, Tensor], trees: PrefixTrees | None = None
    ) -> AbstractContextManager[None]:
        """A training pass of the model inside reads the states of its frozen layers, or keeps them
        (`cache_frozen_layers`)."""
        if self._frozen_states is None or not self.model.training:
            return nullcontext()
        return self._frozen_states.reused(inputs, trees)

    def _finish(self) -> None:
        """Delete the states of the frozen layers, once no process reads them."""
        if self._frozen_states is not None:
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_local_main_process:
                self._frozen_states.remove()
            self.accelerator.wait_for_everyone()

    @property
    def _alarms(self) -> list[ImitationAlarm]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, ImitationAlarm)]

    def _forget(self, mode: str) -> None:
        self._sums[mode].clear()
        self._metrics[mode].clear()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training:
            logs.update(self._sums["train"].read())
        if self.model.training and "loss" in logs:
            logs.update(self._speed())
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        tokens, seconds, rows = self._throughput.read(self._total_train_tokens)
        if not (seconds > 0 and rows):
            return {}
        devices, rate = self.accelerator.num_processes, tokens / seconds
        speed = {PER_SECOND: rate, PER_DEVICE: rate / devices}
        length = tokens / (rows * devices)
        utilisation = model_flops_utilisation(self.model.config, rate, length, devices, self._peak_flops())
        return speed if utilisation is None else speed | {MFU: utilisation}

    def _peak_flops(self) -> float | None:
        """FLOP/s of this device at the precision trained in; None where TRL does not know, or MFU says nothing."""
        if self.accelerator.device.type != "cuda" or is_peft_model(self.model) or not self.language_model:
            return None
        precision = {"bf16": "bfloat16", "fp16": "float16"}.get(self.accelerator.mixed_precision)
        return get_peak_flops_per_device(self.accelerator, precision or str(self.model.dtype).removeprefix("torch."))

    def _record_schedule(self, mode: str) -> None:
        """What the loss says of itself: `weak/gamma`, the weight of the auxiliary confidence loss."""
        for name, value in self.weak_loss.logged(self._progress()).items():
            self._metrics[mode][name].append(value)

    def _progress(self) -> float:
        """Share of training done, in [0, 1], from the trainer's state, so that resuming keeps it; 1 in evaluation."""
        if not self.model.training:
            return 1.0
        return min(1.0, self.state.global_step / max(1, self.state.max_steps))


class _FreshStart(TrainerCallback):
    """Forgets what an earlier training, or an attempt with larger batches, added and did not log; cleans up after."""

    def __init__(self, start_afresh: Callable[[], None], finish: Callable[[], None]):
        self._start_afresh, self._finish = start_afresh, finish

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start_afresh()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._finish()


def checked_settings(args: TrainingArguments | None, kind: type[Settings], model: Any, suffix: str) -> Settings:
    """The settings, or those of `kind` with an output folder named after the model; the launch is checked too.

    Settings of a class that `kind` extends (TRL's own, or plain `TrainingArguments`) keep all their values, as in TRL,
    but for `kind.of_no_choice`: defaults there that choose what `kind` chooses otherwise.

    Raises:
        ValueError: settings of another trainer, or a launch that would train something else (`refuse_launch`).
    """
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path or type(model).__name__
        args = kind(f"{name.split('/')[-1]}-{suffix}")
    elif isinstance(args, TrainingArguments) and not isinstance(args, kind) and issubclass(kind, type(args)):
        values = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
        args = kind(**{name: value for name, value in values.items() if (name, value) not in kind.of_no_choice})
    elif not isinstance(args, kind):
        raise ValueError(f"`args` must be a `{kind.__name__}`, got `{type(args).__name__}`. It takes the same fields.")
    refuse_launch(args)
    refuse_cache(args)
    return args


def refuse_arguments(given: dict[str, Any], names: tuple[str, ...], reason: str) -> None:
    """Take the arguments out of `given`.

    Raises:
        ValueError: one of them was set.
    """
    for name in names:
        if given.pop(name, None) is not None:
            raise ValueError(f"`{name}` is not supported: {reason}.")


def refuse_empty(dataset: Any, name: str) -> None:
    """Raises ValueError for a dataset without rows, which TRL meets as a bare StopIteration; streams are not asked."""
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise ValueError(f"The {name} dataset is empty. Look at the filter or the split that it comes from.")
