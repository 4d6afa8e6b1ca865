"""A representative part of the tests again on other instruction sets and numbers of threads.

A tolerance or an equality that holds only for the rounding of one processor fails here on any.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PART = [
    "tests/test_dirichlet.py",
    "tests/losses/test_weak_losses.py",
    "tests/labelling/test_traps.py",
    "tests/trainer/test_chosen_loss.py",
]
NATIVE = torch.backends.cpu.get_cpu_capability().lower()
# The default tests take the setting that is furthest from any processor's own: no vector instructions, two threads.
FURTHEST = ("default", 2)
SETTINGS = list(dict.fromkeys([FURTHEST, ("default", 1), ("avx2", 2), (NATIVE, 2)]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the settings are those of x86 builds")
@pytest.mark.parametrize(
    "capability, threads", [pytest.param(*s, marks=[] if s == FURTHEST else [pytest.mark.slow]) for s in SETTINGS]
)
def test_a_part_of_the_tests_holds_on(capability, threads):
    if capability == "avx2" and NATIVE == "default":
        pytest.skip("this processor has no AVX2")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": str(threads)}
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:xdist",
        "-m",
        "not slow and not distributed",
        *PART,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
