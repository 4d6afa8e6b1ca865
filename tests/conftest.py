"""Offline by construction; the SLURP pack is found next to the repository or through TRL_WEAKS_DATA."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CI", "1")  # TRL sends no telemetry
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare():
    """Where two values differ first, not all that differs: pytest looks for that where `CI` is set, as above and by CI
    services, and of two datasets of some hundred rows it takes minutes, before the failure is seen at all."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "BUILD_NUMBER"):
            patch.delenv(name, raising=False)
        return (yield)


def set_aside() -> None:
    """What lives now is looked at by no collection after this one: libraries are millions of objects, and each
    training of a Trainer collects garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    set_aside()


@pytest.fixture(scope="module", autouse=True)
def libraries_set_aside():
    """Those that the tests of the files before imported themselves."""
    set_aside()


DATA = Path(os.environ.get("TRL_WEAKS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def _folder(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not here; set TRL_WEAKS_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def slurp_dir() -> Path:
    return _folder("slurp")


@pytest.fixture(scope="session")
def dialogues_dir() -> Path:
    return _folder("dialogues")


@pytest.fixture(scope="session")
def compiler() -> None:
    from trl_weaks.losses.vocabulary.cpu_kernels import find_kernels

    if find_kernels() is None:
        pytest.skip("trl_weaks was installed without a C++ compiler")


@pytest.fixture(autouse=True)
def registries_as_found():
    """What a test, or a page of the documentation that it runs, registers is gone after it."""
    from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS
    from trl_weaks.losses import LOSSES
    from trl_weaks.study import TASKS

    before = [(registry, dict(registry)) for registry in (LOSSES, AGGREGATORS, COMPLETION_AGGREGATORS, TASKS)]
    yield
    for registry, entries in before:
        registry._entries = entries
