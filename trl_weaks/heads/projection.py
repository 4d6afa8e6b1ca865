"""The output layer of a causal LM: its weight, its bias, and what the model does to the logits afterwards."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

# Gemma and its kin, RecurrentGemma, xLSTM.
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class LogitTransform:
    """`softcap tanh(scale raw / softcap)`, as Cohere, Gemma 2, Granite, Falcon-H1 and others post-process logits."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> "LogitTransform":
        """Read the scale, under any of the names transformers models give it, and the soft cap."""
        config = config.get_text_config()
        scale = 1.0
        for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
            if getattr(config, name, None) is not None:
                scale = float(getattr(config, name))
                break
        else:
            divisor = getattr(config, "logits_scaling", None)  # Granite, MiniCPM3 divide; HyperCLOVA X multiplies
            if divisor is not None:
                scale = float(divisor if config.model_type == "hyperclovax" else 1 / divisor)
        caps = (getattr(config, name, None) for name in _SOFTCAPS)
        softcap = next((float(cap) for cap in caps if cap is not None), None)
        return cls(scale, softcap)

    def forward(self, raw: Tensor) -> Tensor:
        """Logits, written over `raw`."""
        if self.scale != 1.0:
            raw.mul_(self.scale)
        if self.softcap is not None:
            raw.div_(self.softcap).tanh_().mul_(self.softcap)
        return raw

    def slope(self, logits: Tensor) -> Tensor | None:
        """Derivative of the logits with respect to the raw ones, from the logits; `None` where it is 1."""
        if self.softcap is None:
            return None if self.scale == 1.0 else logits.new_full((), self.scale)
        return (logits / self.softcap).square_().neg_().add_(1).mul_(self.scale)


def head_parameters(head: nn.Module | None) -> tuple[Tensor, Tensor | None] | None:
    """
    Weight `(V, H)` and bias of an output layer, differentiable, or `None` where it is more than a matrix and a bias.

    FSDP2 shards are gathered, once per call. A LoRA adapter on the head is folded into the weight, which is exact
    without adapter dropout.
    """
    if hasattr(head, "modules_to_save") and not getattr(head, "disable_adapters", True):  # PEFT's trained copy
        head = head.modules_to_save[head.active_adapters[0]]
    delta = 0
    if hasattr(head, "get_base_layer"):
        if not _is_plain_lora(head):
            return None
        if not (head.merged or head.disable_adapters):
            delta = sum(head.get_delta_weight(name) for name in head.active_adapters if name in head.lora_A)
        head = head.get_base_layer()
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if weight is None or not weight.is_floating_point():  # no head, or a quantised one
        return None
    weight, bias = _whole(weight), None if bias is None else _whole(bias)
    return (weight if isinstance(delta, int) else weight + delta.to(weight.dtype)), bias


def gathered(head: nn.Module | None) -> AbstractContextManager:
    """
    Under DeepSpeed ZeRO-3, a context in which the head's parameters are whole; otherwise nothing.

    Inside the engine's forward, reading a parameter as an attribute gathers it and registers it with the running
    module, so that backward gathers it again; `GatheredParameters` would leave backward with an empty weight.

    Raises:
        RuntimeError: gradients are wanted outside of the engine's forward, where backward could not gather the head.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if head is None or not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    parameters = [getattr(module, name) for module in head.modules() for name in list(module._parameters)]
    # one that is whole already must not be partitioned on leaving
    away = [p for p in parameters if getattr(p, "ds_status", None) is ZeroParamStatus.NOT_AVAILABLE]
    if away and torch.is_grad_enabled():
        raise RuntimeError(
            "ZeRO-3 keeps the output layer in pieces outside of the engine's forward, so this loss would have no "
            "gradient there. Call the wrapped model (`trainer.model_wrapped`), or use ZeRO-2."
        )
    return deepspeed.zero.GatheredParameters(away) if away else nullcontext()


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def _is_plain_lora(head: nn.Module) -> bool:
    """Whether the adapters in use add a matrix to the weight, always the same one, and nothing else."""
    if not hasattr(head, "lora_A") or any(getattr(head, "use_dora", {}).values()):
        return False
    active = [name for name in head.active_adapters if name in head.lora_A]
    if any(name in getattr(head, "lora_variant", {}) for name in active):  # with a forward of its own, such as aLoRA
        return False
    if any(head.lora_B[name].bias is not None for name in active):
        return False
    dropouts = [head.lora_dropout[name] for name in head.active_adapters if name in head.lora_dropout]
    return not (head.training and any(isinstance(d, nn.Dropout) and d.p > 0 for d in dropouts))
