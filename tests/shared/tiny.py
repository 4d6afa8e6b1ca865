"""Every tiny model of the tests: random weights from a seed, sizes by one set of names whatever the architecture.

`kind` is transformers' `model_type` (`gpt2`, `opt`, `gpt_neox`, `llama`, `bert`, `mamba`, ...). Settings with no name
of their own here (token ids, dropout, `sliding_window`, ...) are passed on as the architecture spells them. Each call
builds anew, in about 5 ms: a test may train or patch what it gets, and a copy of a stored model would cost 3.
"""

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from trl_weaks.distributed import whole_weights

SPELT = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "kv_heads": "num_key_value_heads",
    "positions": "max_position_embeddings",
}
SPELT_OTHERWISE = {  # where transformers' `attribute_map` does not say it; None: there is no such size
    "gpt2": {"inner": "n_inner"},
    "opt": {"inner": "ffn_dim"},
    "distilbert": {"inner": "hidden_dim"},
    "t5": {"inner": "d_ff"},
    "mamba": {"inner": None, "heads": None},
    "xlstm": {"inner": None, "heads": "num_heads"},
}
# `any_architecture`: the sizes under every name that some configuration has for them.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "rotary_dim": 4,
    "word_embed_proj_dim": 32, "sliding_window": 16, "vocab_size": 64, "state_size": 4, "pad_token_id": 0,
}  # fmt: skip


def config(
    kind: str, vocabulary: int, *, width: int = 16, layers: int = 1, heads: int = 2, inner: int | None = None,
    **settings,
) -> PreTrainedConfig:  # fmt: skip
    """The configuration of a tiny model; `inner` is twice the width (GPT-2: its own four times) unless given, and
    `kv_heads` and `positions` are the architecture's own."""
    if inner is None and kind != "gpt2":
        inner = 2 * width
    sizes = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads, "inner": inner}
    sizes |= {name: settings.pop(name) for name in ("kv_heads", "positions") if name in settings}
    spelt = SPELT | SPELT_OTHERWISE.get(kind, {})
    own = CONFIG_MAPPING[kind].attribute_map  # so that a setting in the architecture's own spelling takes its place
    given = {own.get(spelt[name], spelt[name]): size for name, size in sizes.items() if spelt[name]}
    if kind == "opt":  # a projection after the embeddings, which is not there where the widths are equal
        given["word_embed_proj_dim"] = width
    return AutoConfig.for_model(kind, **given | settings)


def causal_lm(
    kind: str, vocabulary: int, *, seed: int = 0, scale: float = 1.0, noise: float = 0.0, **settings
) -> PreTrainedModel:
    """A decoder-only language model; see `config` for its sizes and `build` for the rest."""
    return build(AutoModelForCausalLM, config(kind, vocabulary, **settings), seed, scale, noise)


def classifier(
    kind: str, vocabulary: int, classes: int = 2, *, seed: int = 0, scale: float = 1.0, noise: float = 0.0, **settings
) -> PreTrainedModel:
    """A sequence classifier of so many classes."""
    made = config(kind, vocabulary, num_labels=classes, **settings)
    return build(AutoModelForSequenceClassification, made, seed, scale, noise)


def encoder_decoder(kind: str, vocabulary: int, **settings) -> PreTrainedModel:
    return build(AutoModelForSeq2SeqLM, config(kind, vocabulary, **settings))


def headless(kind: str, vocabulary: int, **settings) -> PreTrainedModel:
    """Hidden states and no head, as encoders are published."""
    return build(AutoModel, config(kind, vocabulary, **settings))


def any_architecture(
    kind: str, *, noise: float = 0.1, auto: type = AutoModelForCausalLM, **changes
) -> PreTrainedModel:
    """A language model, or what `auto` makes, of any architecture of transformers: width 32, two layers, vocabulary
    64, token 0 pads."""
    known = AutoConfig.for_model(kind).to_dict().keys()
    made = AutoConfig.for_model(kind, **{name: size for name, size in SIZES.items() if name in known} | changes)
    return build(auto, made, noise=noise)


def build(
    auto: type, made: PreTrainedConfig, seed: int = 0, scale: float = 1.0, noise: float = 0.0
) -> PreTrainedModel:
    """A model in float32, in training mode.

    The usual initialisation leaves a tiny model nearly uniform, so that errors hide: `scale` multiplies its matrices,
    `noise` is the standard deviation of what is added to every weight.
    """
    torch.manual_seed(seed)
    with whole_weights():  # under ZeRO-3 too, as a class that is called builds it
        model = auto.from_config(made, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if scale != 1.0 and parameter.dim() > 1:
                parameter.mul_(scale)
            if noise:
                parameter.add_(torch.randn_like(parameter) * noise)
    return model
