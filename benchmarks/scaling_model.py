"""What labelling and training cost from a million prompts to a billion: arithmetic on constants that are named.

    python benchmarks/scaling_model.py measure --prompts 10000 100000 1000000 --output per_row.json   # one core
    python benchmarks/scaling_model.py index --prompts 1000000 10000000                               # one core
    python benchmarks/scaling_model.py model --measured per_row.json

`measure` labels with supervisors that answer at once, so that what is left is ours: reading and checking the prompts,
the store, its consolidation into a dataset, and the trainer's preparation; CPU seconds and bytes per row at growing
sizes, which shows where they stop being linear. `index` does so for the metadata alone. `model` is arithmetic:
every constant is printed with whether it was measured, is a data sheet's, or is assumed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
PROMPTS = (10**6, 10**7, 10**8, 10**9)
GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Constant:
    """A number of the model and where it is from."""

    value: float
    unit: str
    source: str


CONSTANTS = {
    "supervisors": Constant(3, "", "the paper's"),
    "supervisor": Constant(1.3e9, "parameters", "the paper's size"),
    "student": Constant(6.6e9, "parameters", "the paper's size, weights that multiply a token"),
    "prompt": Constant(30, "tokens of its own", "assumed; SLURP has 12 and a template"),
    "generated": Constant(80, "tokens per prompt and supervisor", "4 beams of 20 (the paper's task)"),
    "scored": Constant(112, "tokens per prompt and supervisor", "5.6 distinct of 12 candidates, of 20 tokens"),
    "rows": Constant(3, "rows per prompt", "Bayesian multi-weak, no two supervisors agreeing"),
    "row": Constant(50, "tokens per row", "the prompt and 20 tokens"),
    "epochs": Constant(3, "", "assumed"),
    "peak": Constant(989e12, "FLOP/s", "data sheet of an H100, bfloat16"),
    "mfu_score": Constant(0.4, "of the peak", "assumed"),
    "mfu_decode": Constant(0.1, "of the peak", "assumed: many prompts at once"),
    "mfu_train": Constant(0.3, "of the peak", "assumed"),
    "scaling_label": Constant(0.97, "for each doubling of GPUs", "measured: two processes on two cores, 1.94 times"),
    "scaling_train": Constant(0.95, "for each doubling of GPUs", "assumed"),
    "price": Constant(2.5, "dollars per GPU hour", "assumed"),
    "check": Constant(0.0, "s per prompt, on every process", "not measured: give --measured"),
    "store": Constant(0.0, "s per prompt, shared by the processes", "not measured: give --measured"),
    "consolidate": Constant(0.0, "s per prompt, the first process", "not measured: give --measured"),
    "prepare": Constant(0.0, "s per row, --dataset_num_proc processes", "not measured: give --measured"),
    "processes": Constant(16, "of the trainer's preparation", "assumed"),
    "index": Constant(
        124, "bytes per prompt, in every process", "measured to 10^6 prompts (tests/labelling/many_prompts_run.py)"
    ),
    "stored": Constant(0.0, "bytes per prompt and disk", "not measured: give --measured"),
}
MEASURED = ("check", "store", "consolidate", "prepare", "stored")


def with_measured(constants: dict[str, Constant], path: Path | None) -> dict[str, Constant]:
    """The constants with those of `measure`, at its largest size."""
    if path is None:
        return constants
    largest = json.loads(path.read_text())["sizes"][-1]
    source = f"measured at {largest['prompts']:,} prompts, one core"
    return constants | {name: Constant(largest[name], constants[name].unit, source) for name in MEASURED}


def hours(constants: dict[str, Constant], prompts: float, gpus: int) -> dict[str, float]:
    """Hours by the clock of each part, and what the GPUs cost; parts that wait for one process hold all GPUs."""
    c = {name: constant.value for name, constant in constants.items()}
    doublings = max(0, gpus.bit_length() - 1)
    speed_label = c["peak"] * gpus * c["scaling_label"] ** doublings
    speed_train = c["peak"] * gpus * c["scaling_train"] ** doublings
    each = 2 * c["supervisor"] * c["supervisors"] * prompts
    parts = {
        "answer": each * (c["generated"] / c["mfu_decode"] + c["prompt"] / c["mfu_score"]) / speed_label,
        "score": each * c["scored"] / c["mfu_score"] / speed_label,
        "read, store": c["check"] * prompts + c["store"] * prompts / gpus,
        "consolidate": c["consolidate"] * prompts,
        "prepare": c["prepare"] * c["rows"] * prompts / c["processes"],
        "train": 6 * c["student"] * c["rows"] * c["row"] * c["epochs"] * prompts / c["mfu_train"] / speed_train,
    }
    return {name: seconds / 3600 for name, seconds in parts.items()}


def model(options: argparse.Namespace) -> None:
    constants = with_measured(CONSTANTS, options.measured)
    for setting in options.set:
        name, _, value = setting.partition("=")
        if name not in constants:
            raise SystemExit(f"--set {setting}: the constants are {', '.join(constants)}.")
        constants[name] = Constant(float(value), constants[name].unit, "given")
    print("| constant | value | unit | from |\n|---|---|---|---|")
    for name, one in constants.items():
        print(f"| {name} | {one.value:.3g} | {one.unit} | {one.source} |")
    c = {name: constant.value for name, constant in constants.items()}
    print("\nHours by the clock, on one process per GPU:\n")
    names = list(hours(constants, 1, 1))
    print(f"| prompts | GPUs | {' | '.join(names)} | whole | dollars |\n|---|---|{'---|' * (len(names) + 2)}")
    for prompts in PROMPTS:
        for gpus in GPUS:
            found = hours(constants, prompts, gpus)
            whole = sum(found.values())
            cells = [f"{prompts:.0e}", str(gpus), *(f"{found[name]:.3g}" for name in names)]
            print(f"| {' | '.join(cells)} | {whole:.3g} | {whole * gpus * c['price']:,.0f} |")
    print("\nTokens and room:\n")
    print("| prompts | tokens labelled | tokens trained | labels on disk, GiB | index in each process, GiB |")
    print("|---|---|---|---|---|")
    for prompts in PROMPTS:
        labelled = prompts * c["supervisors"] * (c["prompt"] + c["generated"] + c["scored"])
        cells = [labelled, prompts * c["rows"] * c["row"] * c["epochs"]]
        cells += [c["stored"] * prompts / GIB, c["index"] * prompts / GIB]
        print(f"| {prompts:.0e} | {' | '.join(f'{cell:.3g}' for cell in cells)} |")


def anonymous() -> int:
    """Bytes that this process holds, mapped files left out."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def prompts_file(folder: Path, count: int) -> Path:
    path = folder / "prompts.jsonl"
    with path.open("w") as file:
        for i in range(count):
            file.write(f'{{"example_id": "example {i}", "prompt": "USER: play song {i} in the kitchen ASSISTANT:"}}\n')
    return path


def read_prompts(folder: Path, count: int):
    from datasets import load_dataset

    path = prompts_file(folder, count)
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "cache"))


def instant_ensemble():
    """Three supervisors that read prompts and answer without their models, as long as the paper's task does."""
    from labelling_scale import build

    from trl_weaks.supervisors.ensemble import WeakEnsemble
    from trl_weaks.supervisors.scores import Scored
    from trl_weaks.supervisors.supervisor import WeakSupervisor

    class Instant(WeakSupervisor):
        def answer(self, prompts, *args, **kwargs):
            return [
                [(f'{{"song": "{self.name} {k} {prompt[-30:-10]}"}}', True) for k in range(4)] for prompt in prompts
            ]

        def score_fitting(self, prompts, completions, names=None):
            spans = [[(i, i + 2) for i in range(0, len(text) - 1, 2)] for text in completions]
            return [Scored([1] * len(s), [-0.25] * len(s), s) for s in spans]

    return WeakEnsemble([Instant(s.model, s.tokenizer, s.name) for s in build(64, 1)])


def one_size(ensemble, count: int) -> dict[str, float]:
    """CPU seconds per row of each part, and bytes on the disk."""
    from trl_weaks.labelling.completion_run import CompletionRun, CompletionSettings

    folder = Path(tempfile.mkdtemp())
    try:
        data = read_prompts(folder, count)
        marks = [time.process_time()]
        settings = CompletionSettings("independent", 4, 20, 100, None, 1.0, 0, "no_eos")
        run = CompletionRun(ensemble, data, settings, folder / "out")
        marks.append(time.process_time())
        export = run._export
        run._export = lambda: (marks.append(time.process_time()), export())
        run.run()
        marks.append(time.process_time())
        check, store, consolidate = (b - a for a, b in zip(marks, marks[1:], strict=False))
        stored = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
        prepare, rows = preparation(folder)
    finally:
        shutil.rmtree(folder)
    per_prompt = {"check": check, "store": store, "consolidate": consolidate, "stored": stored}
    return (
        {"prompts": count} | {k: v / count for k, v in per_prompt.items()} | {"prepare": prepare / rows, "rows": rows}
    )


def preparation(folder: Path) -> tuple[float, int]:
    """CPU seconds of the trainer's preparation, one process, and the rows that it prepared."""
    from datasets import load_from_disk
    from labelling_scale import build

    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

    labels = load_from_disk(str(folder / "out" / "dataset"))
    student = build(64, 1)[0]
    args = WeakSupervisionConfig(
        str(folder / "student"), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True
    )
    start = time.process_time()
    WeakSupervisionTrainer(student.model, args, train_dataset=labels, processing_class=student.tokenizer)
    return time.process_time() - start, len(labels)


def measure(options: argparse.Namespace) -> None:
    from trl_weaks.labelling.storage.progress import Progress

    Progress._show = lambda self: None  # a bar that is drawn for every batch is no part of a job's log
    ensemble = instant_ensemble()
    one_size(ensemble, 200)  # warms up
    sizes = []
    print("| prompts | check, µs | store, µs | consolidate, µs | prepare, µs per row | disk, bytes |")
    print("|---|---|---|---|---|---|", flush=True)
    for count in options.prompts:
        sizes.append(one_size(ensemble, count))
        micro = [f"{sizes[-1][name] * 1e6:.0f}" for name in ("check", "store", "consolidate", "prepare")]
        print(f"| {count:,} | {' | '.join(micro)} | {sizes[-1]['stored']:.0f} |", flush=True)
    if options.output:
        about = {"date": time.strftime("%Y-%m-%d"), "load": os.getloadavg(), "sizes": sizes}
        options.output.write_text(json.dumps(about, indent=1) + "\n")


def index(options: argparse.Namespace) -> None:
    """The metadata alone: ids, digests, the order of the batches."""
    from array import array

    from trl_weaks.labelling.storage.index import Batches, Prompts

    print("| prompts | index, µs | batches, µs | find an id, µs | memory, bytes |\n|---|---|---|---|---|", flush=True)
    for count in options.prompts:
        folder = Path(tempfile.mkdtemp())
        try:
            data, before, start = read_prompts(folder, count), anonymous(), time.process_time()
            prompts = Prompts(data)
            made = time.process_time()
            prompts.lengths, prompts.groups = array("i", range(count)), array("b", bytes(count))
            prompts.digests = array("Q", range(count))
            batches = Batches(prompts, 16)
            cut = time.process_time()
            for i in range(0, count, count // 1000):
                prompts.row(f"example {i}")
            found, held = time.process_time(), anonymous() - before
            cells = [
                (made - start) / count * 1e6,
                (cut - made) / count * 1e6,
                (found - cut) / 1000 * 1e6,
                held / count,
            ]
            print(f"| {count:,} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)
            del prompts, batches
        finally:
            shutil.rmtree(folder)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("measure", "index"):
        command = commands.add_parser(name)
        command.add_argument("--prompts", type=int, nargs="+", default=[1000, 10_000])
        command.add_argument("--output", type=Path, help="JSON, of `measure`")
    command = commands.add_parser("model")
    command.add_argument("--measured", type=Path, help="what `measure --output` wrote")
    command.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="another value of a constant")
    options = parser.parse_args(given)
    {"measure": measure, "index": index, "model": model}[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
