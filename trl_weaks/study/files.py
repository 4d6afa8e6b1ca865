"""JSON and digests of files; `write_atomically` is that of `trl_weaks.files`."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trl_weaks.files import write_atomically

__all__ = ["file_digest", "json_bytes", "read_json_lines", "to_json", "write_atomically"]


def read_json_lines(path: Path) -> list[Any]:
    """Values of a file with one on each line. A line ends at a line feed alone: JSON text may hold U+2028 and U+0085,
    at which `str.splitlines` cuts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def to_json(value: Any) -> Any:
    """Plain JSON values from numpy and mappings; NaN and infinities, which JSON has not, become null."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def json_bytes(value: Any) -> bytes:
    return (json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
