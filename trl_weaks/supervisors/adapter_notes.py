"""What a classifier's configuration says of its classes and its Dirichlet, kept beside an adapter.

The folder of a whole model has it in `config.json`. That of an adapter has no such file (with one, transformers takes
the folder for a whole model), and the base model's configuration knows neither.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import cached_file

from .class_predictions import EVIDENCE_KEY, OFFSET_KEY, PRIOR_KEY

FILE = "weak_classifier.json"
READ = (EVIDENCE_KEY, PRIOR_KEY, OFFSET_KEY)


def write_notes(config: PreTrainedConfig, folder: str) -> None:
    """Write `weak_classifier.json` into an adapter's folder."""
    notes: dict[str, Any] = {"classes": [config.id2label[k] for k in sorted(config.id2label)]}
    notes |= {key: getattr(config, key) for key in READ if hasattr(config, key)}
    (Path(folder) / FILE).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def read_notes(path: str, **hub: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a folder or a repository of the Hub: what `from_pretrained` takes, and what is set on the loaded model's
    configuration afterwards; both empty where there are no notes.

    Args:
        hub: `revision`, `token`.
    """
    try:
        file = cached_file(path, FILE, **{k: hub[k] for k in ("revision", "token") if k in hub})
    except OSError:  # no such file, as beside most models; where the place is missing too, loading says so
        return {}, {}
    notes = json.loads(Path(file).read_text(encoding="utf-8"))
    classes = notes.pop("classes")
    named = {"id2label": dict(enumerate(classes)), "label2id": {name: k for k, name in enumerate(classes)}}
    return named, {key: notes[key] for key in READ if key in notes}
