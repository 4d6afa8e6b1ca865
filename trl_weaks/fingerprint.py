"""Short digests that say whether two labels were made by the same supervisor under the same settings."""

import hashlib
import json
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Labeller(Protocol):
    """A model and its tokenizer; where something else runs the model (None), its config and an identity instead."""

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase


SAMPLES = 64  # values read from every parameter: training moves nearly all of them


def digest(*parts: object) -> str:
    """16 hexadecimal digits of SHA-256 over the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def supervisor_fingerprint(supervisor: Labeller) -> str:
    """Digest of the model's configurations, of a sample of every weight, and of the whole tokenizer."""
    model = supervisor.model
    config = (supervisor.config if model is None else model.config).to_diff_dict()
    # Saving a model, which one process of several does, writes `architectures` and `dtype` into its configuration.
    for volatile in ("_name_or_path", "transformers_version", "use_cache", "architectures", "dtype"):
        config.pop(volatile, None)
    generation = getattr(model, "generation_config", None)  # e.g. a repetition penalty
    config["generation"] = generation.to_diff_dict() if generation else {}
    config["generation"].pop("transformers_version", None)
    backend = json.loads(supervisor.tokenizer.backend_tokenizer.to_str())
    for volatile in ("truncation", "padding"):
        backend.pop(volatile, None)
    weights = supervisor.identity if model is None else _sampled(model)
    special = supervisor.tokenizer.special_tokens_map
    template = supervisor.tokenizer.chat_template
    return digest(json.dumps(config, sort_keys=True, default=str), weights, backend, special, template)


def _sampled(model: PreTrainedModel) -> str:
    """Digest of names, shapes and some values of all weights."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().reshape(-1)
        picked = flat[:: max(1, flat.numel() // SAMPLES)][: 2 * SAMPLES]
        weights.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        weights.update(picked.to("cpu", torch.float64).numpy().tobytes())
    return weights.hexdigest()
