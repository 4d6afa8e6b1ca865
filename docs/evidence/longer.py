"""Students of a finished study once more, from the same labels and gold rows, for more epochs.

    python docs/evidence/longer.py runs/evidence/slots_smollm2_four --data_dir path/to/slurp --epochs 3

Trains into the study's own folder, `seed-S/more/NAME_3`, and changes nothing that stands there; `answers.py` has
these students answer. A killed training goes on from its last checkpoint; what is done is kept.
"""

import argparse
import json
from pathlib import Path

from answers import DONE, finished, run_of
from make import read

from trl_weaks.study.pipeline.completions import CompletionRun
from trl_weaks.study.pipeline.run import methods_of
from trl_weaks.study.stages import STAMP

CEILING = "ceiling"


def train(run: CompletionRun, student: str, epochs: int) -> Path:
    """Returns the folder; nothing is done where the student is there, from the same labels.

    Raises:
        SystemExit: the study has no such student.
    """
    stamp = run.root / "students" / student / STAMP
    if not stamp.is_file():
        raise SystemExit(f"seed {run.seed} has no student {student!r} to train longer")
    folder = run.root / "more" / f"{student}_{epochs}"
    made = {"key": f"{read(stamp)['key']}, {epochs} epochs"}
    if finished(folder, made):
        return folder
    run.config.student_training = dict(run.config.student_training or {}) | {"num_train_epochs": epochs}
    if student == CEILING:
        run.train_gold("half_b", folder)
    else:
        (method,) = (one for one in methods_of(run.config, run.task) if one.name == student)
        run.train_student(method, folder)
    (folder / DONE).write_text(json.dumps(made), encoding="utf-8")  # last: weights alone may be half written
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the finished study")
    parser.add_argument("--data_dir", required=True, help="SLURP's folder")
    parser.add_argument("--epochs", type=int, default=3, help="default: 3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the study; default: 0")
    parser.add_argument(
        "--students",
        nargs="+",
        default=["joint", CEILING],
        help="methods of the study, or ceiling; default: joint ceiling",
    )
    asked = parser.parse_args()
    for seed in asked.seeds:
        for student in asked.students:
            print(train(run_of(asked.run, asked.data_dir, seed), student, asked.epochs), flush=True)


if __name__ == "__main__":
    main()
