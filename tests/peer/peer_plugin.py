"""A pytest plugin: TRL's tests run on the CPU, on rows made here, with the classes named in PEER_CLASS."""

import os

import datasets
import rows
import transformers
import trl
import trl.import_utils as import_utils

import trl_weaks


def on_cpu(kind: type) -> None:
    """TRL's configurations ask for bfloat16 on a GPU."""
    after = kind.__post_init__

    def post_init(self):
        self.use_cpu, self.disable_tqdm = True, True
        if self.bf16 is None:
            self.bf16 = False
        after(self)

    kind.__post_init__ = post_init


def no_such_check(name: str):
    """A checkout may ask about packages that the installed TRL does not know."""
    if name.startswith("is_") and name.endswith("_available"):
        return lambda *args, **kwargs: False
    raise AttributeError(name)


on_cpu(transformers.TrainingArguments)
datasets.load_dataset = rows.load_dataset
import_utils.__getattr__ = no_such_check
import trl.trainer.sft_trainer as sft  # noqa: E402

for moved in ("_chunked_cross_entropy_loss", "_patch_chunked_ce_lm_head", "dft_loss"):
    if not hasattr(sft, moved):
        setattr(sft, moved, None)  # names of a checkout older or newer than the installed TRL
if os.environ["PEER_CLASS"] == "ours":
    for theirs, ours in {
        "SFTTrainer": "WeakSupervisionTrainer",
        "SFTConfig": "WeakSupervisionConfig",
        "DPOTrainer": "WeakPreferenceTrainer",
        "DPOConfig": "WeakPreferenceConfig",
    }.items():
        setattr(trl, theirs, getattr(trl_weaks, ours))
