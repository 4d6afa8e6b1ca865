"""Where the seconds of a study go, by stage: from what runs store, or of a run started here.

    python benchmarks/stage_seconds.py runs/slot_filling docs/evidence/results/scenario_minilm.json
    python benchmarks/stage_seconds.py --run examples/slot_filling.py --output_dir /tmp/demo    # `make demo`
    python benchmarks/stage_seconds.py --run examples/slot_filling.py --preset pretrained --data_dir data/slurp \
        --output_dir /tmp/pretrained

`results.json` holds the seconds of every stage by the clock; those of a run that was continued are summed. A run that
is started here is timed from outside, too, which adds the start of the process, imports, the data, the statistics and
figures of the report; stages run side by side where there are cores, and then make more than the clock. Seconds of the
processor are those that a machine with other work does not lengthen much. Stages that shipped models stand for take no
time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

GROUPS = {  # the first whose words a stage's name holds
    "pre-training": ("pre-training",),
    "weak supervisors": ("weak supervisor",),
    "weak labels": ("weak labels",),
    "students on gold": ("on gold",),
    "preference students": ("DPO",),
    "students on weak labels": ("student",),
    "evaluation": ("evaluate",),
}
OTHER, ALL, CLOCK, PROCESSOR = "other stages", "all stages", "by the clock", "of the processor, all processes"


def grouped(seconds: dict[str, float]) -> dict[str, tuple[float, int]]:
    """Group -> its seconds and its number of stages."""
    found = {name: (0.0, 0) for name in (*GROUPS, OTHER)}
    for stage, spent in seconds.items():
        group = next((name for name, words in GROUPS.items() if any(word in stage for word in words)), OTHER)
        found[group] = (found[group][0] + spent, found[group][1] + 1)
    return {name: pair for name, pair in found.items() if pair[1]}


def table(folder: Path, clock: float | None = None, processor: float | None = None) -> str:
    """Markdown of one run; `clock` and `processor`: seconds of the whole command."""
    path = folder if folder.suffix == ".json" else folder / "results.json"
    if not path.is_file():
        raise SystemExit(f"{path}: not there; name the folder of a finished run, or its results.json.")
    results = json.loads(path.read_text(encoding="utf-8"))
    if not results.get("stage_seconds"):
        raise SystemExit(f"{path} holds no `stage_seconds`; it is from before they were kept.")
    rows = {name: (spent, str(count)) for name, (spent, count) in grouped(results["stage_seconds"]).items()}
    whole = sum(spent for spent, _ in rows.values())
    rows[ALL] = (whole, str(len(results["stage_seconds"])))
    rows |= {name: (spent, "") for name, spent in ((CLOCK, clock), (PROCESSOR, processor)) if spent is not None}
    environment = results["environment"]
    lines = [
        f"`{results.get('command', folder.name)}`, {environment['date']}, {environment['machine']}",
        "",
        "| part | stages | seconds | share |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {count} | {spent:.1f} | {spent / whole:.0%} |" for name, (spent, count) in rows.items()]
    return "\n".join(lines)


def run(command: list[str]) -> tuple[Path, float, float]:
    """Run a study's script and time it, by the clock and by the processor; its output folder must be new, so that
    nothing is found finished."""
    if "--output_dir" not in command[:-1]:
        raise SystemExit("--run needs the script and its --output_dir, which must be new.")
    folder = Path(command[command.index("--output_dir") + 1])
    if folder.exists():
        raise SystemExit(f"{folder} exists; finished stages would take no time. Choose a new --output_dir.")
    launch = ["accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *launch, *command], check=True, stdout=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # theirs too, since each was waited for
    return folder, time.perf_counter() - start, used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="of finished runs, or their results.json")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="a script of the examples and its arguments")
    options = parser.parse_args()
    tables = [table(folder) for folder in options.folders]
    if options.run:
        tables.append(table(*run(options.run)))
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
