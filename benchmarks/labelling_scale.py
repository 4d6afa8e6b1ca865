"""Labelling with two processes against one, and its peak memory under several budgets.

    OMP_NUM_THREADS=1 python benchmarks/labelling_scale.py processes            # two free cores
    OMP_NUM_THREADS=1 python benchmarks/labelling_scale.py memory --budgets 512 4096

Three random GPT-2 shapes label made-up prompts behind a shared instruction (`label_completions`, joint mode, beams).
`processes`: the labelling alone, from the first unit of work to the last over all processes, one process and two in
turn. By the clock, which needs two free cores; and by CPU time, the one process's over that of the busier of the two:
what two free cores would give. `memory`: the peak of the process above its models, one process for each budget.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from process_memory import mebibytes

HEAD = "USER: " + "turn on the light in the kitchen and wake me up at nine, then play some jazz; " * 6


def build(width: int, layers: int):
    """Three supervisors with random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from trl_weaks.supervisors.supervisor import WeakSupervisor

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator([HEAD], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    supervisors = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=50_257, n_embd=width, n_layer=layers, n_head=width // 64, n_positions=1024)
        supervisors.append(WeakSupervisor(GPT2LMHeadModel(config).eval(), tokenizer, f"s{seed}"))
    return supervisors


def worker(options: argparse.Namespace) -> None:
    """One labelling run; every process writes its seconds and its peak memory above the models."""
    import torch
    from datasets import Dataset

    from trl_weaks.labelling import run as module
    from trl_weaks.labelling.label_completions import label_completions
    from trl_weaks.labelling.storage.progress import Progress
    from trl_weaks.supervisors.ensemble import WeakEnsemble

    torch.set_num_threads(1)
    supervisors = build(options.width, options.layers)
    for supervisor in supervisors:
        supervisor.max_tokens_in_flight = options.budget
    marks: list[tuple[float, float]] = []

    class Timed(Progress):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            marks.append((time.perf_counter(), time.process_time()))

        def finish(self):
            own = time.process_time()  # waiting for the other is no work
            super().finish()
            marks.append((time.perf_counter(), own))

    module.Progress = Timed
    texts = [f"{HEAD}number {i} ASSISTANT:" for i in range(options.prompts)]
    data = Dataset.from_dict({"example_id": [str(i) for i in range(options.prompts)], "prompt": texts})
    before = mebibytes("VmRSS")
    label_completions(
        WeakEnsemble(supervisors), data, "joint", 4, options.folder, options.new_tokens, options.batch_size
    )
    peak = mebibytes("VmHWM") - before
    clock, cpu = (end - start for start, end in zip(*marks, strict=True))
    rank = os.environ.get("RANK", "0")
    Path(options.folder, f"result-{rank}.json").write_text(json.dumps({"clock": clock, "cpu": cpu, "mib": peak}))


def run(options: argparse.Namespace, processes: int, budget: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *(launch if processes > 1 else []), __file__, "worker", "--folder", folder]
        for name in ("width", "layers", "prompts", "new_tokens", "batch_size"):
            command += [f"--{name}", str(getattr(options, name))]
        subprocess.run([*command, "--budget", str(budget)], check=True, stderr=subprocess.DEVNULL)
        found = [json.loads(path.read_text()) for path in Path(folder).glob("result-*.json")]
        return {name: max(result[name] for result in found) for name in ("clock", "cpu", "mib")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("processes", "memory", "worker"))
    for name, value in (("width", 768), ("layers", 12), ("prompts", 32), ("new_tokens", 20), ("batch_size", 8),
                        ("rounds", 3), ("budget", 16_384)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--budgets", type=int, nargs="+", default=[512, 4096, 16_384])
    parser.add_argument("--folder", help="of a worker")
    options = parser.parse_args()
    if options.what == "worker":
        worker(options)
    elif options.what == "memory":
        for budget in options.budgets:
            print(f"{budget} tokens in flight: {run(options, 1, budget)['mib']:.0f} MiB", flush=True)
    else:
        rounds = []
        for turn in range(options.rounds):
            found = {n: run(options, n, options.budget) for n in ((1, 2) if turn % 2 else (2, 1))}
            rounds.append({name: found[1][name] / found[2][name] for name in ("clock", "cpu")})
            print(
                ", ".join(f"{n}: {found[n]['clock']:.1f} s, CPU {found[n]['cpu']:.1f} s" for n in (1, 2)), flush=True
            )
        for name in ("clock", "cpu"):
            values = [ratio[name] for ratio in rounds]
            print(f"{name}: {statistics.median(values):.2f}x [{min(values):.2f}-{max(values):.2f}]")


if __name__ == "__main__":
    main()
