"""What the three trainers share: the paper, float32 side inputs, progress, and the refusals made before long work."""

import textwrap
from typing import Any, TypeVar

from transformers import TrainingArguments

from .parallel_checks import ParallelChecks, refuse_launch

Settings = TypeVar("Settings", bound=TrainingArguments)


class WeakTrainer(ParallelChecks):
    """Mixin for trainers under weak supervision; stands before the trainer of TRL that it extends.

    Attributes:
        side_inputs: float columns of a batch that no model takes. They stay float32: DeepSpeed casts every float
            input to the model's dtype, and bfloat16 rounds confidences above 0.998 to 1.
    """

    side_inputs: tuple[str, ...] = ()
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

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        side = {name: inputs[name].to(self.args.device) for name in self.side_inputs if name in inputs}
        return super()._prepare_inputs({k: v for k, v in inputs.items() if k not in side}) | side

    def _progress(self) -> float:
        """Share of training done, in [0, 1], from the trainer's state, so that resuming keeps it; 1 in evaluation."""
        if not self.model.training:
            return 1.0
        return min(1.0, self.state.global_step / max(1, self.state.max_steps))


def checked_settings(args: TrainingArguments | None, kind: type[Settings], model: Any, suffix: str) -> Settings:
    """The settings, or those of `kind` with an output folder named after the model; the launch is checked too.

    Raises:
        ValueError: settings of another trainer, or a launch that would train something else (`refuse_launch`).
    """
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path or type(model).__name__
        args = kind(f"{name.split('/')[-1]}-{suffix}")
    elif not isinstance(args, kind):
        raise ValueError(f"`args` must be a `{kind.__name__}`, got `{type(args).__name__}`. It takes the same fields.")
    refuse_launch(args)
    return args


def refuse_arguments(given: dict[str, Any], names: tuple[str, ...], reason: str) -> None:
    """Take the arguments out of `given`.

    Raises:
        ValueError: one of them was set.
    """
    for name in names:
        if given.pop(name, None) is not None:
            raise ValueError(f"`{name}` is not supported: {reason}.")
