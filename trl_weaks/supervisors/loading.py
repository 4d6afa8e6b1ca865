"""Models and tokenizers from the Hub or a folder, ready to supervise."""

import json
from pathlib import Path, PurePath
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file

from .._compat import is_adapted
from ..distributed import whole_weights
from .adapter_notes import read_notes
from .completeness import refuse_incomplete

CLASSIFIES = "ForSequenceClassification"


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
    if "num_labels" not in kwargs or is_adapted(model):  # else a new head is wanted
        refuse_incomplete(model, path, kwargs)
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
