"""SLURP's public repository as a local folder in the layout that `slurp.py` reads. Needs the network once."""

import hashlib
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trl_weaks.files import write_atomically


class Source(NamedTuple):
    """A file to fetch and the git object id of its content."""

    url: str
    blob: str


_COMMIT = "8eb16545762be97ace75334109d73824217311f1"
_ROOT = f"https://raw.githubusercontent.com/pswietojanski/slurp/{_COMMIT}/dataset/slurp"
OFFICIAL: dict[str, Source] = {
    "train": Source(f"{_ROOT}/train.jsonl", "c7568b5661ea802c9e41204af3d30ef892dcd5c9"),
    "devel": Source(f"{_ROOT}/devel.jsonl", "de034fadea8caa5a3c08c387b2a750f37737729d"),
    "test": Source(f"{_ROOT}/test.jsonl", "d98a6962767dd6a03cae20c31d03c7bf7e4c36af"),
}


def download(folder: Path, slot_types: list[str], sources: Mapping[str, Source] = OFFICIAL) -> Path:
    """Fetch SLURP's three splits and write them in the pack's layout; files already there are kept.

    A row's sentence is its lower-cased token surfaces joined by spaces and a filler those of its entity's span, as
    SLURP's evaluator builds its gold.

    Args:
        folder: where to write.
        slot_types: the types of the prompt, in order, for `slot_types.txt`.
        sources: split to URL and git object id (the SHA-1 that git gives the content); SLURP at commit 8eb1654.

    Raises:
        OSError: the network or the disk failed; nothing half written stays behind.
        ValueError: the content is not the one the id names, or a row is malformed (names split, line and field).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, source in sources.items():
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            rows = _convert(_fetch(source).decode("utf-8"), split)
            write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    write_atomically(folder / "slot_types.txt", "".join(f"{slot_type}\n" for slot_type in slot_types).encode())
    return folder


def _fetch(source: Source) -> bytes:
    with urllib.request.urlopen(source.url, timeout=60) as response:
        content = response.read()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if blob != source.blob:
        raise ValueError(f"{source.url}: content has git id {blob}, expected {source.blob}; fetch it again or by hand")
    return content


def _convert(text: str, split: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        try:
            raw = json.loads(line)
            words = {token["id"]: token["surface"].lower() for token in raw["tokens"]}
            slots = [[e["type"], " ".join(words[i] for i in sorted(e["span"]))] for e in raw["entities"]]
            row = {"id": str(raw["slurp_id"]), "sentence": " ".join(words[i] for i in sorted(words)), "slots": slots}
        except KeyError as error:
            raise ValueError(f"SLURP {split}, line {number}: no {error}; is this SLURP's own format?") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"SLURP {split}, line {number}: {error}; is this SLURP's own format?") from error
        rows.append(row)
    return rows
