"""Sums over rows do not depend on how rows fall into batches or onto processes."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import processes
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import trl_weaks
from trl_weaks.trainer.common.running_sums import RunningSums

ROWS = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 9)), min_size=1, max_size=20)


def added(sums: RunningSums, batches: list[list[tuple[int, int]]], drop_repeated: bool) -> dict[str, float]:
    for batch in batches:
        numerators, denominators = torch.tensor(batch).unbind(-1)
        sums.add(Accelerator(cpu=True), {"a": (numerators, denominators)}, drop_repeated)
    return sums.read()


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(1, 5), max_size=20), drop_repeated=st.booleans())
def test_any_split_into_batches_gives_the_ratio_of_the_sums(rows, cuts, drop_repeated):
    batches, rest = [], list(rows)
    for cut in [*cuts, len(rows)]:
        batches, rest = [*batches, rest[:cut]] if rest else batches, rest[cut:]
    whole = sum(d for _, d in rows)
    expected = {"a": float(Fraction(sum(n for n, _ in rows), whole))} if whole else {}
    sums = RunningSums()
    assert added(sums, batches, drop_repeated) == pytest.approx(expected)
    assert sums.read() == {}  # read starts again


def test_a_name_may_come_and_go():
    sums, accelerator, one = RunningSums(), Accelerator(cpu=True), torch.ones(1)
    sums.add(accelerator, {"a": (one, one)}, True)
    sums.add(accelerator, {"a": (3 * one, one), "b": (one, 4 * one)}, True)
    assert sums.read() == {"a": 2.0, "b": 0.25}
    sums.add(accelerator, {"a": (one, one)}, True)
    sums.clear()
    assert sums.read() == {}


@pytest.mark.distributed
def test_two_processes_count_each_row_once(tmp_path):
    """Five rows in batches of two on two processes: the sampler repeats three rows to fill the second round."""
    done = processes.run([__file__, tmp_path], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["seen"] == 4  # of the eight that both saw
        assert found["evaluated"] == {"mean": 3.0, "weighted": 55 / 15}
        assert found["trained"]["mean"] == (sum(range(1, 6)) + 1 + 2 + 3) / 8


def main(folder: str) -> None:
    accelerator, evaluated, trained, seen = Accelerator(cpu=True), RunningSums(), RunningSums(), 0
    for batch in accelerator.prepare(DataLoader([1.0, 2.0, 3.0, 4.0, 5.0], batch_size=2)):
        values = {"mean": (batch, torch.ones_like(batch)), "weighted": (batch * batch, batch)}
        evaluated.add(accelerator, values, drop_repeated=True)
        trained.add(accelerator, values, drop_repeated=False)
        seen += len(batch)
    found = {"seen": seen, "evaluated": evaluated.read(), "trained": trained.read()}
    (Path(folder) / f"{accelerator.process_index}.json").write_text(json.dumps(found))
    accelerator.end_training()  # gloo's threads end before the process does


if __name__ == "__main__":
    main(sys.argv[1])


def test_only_rows_are_gathered_for_metrics():
    """`gather_for_metrics` cuts what it gathers to the rows left in a set: sums lose some."""
    found = {}
    for file in Path(trl_weaks.__file__).parent.rglob("*.py"):
        count = file.read_text(encoding="utf-8").count("gather_for_metrics")
        if count:
            found["/".join(file.parts[-2:])] = count
    assert found == {"common/running_sums.py": 1, "preference/metrics.py": 1}  # rows, and pairs of pulls
