"""Trains a list of cells, one after the other, in one launch of one or two CPU processes.

`python cells.py FOLDER CELL...`, alone or under torchrun, where a cell is `strategy/objective[/option...]`. Each cell
first proves that its strategy is on, then trains from the same weights, then saves to `FOLDER/<objective>`. Rank 0
keeps what was seen in `FOLDER/<objective>/seen.json`.
"""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "CI": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from objectives import RANK, ROWS, WORLD, build  # noqa: E402


def start() -> None:
    """A process group whose collectives fail after five minutes instead of thirty."""
    torch.set_num_threads(1)
    if WORLD > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=float(os.environ.get("TRL_WEAKS_TIMEOUT", 300))))


@contextmanager
def launch_of(strategy: str):
    """What accelerate knows when a cell begins: nothing of the cells before it, as in a launch of its own.

    It never enters its FSDP branch on a CPU: for those cells, and for nothing else, gloo stands for a GPU's backend.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        unset_hf_deepspeed_config()
        for name in [n for n in os.environ if n.startswith(("ACCELERATE_", "FSDP_"))]:
            del os.environ[name]

    own = PartialState._prepare_backend
    forget()
    try:
        if strategy == "fsdp2" and WORLD > 1:
            os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
            PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
        yield
    finally:
        PartialState._prepare_backend = own
        forget()


def deepspeed_settings(strategy: str, options: list[str]) -> dict:
    """The project's own file; `zero1` is zero2's at stage 1. Only `cpuadam` keeps the optimizer that is compiled."""
    name = "zero2" if strategy == "zero1" else strategy
    settings = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text())
    if strategy == "zero1":
        settings["zero_optimization"]["stage"] = 1
    if strategy.endswith("offload") and "cpuadam" not in options:
        settings["zero_force_ds_cpu_optimizer"] = False
    return settings


def arguments(folder: Path, strategy: str, options: list[str]) -> dict:
    # At its default epsilon of 1e-8, Adam divides gradients that are nothing but rounding by themselves: the order in
    # which two processes add up then moves single weights by up to 1e-5, though the gradients agree to 1e-7.
    given = {
        "adam_epsilon": 1e-6,
        "output_dir": str(folder), "use_cpu": True, "bf16": "bf16" in options, "report_to": "none",
        "dataloader_pin_memory": False, "disable_tqdm": True, "logging_steps": 1, "seed": 3, "num_train_epochs": 2,
        "learning_rate": 1e-3, "max_grad_norm": 1.0, "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": 1 if WORLD == 2 else 4, "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 2 if WORLD == 2 else 1, "gradient_checkpointing": "checkpointing" in options,
        "save_strategy": "steps" if {"die", "resume"} & set(options) else "no", "save_steps": 2,
    }  # fmt: skip
    if "sgd" in options:  # neither Adam nor clipping, which would hide a gradient of the wrong scale
        given |= {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
    if "trees" in options:  # rows that meet on one process
        given |= {"per_device_train_batch_size": 4 // WORLD, "gradient_accumulation_steps": 1}
    if strategy.startswith("zero"):
        given["deepspeed"] = deepspeed_settings(strategy, options)
    if strategy == "fsdp2":
        given["fsdp"] = True
        given["fsdp_config"] = {
            "version": 2, "reshard_after_forward": True, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "state_dict_type": "FULL_STATE_DICT",
        }  # fmt: skip
    return given


def prove(trainer, strategy: str) -> dict:
    """What shows that the strategy is on, read off the wrapped model in the middle of training."""
    engine, parameters = trainer.model_wrapped, list(trainer.model.parameters())
    seen = {"engine": type(engine).__name__, "processes": trainer.accelerator.num_processes}
    seen["group"] = dist.get_world_size() if dist.is_initialized() else 1
    seen["total"] = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    seen["local"] = seen["total"]
    if strategy.startswith("zero"):
        seen["stage"] = engine.zero_optimization_stage()
        seen["optimizer"] = type(engine.optimizer.optimizer).__name__
        seen["offload"] = str(engine.zero_offload_optimizer().device) if engine.zero_offload_optimizer() else None
    if strategy.startswith("zero3"):
        seen["local"] = sum(p.ds_tensor.numel() for p in parameters)
    if strategy == "fsdp2":
        seen["local"] = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in parameters)
        seen["sharded"] = all(hasattr(p, "to_local") for p in parameters)
    moments = [s["exp_avg"] for s in trainer.optimizer.optimizer.state.values() if "exp_avg" in s]
    seen["moments"] = sum(m.to_local().numel() if hasattr(m, "to_local") else m.numel() for m in moments)
    return seen


def watch(trainer, strategy: str, options: list[str], seen: dict) -> None:
    """Look at the engine and at the float inputs during the steps; kill rank 1 where the cell says so."""
    from transformers import TrainerCallback

    prepare = trainer._prepare_inputs

    def looked_at(inputs):
        before = {k: v.clone() for k, v in inputs.items() if torch.is_tensor(v) and v.is_floating_point()}
        after = prepare(inputs)
        seen["batches"] = seen.get("batches", 0) + 1
        seen["trees"] = seen.get("trees", 0) + ("tree_nodes" in after)
        seen["rounding"] = max([seen.get("rounding", 0.0), *(
            float((after[k].double() - v.double()).abs().max()) for k, v in before.items())])  # fmt: skip
        seen["floats"] = sorted({f"{k} {after[k].dtype}" for k in before})
        cast = trainer._prepare_input(torch.tensor([0.9985]))  # what DeepSpeed does to all other floats
        seen["control"] = abs(float(cast) - 0.9985)
        if "die" in options and RANK == 1 and trainer.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return after

    class Proof(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == state.max_steps:
                seen.update(prove(trainer, strategy))

    trainer._prepare_inputs = looked_at
    trainer.add_callback(Proof())


def generate(trainer, folder: Path, seen: dict) -> None:
    """The student answers in the middle of training, each process other prompts and another number of them."""
    from accelerate.utils import gather_object
    from preference_runs import pairs, tokenizer
    from transformers import TrainerCallback

    from trl_weaks import WeakSupervisor

    prompts = list(dict.fromkeys(pairs(ROWS)["prompt"]))[:5]

    class Answers(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                share = prompts[RANK::WORLD]
                with trainer.whole_model() as student:
                    supervisor = WeakSupervisor(student, tokenizer(), "student", max_tokens_in_flight=1)
                    found = supervisor.generate(share, num_candidates=2, max_new_tokens=6)
                texts = [[prompt, [c.text for c in row]] for prompt, row in zip(share, found, strict=True)]
                seen["answers"] = sorted(gather_object(texts) if WORLD > 1 else texts)

    trainer.add_callback(Answers())


def prefer(trainer, folder: Path, seen: dict) -> None:
    """The trained student's own candidates become preference pairs; its loss is evaluated row by row."""
    from datasets import Dataset
    from preference_runs import model, pairs, tokenizer

    from trl_weaks import WeakEnsemble, WeakSupervisor, build_preferences

    prompts = list(dict.fromkeys(pairs(ROWS)["prompt"]))[:5]
    asked = Dataset.from_dict({"example_id": [str(i) for i in range(len(prompts))], "prompt": prompts})
    ensemble = WeakEnsemble([WeakSupervisor(model(seed=5), tokenizer(), "weak")])
    with trainer.whole_model() as student:
        own = WeakSupervisor(student, tokenizer(), "student")
        made = build_preferences(own, ensemble, asked, 4, folder / "pairs", max_new_tokens=6, batch_size=1)
    seen["pairs"] = [[row["prompt"], row["chosen"], row["rejected"]] for row in made]
    seen["eval_loss"] = trainer.evaluate(trainer.train_dataset)["eval_loss"]


def run(folder: Path, cell: str) -> None:
    strategy, objective, *options = cell.split("/")
    begun, folder, seen = time.time(), folder / "-".join([objective, *options]).replace("-resume", "-die"), {}
    if "after" in options:  # an earlier trainer of the same process, which is still there
        earlier = build(objective, arguments(folder / "earlier", "zero3", []), [])
        assert earlier.is_deepspeed_enabled
    trainer = build(objective, arguments(folder, strategy, options), options)
    watch(trainer, strategy, options, seen)
    if "generate" in options:
        generate(trainer, folder, seen)
    if WORLD == 1:
        trainer.save_model(str(folder / "start"))
    trainer.train(resume_from_checkpoint="resume" in options)
    trainer.save_model(str(folder))
    if "generate" in options:
        prefer(trainer, folder, seen)
    if RANK == 0:
        seen |= {"cell": cell, "seconds": time.time() - begun}
        seen["logs"] = [log for log in trainer.state.log_history if "grad_norm" in log]
        (folder / "seen.json").write_text(json.dumps(seen))
        print(f"{cell} {seen['seconds']:.1f} s", file=sys.stderr, flush=True)
    if dist.is_initialized():
        dist.barrier()


def main(folder: Path, cells: list[str]) -> None:
    start()
    if any(cell.startswith("zero") for cell in cells):
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled for inference only
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)  # which accelerate does on GPUs alone
    for cell in cells:
        strategy = cell.split("/")[0]
        with launch_of(strategy):
            run(folder / strategy, cell)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
