"""Files and folders that are either whole or absent, and what to tell when the disk refuses."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REMEDY = "Everything labelled so far is kept: make room or write access there, then run the same command again."


class LabelStoreError(OSError):
    """The labels could not be written; says where, why, and that what was written before is kept."""


def refused(folder: Path, error: OSError, what: str = "labels") -> LabelStoreError:
    """The error for a disk that refuses."""
    return LabelStoreError(f"{what} cannot be written to {folder}: {error.strerror or error}. {REMEDY}")


@contextmanager
def writing(what: str, place: Path) -> Iterator[None]:
    """What the disk refuses inside is a LabelStoreError that says what could not be written where."""
    try:
        yield
    except LabelStoreError:
        raise
    except OSError as error:
        raise refused(place, error, what) from error


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside the target and rename, so that a killed run or a full disk leaves the old file or none."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A path to save to, which takes the place of `folder` once nothing inside has raised.

    Its parent is scratch space. Readers of the old files may go on. What a killed run left behind is removed.
    """
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside / folder.name
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside / folder.name, folder)
    shutil.rmtree(beside)
