"""Pre-trained tiny models that come with the package, so that a first run need not make them.

They are what pre-training gives under the preset `tiny`; another plan, another size or other sentences have no shipped
model, and `--pretrain true` makes them anew. `python -m trl_weaks.study.models.ship` writes them again, here (about a
quarter of an hour on two cores).
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_weaks.study.files import file_digest, json_bytes, write_atomically
from trl_weaks.study.stages import fingerprint

FOLDER = Path(__file__).resolve().with_name("shipped")
MANIFEST = "manifest.json"
MADE_OF = ("data", "dialogues", "plan", "model")  # of a pre-training stage's spec: all that its outcome depends on
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def find(spec: Mapping[str, Any], folder: Path = FOLDER) -> dict[str, Any] | None:
    """The manifest's entry for a pre-training stage of this spec: `folder` and `files` with their digests; or None.

    Raises:
        ValueError: a file is missing or was altered.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    entry = manifest.get(_key(spec))
    if entry is None:
        return None
    for name, digest in entry["files"].items():
        path = folder / entry["folder"] / name
        if not path.is_file() or file_digest(path) != digest:
            raise ValueError(
                f"{path} is not the file that the package came with. Install it again, or run with --pretrain true to "
                "make the tiny models yourself."
            )
    return entry


def copy(entry: Mapping[str, Any], target: Path, folder: Path = FOLDER) -> None:
    """Put a shipped model into a stage's folder."""
    for name in entry["files"]:
        shutil.copyfile(folder / entry["folder"] / name, target / name)


def ship(made: Mapping[str, Path], folder: Path = FOLDER) -> None:
    """Write models and manifest.

    Args:
        made: name -> the folder of a finished pre-training stage.
    """
    manifest = {}
    for name, source in made.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in FILES:
            shutil.copyfile(source / file, folder / name / file)
        spec = json.loads((source / "stage.json").read_text(encoding="utf-8"))["spec"]
        digests = {file: file_digest(folder / name / file) for file in FILES}
        manifest[_key(spec)] = {"folder": name, "files": digests, "model": spec["model"]["model"]}
    write_atomically(folder / MANIFEST, json_bytes(manifest))


def _key(spec: Mapping[str, Any]) -> str:
    return fingerprint({name: spec.get(name) for name in MADE_OF})
