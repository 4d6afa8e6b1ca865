"""The folders that the cells leave behind, made once for all tests that look at them."""

from pathlib import Path

import pytest
from launches import COMPILED, COMPILER, CORE, DEEPSPEED, KERNELS, REST, launch, references, runnable


@pytest.fixture(scope="session")
def core(tmp_path_factory) -> Path:
    """The default tests' cells: one launch of one process, one of two."""
    folder = tmp_path_factory.mktemp("core")
    launch(folder, references(CORE), 1)
    launch(folder, runnable(CORE), 2)
    return folder


@pytest.fixture(scope="session")
def rest(tmp_path_factory) -> Path:
    """All other cells."""
    folder = tmp_path_factory.mktemp("rest")
    launch(folder, references(runnable(REST)), 1)
    launch(folder, runnable(REST), 2)
    return folder


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """The cells that compile: minutes where nothing is in torch's cache of extensions."""
    folder = tmp_path_factory.mktemp("compiled")
    launch(folder, references(COMPILED), 1)
    launch(folder, COMPILED, 2)
    return folder


@pytest.fixture
def folder_of(request):
    """The folder that holds a cell; skips, with the reason, where it could not run."""

    def find(cell: str) -> Path:
        if (cell.startswith("zero") or cell.endswith("/after")) and not DEEPSPEED:
            pytest.skip("deepspeed is not installed")
        if cell in COMPILED and not COMPILER:
            pytest.skip("DeepSpeed's CPUAdam is compiled at its first use: g++ and ninja are not both installed")
        if cell.endswith("/kernels") and not KERNELS:
            pytest.skip("the losses' passes are compiled at their first use: g++ and ninja are not both installed")
        return request.getfixturevalue("core" if cell in CORE else "compiled" if cell in COMPILED else "rest")

    return find
