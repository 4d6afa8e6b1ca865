"""Every private or unstable name of TRL and its stack that this package touches, in one place.

`tests/trainer/test_compat.py` is the contract: it fails clearly on a TRL that moved.
"""

from accelerate import Accelerator
from accelerate.utils import is_peft_model
from trl.data_utils import get_dataset_column_names
from trl.trainer.base_config import _BaseConfig as BaseConfig
from trl.trainer.base_trainer import _BaseTrainer as BaseTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import (
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
]


def parallelism(accelerator: Accelerator, kind: str) -> bool:
    """Whether a kind of parallelism (`"sp"`, `"cp"`, `"tp"`) is on."""
    config = accelerator.parallelism_config
    return config is not None and bool(getattr(config, f"{kind}_enabled"))
