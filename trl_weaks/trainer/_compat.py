"""Every private or unstable name of TRL and its stack that this package touches, in one place.

`tests/trainer/test_compat.py` is the contract: it fails clearly on a TRL that moved.
"""

import functools
import inspect
import types
from typing import Any

from accelerate import Accelerator
from accelerate.utils import is_peft_model
from trl.data_utils import get_dataset_column_names
from trl.trainer.base_config import _BaseConfig as BaseConfig
from trl.trainer.base_trainer import _BaseTrainer as BaseTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import (
    add_fused_lm_head,
    compute_flops_per_token,
    compute_mfu,
    create_model_from_path,
    get_peak_flops_per_device,
    global_then_local_main_first,
)

__all__ = [
    "BaseConfig",
    "BaseTrainer",
    "DataCollatorForLanguageModeling",
    "DataCollatorForPreference",
    "compute_flops_per_token",
    "compute_mfu",
    "create_model_from_path",
    "get_dataset_column_names",
    "get_peak_flops_per_device",
    "global_then_local_main_first",
    "is_peft_model",
    "parallelism",
    "suppress_seqcls_warning",
    "unbind_fused_head",
]


def parallelism(accelerator: Accelerator, kind: str) -> bool:
    """Whether a kind of parallelism (`"sp"`, `"cp"`, `"tp"`) is on."""
    config = accelerator.parallelism_config
    return config is not None and bool(getattr(config, f"{kind}_enabled"))


def _forward_below(forward: Any) -> Any:
    """The forward that TRL's fused head (`add_fused_lm_head`) keeps in its closure; None for any other forward."""
    function = getattr(forward, "__func__", None)
    code = getattr(function, "__code__", None)
    return inspect.getclosurevars(function).nonlocals["original_forward"] if code in _fused_codes() else None


@functools.cache
def _fused_codes() -> frozenset[types.CodeType]:
    """The code of the forward that TRL makes."""
    constants = add_fused_lm_head.__code__.co_consts
    return frozenset(c for c in constants if isinstance(c, types.CodeType) and "fused_lm_head" in c.co_varnames)


def unbind_fused_head(model: Any) -> None:
    """
    Make TRL's fused head call the forward of the model that it is asked of.

    TRL keeps the plain forward of the model it was made for, so that a deep copy of that model (a reference, an
    average of the weights) would compute with the original's weights.
    """
    fused, below = model.forward, model.forward
    while (deeper := _forward_below(below)) is not None:
        below = deeper
    if below is fused:
        return
    name = f"_forward_without_fused_head_{sum(key.startswith('_forward_without_fused') for key in vars(model))}"

    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head: bool = False, **kwargs):
        if fused_lm_head:
            return fused.__func__(self, *args, fused_lm_head=True, **kwargs)
        return getattr(self, name)(*args, **kwargs)

    setattr(model, name, below)  # on the instance, not in a closure: a bound method, which copies take along
    model.forward = types.MethodType(forward, model)
