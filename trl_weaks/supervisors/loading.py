"""Models and tokenizers from the Hub or a folder, ready to supervise."""

import json
import re
from pathlib import Path, PurePath
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, find_adapter_config_file

from ..distributed import whole_weights
from .adapter_notes import read_notes

CLASSIFIES = "ForSequenceClassification"
ADAPTER_WEIGHTS, _BY_PEFT = "adapter_model.safetensors", "base_model.model."  # its file, and how names begin there
_READ = "_is_hf_initialized"  # transformers' mark of a parameter that a checkpoint gave; a contract test holds it


def hub_id(name: str | None) -> str | None:
    """The name where it can be a model's on the Hub; None for a folder's: cards publish no path of this machine."""
    try:
        validate_repo_id(name or "/")
    except HFValidationError:
        return None
    return None if Path(name).exists() else name


def name_of(path: str | Path) -> str:
    """What a supervisor is called where no name is given: the last part of its path."""
    return PurePath(path).name or Path(path).resolve().name


def load(
    path: str | Path, auto: Any, device: str | torch.device | None = None, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer; a missing pad token is set to the end-of-sequence token, in both.

    Padding is masked wherever we read, so the borrowed token is never scored.

    Args:
        path: a model of the Hub or a folder; of a LoRA adapter, which is then loaded on its base.
        auto: the class that loads it, e.g. `AutoModelForCausalLM`.
        device: where to put it; by default this process's accelerator, or the CPU.
        kwargs: for `from_pretrained`, such as `dtype`, `revision` or `quantization_config`; `revision` also goes to
            the tokenizer. `dtype` is the checkpoint's own by default.

    Raises:
        ValueError: it cannot be found or loaded, is the address of a server, has no head of this kind, or lacks
            weights that would start at random; names it.
    """
    path = str(path)
    _refuse_server(path)
    shared = {name: kwargs[name] for name in ("revision", "token", "trust_remote_code") if name in kwargs}
    device = PartialState().device if device is None else _device(device)
    _refuse_other_head(path, auto, kwargs, shared)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **shared)
        with whole_weights():
            named, noted = read_notes(path, **shared)
            model = auto.from_pretrained(path, **named | kwargs)
    except (OSError, ValueError, ImportError) as error:
        missing = "/" in path and path[:1] in "./~" and not Path(path).expanduser().exists()
        reason = "no such folder" if missing else str(error).strip().splitlines()[0]
        raise ValueError(f"{path!r} cannot be loaded as a supervisor: {reason}") from error
    if "num_labels" not in kwargs or _is_adapted(model):  # else a new head is wanted
        refuse_incomplete(model, path, **{name: shared[name] for name in ("revision", "token") if name in shared})
    for key, value in noted.items():
        setattr(model.config, key, value)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"{path!r}: its tokenizer has neither a pad nor an eos token; set one and pass both parts."
            )
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if not hasattr(model, "hf_device_map"):  # else `device_map` has placed it
        model = model.to(device)
    return model, tokenizer


def _refuse_server(path: str) -> None:
    if path.startswith(("http://", "https://")):
        raise ValueError(
            f"{path.partition('#')[0].rpartition('@')[2]!r} is the address of a server: ask it with "
            "`ServerSupervisor.from_url` and `ask_servers`, and read its answers by `labels_from_completions`."
        )


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: {str(error).splitlines()[0]}") from error


def _refuse_other_head(path: str, auto: Any, kwargs: dict[str, Any], shared: dict[str, Any]) -> None:
    """Refuse a whole checkpoint whose head is of another kind: transformers makes a new one, of random weights."""
    try:
        architectures = AutoConfig.from_pretrained(path, **shared).architectures or []
    except (OSError, ValueError, ImportError):  # an adapter, which brings its head, or what loading will name
        return
    asked, found = auto is AutoModelForSequenceClassification, any(CLASSIFIES in name for name in architectures)
    if architectures and asked and not found and "num_labels" not in kwargs:
        raise ValueError(
            f"{path!r} is a {architectures[0]} and has no head that classifies; a new one would vote at random. "
            "Fine-tune it, load it as a `WeakSupervisor`, or give `num_labels` where a new head is wanted."
        )
    if found and not asked:
        raise ValueError(f"{path!r} is a {architectures[0]} and writes no text; load it as a `WeakClassifier`.")


def refuse_incomplete(model: PreTrainedModel, path: str, **hub: Any) -> None:
    """See that a model fresh from `from_pretrained` has all its weights from its checkpoint.

    Else it would be another at every loading. Of an adapter that is to say: layers that its base lacks and that were
    not saved with it, such as DeBERTa's pooler under PEFT's `task_type="SEQ_CLS"`. Of quantised models nothing is
    known.

    Args:
        path: what it was loaded from; of an adapter, what transformers left out of it is read first.
        hub: `revision`, `token`.

    Raises:
        ValueError: names the weights.
    """
    lost = complete(model, path, **hub)
    if not lost:
        return
    modules = sorted({name.rpartition(".")[0] for name in lost})
    why, remedy = "it lacks them", "Use a checkpoint that has them, or fine-tune it first."
    if _is_adapted(model):
        why = "neither the adapter nor its base has them"
        remedy = (
            f"Train it again with `modules_to_save={modules}`; `WeakClassificationTrainer` sees to that by itself."
        )
    raise ValueError(f"{path!r} cannot be used: {', '.join(lost)} would start at random, as {why}. {remedy}")


def complete(model: PreTrainedModel, path: str, **hub: Any) -> list[str]:
    """Read what transformers left out of an adapter; gives the parameters that nothing gave, by name.

    transformers (5.23) leaves out what PEFT saves by a shorter name than it has: DoRA's `lora_magnitude_vector`, where
    the parameter is `lora_magnitude_vector.default.weight`.
    """
    lost = [] if getattr(model, "hf_quantizer", None) is not None else at_random(model)
    if not lost or not _is_adapted(model):
        return lost
    file = cached_file(path, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False, **hub)
    saved = load_file(file) if file else {}
    [adapter] = model.active_adapters()
    left = []
    for name in lost:
        parameter = model.get_parameter(name)
        value = saved.get(_BY_PEFT + name.removesuffix(".weight").removesuffix(f".{adapter}"))
        if value is None or value.shape != parameter.shape:
            left.append(name)
        else:
            parameter.data.copy_(value)
    return left


def _is_adapted(model: PreTrainedModel) -> bool:
    return getattr(model, "_hf_peft_config_loaded", False)


def at_random(model: PreTrainedModel) -> list[str]:
    """The parameters of a model fresh from `from_pretrained` that no checkpoint gave, by name.

    What an adapter's own copy stands in for, what lies elsewhere (`meta`), what PEFT does not save since its settings
    say it (AdaLoRA's `ranknum`), and what transformers expects to be missing does not count; nor does anything where
    no parameter has transformers' mark.
    """
    expected = [re.compile(one) for one in model._keys_to_ignore_on_load_missing or ()]
    for place, layer in model.named_modules():
        expected += [re.compile(re.escape(f"{place}.{one}.")) for one in getattr(layer, "other_param_names", ())]
    own = {
        name: getattr(value, _READ, False)
        for name, value in model.named_parameters()
        if not value.is_meta and ".original_module." not in name and not any(one.search(name) for one in expected)
    }
    return [name for name, read in own.items() if not read] if any(own.values()) else []


def classifies(path: str | Path, **kwargs: Any) -> bool:
    """Whether the checkpoint's own architecture is a sequence classifier; of an adapter: its task, else its base."""
    path = str(path)
    _refuse_server(path)
    shared = {name: kwargs[name] for name in ("revision", "token", "trust_remote_code") if name in kwargs}
    try:
        architectures = AutoConfig.from_pretrained(path, **shared).architectures or []
    except (OSError, ValueError) as error:
        adapter = _adapter_file(path, **{k: v for k, v in shared.items() if k != "trust_remote_code"})
        if adapter is not None:  # its folder has no config.json
            tuned = json.loads(Path(adapter).read_text(encoding="utf-8"))
            if tuned.get("task_type"):
                return tuned["task_type"] == "SEQ_CLS"
            base = {key: kwargs[key] for key in kwargs if key != "revision"}  # the adapter's own
            return classifies(tuned["base_model_name_or_path"], **base)
        raise ValueError(f"{path!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    return any(CLASSIFIES in name for name in architectures)


def _adapter_file(path: str, **hub: Any) -> str | None:
    """The file of an adapter's settings; None where there is none, or no such place."""
    try:
        return find_adapter_config_file(path, **hub)
    except OSError:
        return None
