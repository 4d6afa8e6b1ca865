"""Adapters of a student of classes: all that starts at random outside of them is trained and saved along."""

import copy
import inspect
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peft import PeftConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from ...supervisors.adapters import adapter_layers, base_of
from .._compat import is_peft_model
from ..weak_classification_config import WeakClassificationConfig

logger = logging.getLogger(__name__)

_PEFTS_OWN = ("classifier", "score")  # what PEFT adds to `modules_to_save` under `task_type="SEQ_CLS"`
_WRAPPED = re.compile(r"modules_to_save\.[^.]+\.|original_module\.|base_layer\.")


def with_adapters(
    model: PreTrainedModel, peft_config: PeftConfig | None, args: WeakClassificationConfig, new: Sequence[str] | None
) -> Any:
    """The student, wrapped with LoRA or another adapter where `peft_config` asks for it; modules that start at random
    are then trained and saved with it.

    Args:
        new: Parameters that the checkpoint did not have; None where that is not known.

    Raises:
        ValueError: adapters, old or new, that leave the classification head or what is new untrained or unsaved, or a
            model that has adapters already beside `peft_config`, or prompts before the texts of a decoder; says the
            remedy.
    """
    _refuse_prompts(model, [*getattr(model, "peft_config", {}).values(), *filter(None, [peft_config])])
    if peft_config is not None:
        model = _add(model, peft_config, args, new)
    _check(model, new, args.process_index == 0)
    return model


def _refuse_prompts(model: nn.Module, configs: Iterable[PeftConfig]) -> None:
    """Learned tokens before the text hide its tokens, and a decoder then takes the last place of a row for its last
    token, which is padding in all rows but the longest. Prefixes are given beside the text.

    Raises:
        ValueError: such a kind of prompt learning with a student that looks for padding.
    """
    for config in configs:
        if not getattr(config, "is_prompt_learning", False) or config.peft_type == "PREFIX_TUNING":
            continue
        base = base_of(model)
        if "pad_token_id" in _source_of(type(base).forward):
            raise ValueError(
                f"`{type(config).__name__}` puts learned tokens before each text, by which {type(base).__name__} "
                "loses sight of the padding, and would read its prediction there. Use LoRA, or `PrefixTuningConfig`."
            )


def _source_of(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _add(model: PreTrainedModel, peft_config: PeftConfig, args: WeakClassificationConfig, new: Any) -> Any:
    if is_peft_model(model):
        raise ValueError("The model has adapters already: merge them first, or leave `peft_config` out.")
    if peft_config.task_type != "SEQ_CLS" and not getattr(peft_config, "modules_to_save", None):
        raise ValueError(
            f"`peft_config` has `task_type={peft_config.task_type!r}`, which leaves the classification head "
            "untrained. Set `task_type='SEQ_CLS'`."
        )
    plugin = args.deepspeed_plugin
    zero3 = plugin is not None and plugin.zero_stage == 3
    # DeepSpeed ZeRO-3 gathers into one dtype, so adapters keep that of the model there.
    model = get_peft_model(model, _with_new(peft_config, new or ()), autocast_adapter_dtype=not zero3)
    if args.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def _check(model: nn.Module, new: Sequence[str] | None, main_process: bool) -> None:
    base = base_of(model)
    if not adapter_layers(base) and not is_peft_model(model):
        return
    own, head = _own_parameters(base), _head(base)
    trained = [name for name, parameter in base.named_parameters() if parameter.requires_grad]
    saved = {_plain(name) for name in trained if ".modules_to_save." in name}
    lost = [name for name in new or () if name not in saved]
    if not lost and head is not None and not _is_trained(head, trained, saved, own):
        whole = head.split(".")[0] if f"{head}.weight" in _beside_backbone(base, own) else head
        lost = [name for name in own.values() if name.startswith(f"{whole}.")]
    if lost:
        raise ValueError(
            f"The adapters leave {', '.join(lost)} untrained and unsaved: the classification head, or layers that "
            "start at random, so that the student that is loaded again would be another one. Set "
            f"`task_type='SEQ_CLS'` and `modules_to_save={_modules(lost)}`; a `PeftModel` that was loaded needs "
            "`is_trainable=True`."
        )
    beside = [name for name in _beside_backbone(base, own) if name not in saved and not name.startswith(f"{head}.")]
    if beside and new is None and main_process:
        logger.warning(
            "The adapters neither train nor save %s. If they started at random, as transformers says when a model is "
            "loaded, the student that is loaded again is another one: give `modules_to_save=%s`.",
            ", ".join(beside), _modules(beside),
        )  # fmt: skip


def _with_new(peft_config: PeftConfig, new: Iterable[str]) -> PeftConfig:
    """The settings, in a copy where `modules_to_save` has to grow by the modules of these parameters."""
    if not hasattr(peft_config, "modules_to_save"):
        return peft_config
    given = peft_config.modules_to_save or []
    given = [given] if isinstance(given, str) else list(given)
    covered = [*given, *(_PEFTS_OWN if peft_config.task_type == "SEQ_CLS" else ())]
    more = [module for module in _modules(new) if not _is_in(module, covered)]
    if not more:
        return peft_config
    peft_config = copy.copy(peft_config)
    peft_config.modules_to_save = [*given, *more]
    return peft_config


def _modules(parameters: Iterable[str]) -> list[str]:
    """The modules that hold these parameters, without those inside of others."""
    found = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    return [one for one in found if one and not any(one.startswith(f"{other}.") for other in found if other)]


def _is_in(module: str, names: Sequence[str]) -> bool:
    """Whether PEFT takes the module, or one that it lies in, for one of these names."""
    parts = module.split(".")
    return any(".".join(parts[:n]).endswith(name) for n in range(1, len(parts) + 1) for name in names)


def _plain(name: str) -> str:
    """A parameter's name before PEFT put anything around its module."""
    return _WRAPPED.sub("", name)


def _own_parameters(base: PreTrainedModel) -> dict[str, str]:
    """The model's parameters, those of adapters left out: their names, and what these were before the adapters."""
    names = [name for name, _ in base.named_parameters()]
    added = set()
    for path in adapter_layers(base):
        kept = tuple(f"{path}.{inner}." for inner in ("base_layer", "original_module"))
        added |= {name for name in names if name.startswith(f"{path}.") and not name.startswith(kept)}
    return {name: _plain(name) for name in names if name not in added}


def _beside_backbone(base: PreTrainedModel, own: Mapping[str, str]) -> list[str]:
    prefix = base.base_model_prefix
    if not prefix or not hasattr(base, prefix):
        return []
    return [name for name in own.values() if not name.startswith(f"{prefix}.")]


def _head(base: PreTrainedModel) -> str | None:
    """What the classification head was called before the adapters: the last linear layer with an output for each
    class, beside the backbone where there is one."""
    own = _own_parameters(base)
    beside, classes = set(_beside_backbone(base, own)), base.config.num_labels
    found = [
        _plain(f"{name}.").removesuffix(".")
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes and f"{name}.weight" in own
    ]
    return next(reversed([one for one in found if f"{one}.weight" in beside] or found), None)


def _is_trained(head: str, trained: Iterable[str], saved: Iterable[str], own: Mapping[str, str]) -> bool:
    """Whether the head is trained whole, as one of `saved`, or by an adapter of its own."""
    at_head = any(name.startswith(f"{head}.") and name not in own for name in trained)
    return at_head or any(name.startswith(f"{head}.") for name in saved)
