"""The pilot of the dialogue states: is there a gap between supervisor and student? No test turn is answered.

    python docs/evidence/pilot.py supervisor --data_dir path/to/dialogues    # the first one, as the study trains it
    python docs/evidence/pilot.py gold --data_dir path/to/dialogues          # SmolLM2 on 960 gold turns of half B
    python docs/evidence/pilot.py few_shot --data_dir path/to/dialogues      # SmolLM2 with eight gold turns to read

Seed 100, which no study uses; validation turns 301 to 400, on which no supervisor's epoch is chosen. Slot F1 and whole
states with percentile intervals over turns, 2,000 resamples; and how many names, none of them taught, are right.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml

from trl_weaks.study.methods import load_module
from trl_weaks.study.pipeline.completions import CompletionRun
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.predictions import predict_completions, read_predictions
from trl_weaks.study.pipeline.pretrain import base_stages
from trl_weaks.study.pipeline.students.completions import train_on_gold
from trl_weaks.supervisors.supervisor import WeakSupervisor

SEED, FIRST, LAST = 100, 300, 400  # of validation turns; the study's supervisors read the first 300
example = load_module(Path(__file__).resolve().parents[2] / "examples" / "dialogue_state.py")


def pilot(data_dir: str, output_dir: Path) -> CompletionRun:
    """The run of a seed with the settings of the preset."""
    kind = example.DialogueStateConfig
    settings = yaml.safe_load(kind.preset_path("pretrained").read_text(encoding="utf-8"))
    config = kind(**settings | {"data_dir": data_dir, "output_dir": str(output_dir), "seeds": [SEED]})
    task, factory = example.DialogueState.from_config(config), ModelFactory(config)
    return CompletionRun(config, task, factory, SEED, [], base_stages(config, task, factory))


def trained_supervisor(run: CompletionRun, folder: Path, _: int):
    base = run.bases[run.config.supervisor_names[0]]
    base.run()
    run.train_weak(0, base, folder)
    return run.factory.trained(folder)


def trained_student(run: CompletionRun, folder: Path, gold: int):
    rows, settings = run.rows(run.splits.half_b[:gold]), run.config.training(run.gold_settings())
    train_on_gold(run.factory.student(None, SEED), rows, settings, folder, SEED)
    return run.factory.trained(folder)


def tell(run: CompletionRun, turns, answers) -> None:
    values = np.array([run.task.statistics(*pair) for pair in zip(answers, turns, strict=True)])
    draws = np.random.default_rng(0).integers(0, len(turns), (2000, len(turns)))
    found, resampled = run.task.total(values.mean(0)), run.task.total(values[draws].mean(1))
    for name in ("slot_f1", "exact_state"):
        low, high = np.percentile(resampled[name], [2.5, 97.5])
        print(f"{name} {float(found[name]):.3f} [{low:.3f}, {high:.3f}]", end="; ")
    right = stated = 0
    for answer, turn in zip(answers, turns, strict=True):
        gold = example.state(turn.target)
        shared = gold & example.state(example.decode_slots(answer)[0])
        right += sum(count for (slot, _), count in shared.items() if slot in example.NAMES)
        stated += sum(count for (slot, _), count in gold.items() if slot in example.NAMES)
    readable = np.mean([run.task.parsed(answer) for answer in answers])
    print(f"{right} of {stated} names right; {readable:.0%} readable; {len(turns)} turns")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["supervisor", "gold", "few_shot"])
    parser.add_argument("--data_dir", required=True, help="folder of turns.jsonl.gz")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/pilot"))
    parser.add_argument("--turns", type=int, default=LAST - FIRST, help="answer the first so many of them")
    parser.add_argument("--gold", type=int, default=960, help="gold turns of the student")
    asked = parser.parse_args()
    try:
        run, folder = pilot(asked.data_dir, asked.output_dir), asked.output_dir / asked.system
        run.data  # noqa: B018  the turns are read before a folder is made
    except (FileNotFoundError, ValueError) as problem:
        parser.error(f"--data_dir: {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    make = {"supervisor": trained_supervisor, "gold": trained_student}
    loaded = make[asked.system](run, folder, asked.gold) if asked.system in make else run.factory.student(None)
    shots = run.rows(run.splits.half_a[: run.config.num_shots]) if asked.system == "few_shot" else []
    turns = run.task.splits(SEED).validation[FIRST : FIRST + asked.turns]
    model, c = WeakSupervisor(*loaded, name=asked.system), run.config
    rows = run.unlabelled_rows(turns)
    predict_completions(model, rows, folder, c.eval_beams, c.max_new_tokens, c.generation_batch_size, shots)
    tell(run, turns, [row["completion"] for row in read_predictions(folder, [turn.id for turn in turns])])


if __name__ == "__main__":
    main()
