"""Killed by the kernel in the middle of an update and started again: the same weights, bit by bit."""

import signal
from pathlib import Path

import killed_run
import processes
import torch


def test_a_killed_run_ends_where_it_would_have(tmp_path):
    script, folder = Path(killed_run.__file__), tmp_path / "killed"
    done = processes.run([script, folder, 3])
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2"]
    whole = killed_run.trainer(tmp_path / "whole")
    whole.train()  # before another trainer draws dropout masks from the same generator
    again = killed_run.trainer(folder)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == whole.state.global_step == 6
    logs = [[log for log in run.state.log_history if "grad_norm" in log] for run in (again, whole)]
    assert [log["step"] for log in logs[0]] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm", "weak/gamma", "weak/confidence"):
        assert [log[name] for log in logs[0]] == [log[name] for log in logs[1]], name
    for (name, ours), theirs in zip(again.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
