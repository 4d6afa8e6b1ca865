"""The output layer of a causal LM: its weight, its bias, and what the model does to the logits afterwards."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig


@dataclass(frozen=True)
class LogitTransform:
    """`softcap tanh(scale raw / softcap)`, as Cohere, Gemma 2, Granite, Falcon-H1 and others post-process logits."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> "LogitTransform":
        """Read the scale under any of the names transformers models give it, and the soft cap."""
        config = config.get_text_config()
        scale = 1.0
        for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
            if getattr(config, name, None) is not None:
                scale = float(getattr(config, name))
                break
        else:
            divisor = getattr(config, "logits_scaling", None)  # Granite, MiniCPM divide; HyperCLOVA X multiplies
            if divisor is not None:
                scale = float(divisor if config.model_type == "hyperclovax" else 1 / divisor)
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(scale, None if softcap is None else float(softcap))

    @property
    def trivial(self) -> bool:
        return self.scale == 1.0 and self.softcap is None

    def forward(self, raw: Tensor) -> Tensor:
        """Logits, written over `raw`."""
        if self.scale != 1.0:
            raw.mul_(self.scale)
        if self.softcap is not None:
            raw.div_(self.softcap).tanh_().mul_(self.softcap)
        return raw

    def slope(self, logits: Tensor) -> Tensor | None:
        """Derivative of the logits with respect to the raw ones, from the logits; `None` where it is 1."""
        if self.trivial:
            return None
        if self.softcap is None:
            return torch.full((), self.scale, dtype=logits.dtype, device=logits.device)
        return (logits / self.softcap).square_().neg_().add_(1).mul_(self.scale)


def head_parameters(head: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Full weight `(V, H)` and bias of the head, differentiable; FSDP2 shards are gathered, once per call."""
    weight, bias = head.weight, getattr(head, "bias", None)
    full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in (weight, bias) if p is not None]
    return full[0], full[1] if bias is not None else None


def gathered(*parameters: Tensor | None) -> AbstractContextManager:
    """Under DeepSpeed ZeRO-3, a context in which these parameters are whole; otherwise nothing."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    # an available one (tied to the embedding) must not be partitioned again on leaving
    away = {
        id(p): p
        for p in parameters
        if getattr(p, "ds_status", ZeroParamStatus.AVAILABLE) is not ZeroParamStatus.AVAILABLE
    }
    return deepspeed.zero.GatheredParameters(list(away.values())) if away else nullcontext()
