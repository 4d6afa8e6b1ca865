"""Two processes load models whole though ZeRO-3 or FSDP is on: `whole.py FOLDER`, with a saved model in it.

Each process writes what it saw to `FOLDER/seen-RANK.json`.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "CI": "1"}

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from preference_runs import tokenizer  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402

from trl_weaks import WeakSupervisor  # noqa: E402
from trl_weaks.distributed import processes, whole_weights  # noqa: E402


def same(model, saved: dict) -> bool:
    """Whether the model holds exactly the saved weights."""
    state = model.state_dict()
    return all(name in state and torch.equal(state[name].cpu(), value) for name, value in saved.items())


def head(folder: Path) -> list[float] | None:
    """A few weights of a new classification head, which starts at random; None where it was not made."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    return None if model.score.weight.is_meta else model.score.weight[0, :4].tolist()


def refusal(model) -> str:
    try:
        WeakSupervisor(model, tokenizer(), "student")
    except ValueError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    saved = load_file(folder / "model.safetensors")
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # as under `accelerate launch --use_deepspeed`
    seen = {"rank": processes().process_index, "processes": processes().num_processes}
    seen["deepspeed"], seen["mark"] = "deepspeed" in sys.modules, os.environ["ACCELERATE_USE_DEEPSPEED"]
    del os.environ["ACCELERATE_USE_DEEPSPEED"]

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    with whole_weights():
        seen["fsdp whole"] = head(folder)
    seen["fsdp plain"], seen["fsdp kept"] = head(folder), os.environ.pop("ACCELERATE_USE_FSDP")

    if len(sys.argv) > 2:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled for inference only
        from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

        settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
        alive = HfDeepSpeedConfig(settings)  # as a trainer's settings under ZeRO-3 keep one
        with whole_weights():
            model = AutoModelForCausalLM.from_pretrained(folder)
            seen["zero3 whole"], seen["zero3 whole refusal"] = same(model, saved), refusal(model)
        seen["zero3 kept"] = is_deepspeed_zero3_enabled() and alive is not None
        pieces = AutoModelForCausalLM.from_pretrained(folder)
        seen["zero3 plain"], seen["zero3 refusal"] = same(pieces, saved), refusal(pieces)
    (folder / f"seen-{seen['rank']}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
