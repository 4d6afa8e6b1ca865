"""Whether a model loaded by path has all its weights from there, and what transformers left out of adapters."""

import re
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import cached_file

from .._compat import expected_to_miss, is_adapted, was_read

FILE, PREFIX = "adapter_model.safetensors", "base_model.model."  # of an adapter, and how names begin there
_HUB = ("revision", "token", "cache_dir", "subfolder")


def refuse_incomplete(model: PreTrainedModel, path: str, loaded_with: Mapping[str, Any] | None = None) -> None:
    """See that a model fresh from `from_pretrained` has all its weights from its checkpoint.

    Else it would be another at every loading. Of an adapter that is to say: layers that its base lacks and that were
    not saved with it, such as DeBERTa's pooler under PEFT's `task_type="SEQ_CLS"`. Of a quantised model, and of what
    is offloaded, only the adapter is known.

    Args:
        path, loaded_with: what it was loaded from, and with; what transformers left out of an adapter is read first.

    Raises:
        ValueError: names the weights.
    """
    if not (lost := complete(model, path, loaded_with)):
        return
    own = [name for name in lost if _is_adapters(model, name)]
    modules = sorted({name.rpartition(".")[0] for name in lost})
    why, remedy = "it lacks them", "Use a checkpoint that has them, or fine-tune it first."
    if own:
        why = "transformers reads them neither from its file nor into layers that are offloaded to a disk"
        remedy = (
            "Load it by PEFT, `PeftModel.from_pretrained(base, path)`, with layers that have adapters in memory, and "
            "hand over model and tokenizer."
        )
    elif is_adapted(model):
        why = "neither the adapter nor its base has them"
        remedy = (
            f"Train it again with `modules_to_save={modules}`; `WeakClassificationTrainer` sees to that by itself."
        )
    raise ValueError(f"{path!r} cannot be used: {', '.join(own or lost)} would start at random, as {why}. {remedy}")


def complete(model: PreTrainedModel, path: str, loaded_with: Mapping[str, Any] | None = None) -> list[str]:
    """Read what transformers left out of an adapter; gives the parameters that nothing gave, by name.

    transformers (5.23) leaves out what PEFT saves by a shorter name than it has: DoRA's `lora_magnitude_vector`, where
    the parameter is `lora_magnitude_vector.default.weight`.
    """
    lost = at_random(model)
    if not any(_is_adapters(model, name) for name in lost):
        return lost
    given = dict(loaded_with or {})
    given |= given.get("adapter_kwargs") or {}
    hub = {name: given[name] for name in _HUB if name in given}
    file = cached_file(path, FILE, _raise_exceptions_for_missing_entries=False, **hub)
    saved = load_file(file) if file else {}
    [adapter] = model.active_adapters()
    left = []
    for name in lost:
        parameter = model.get_parameter(name)
        value = saved.get(PREFIX + name.removesuffix(".weight").removesuffix(f".{adapter}"))
        if value is None or parameter.is_meta or value.shape != parameter.shape:
            left.append(name)
        else:
            parameter.data.copy_(value)
    return left


def at_random(model: PreTrainedModel) -> list[str]:
    """The parameters of a model fresh from `from_pretrained` that no checkpoint gave, by name.

    What an adapter's own copy stands in for, what PEFT does not save since its settings say it (AdaLoRA's `ranknum`),
    and what transformers expects to be missing does not count; nor do weights of a base that is quantised, or that
    are offloaded, which bear no mark; nor does anything where no parameter bears transformers' mark.
    """
    expected = [re.compile(one) for one in expected_to_miss(model)]
    for place, layer in model.named_modules():
        expected += [re.compile(re.escape(f"{place}.{one}.")) for one in getattr(layer, "other_param_names", ())]
    quantised = getattr(model, "hf_quantizer", None) is not None
    read = {
        name: was_read(value)
        for name, value in model.named_parameters()
        if ".original_module." not in name
        and not any(one.search(name) for one in expected)
        and (_is_adapters(model, name) or not (value.is_meta or quantised))
    }
    return [name for name, found in read.items() if not found] if any(read.values()) else []


def _is_adapters(model: PreTrainedModel, parameter: str) -> bool:
    return is_adapted(model) and any(f".{name}." in f"{parameter}." for name in model.active_adapters())
