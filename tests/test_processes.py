"""Processes of the tests that hang, and a machine that stands still meanwhile."""

import subprocess
import time

import processes
import pytest


def test_a_hang_says_which_process_waits_and_which_has_ended():
    code = "import os, time; os.environ['RANK'] == '1' or time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired) as found:
        processes.run(["-c", code], 2, timeout=3)
    told = str(found.value)
    assert "timed out after 3 seconds" in told, "what `make test` tries again"
    assert "rank 0 is sleeping after" in told and "rank 1 ended with 0" in told


def test_a_machine_that_stood_still_is_no_hang(monkeypatch):
    """A virtual machine that is paused comes back with a clock that has gone on; nobody has waited."""
    real, jumped = time.monotonic, iter(range(0, 10**9, 1000))
    monkeypatch.setattr(processes.time, "monotonic", lambda: real() + next(jumped))
    assert processes.run(["-c", "import time; time.sleep(0.2)"], timeout=3 * processes.SLICE).returncode == 0
