"""The dataset cards that travel with the labels."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...columns import CONFIDENCE_SOURCE, EXAMPLE_ID, SUPERVISORS
from ...files import writing
from ...fingerprint import supervisor_fingerprint
from ...markdown import table
from ...supervisors.ensemble import WeakEnsemble
from ...supervisors.loading import hub_id
from ...supervisors.supervisor import WeakSupervisor
from .export import Counts

# `load_dataset` of the folder reads these files alone: beside servers, local models have a dataset of their own.
HEAD = """---
tags:
- trl
- trl-weaks
- weak-supervision
configs:
- config_name: default
  data_files: dataset/train-*.parquet
---

# Weak labels

Completions of {examples} prompts by {n} weak supervisors, one row per distinct completion ({rows} rows). A valid TRL
prompt-completion dataset; `trl_weaks.WeakSupervisionTrainer` also reads the weak columns. Written by
`trl_weaks.label_completions` (weak-to-strong training with several supervisors, arXiv 2406.03199).
"""


def write_card(path: Path, ensemble: WeakEnsemble, mode: str, settings: dict, counts: Counts) -> None:
    """Write who gave these labels, how, and how many: everything needed to make them again.

    Raises:
        LabelStoreError: the disk refuses.
    """
    parts = [HEAD.format(examples=counts.examples, n=len(ensemble.names), rows=counts.rows)]
    heads = ("supervisor", "weight", "model", "revision", "parameters", "dtype", "fingerprint")
    heads += ("empty best answers", "too long for it", "cut at max_new_tokens")
    members = zip(ensemble.supervisors, ensemble.weights, strict=True)
    parts.append(table(heads, [_row(supervisor, weight, counts) for supervisor, weight in members]))
    search = "beam search, as many beams as candidates, no sampling (no seed)"
    draws = "sampling, each candidate from a random stream of its own"
    rows = [("mode", mode), *settings.items(), ("decoding", draws if "temperature" in settings else search)]
    rows.append(("score", "weighted mean of log-probabilities per token, end of sequence included"))
    rows += [("prompts given", counts.prompts), ("prompts without any label", counts.prompts - counts.examples)]
    parts += ["", table(["setting", "value"], rows)]
    with writing("the dataset card", path):
        path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def write_answers_card(
    path: Path, labels: Dataset, sources: Mapping[str, tuple[float, str]], settings: Mapping[str, Any]
) -> None:
    """Write what `labels_from_completions` made of answers: by whom, on whose word, and how they were asked for.

    Args:
        sources: the weight of each supervisor and what it is, without addresses or paths.

    Raises:
        LabelStoreError: the disk refuses.
    """
    count = len(set(labels[EXAMPLE_ID][:]))
    head = HEAD.format(examples=count, n=len(sources), rows=len(labels))
    lines = [head.replace("label_completions", "labels_from_completions")]
    rows = []
    said: dict[str, Counter] = {name: Counter() for name in sources}
    for row in labels.select_columns([SUPERVISORS, CONFIDENCE_SOURCE]):
        for name, source in zip(row[SUPERVISORS], row[CONFIDENCE_SOURCE], strict=True):
            said[name][source or "none: a hard label"] += 1
    for name, counts in said.items():
        told = ", ".join(f"{source} ({number})" for source, number in counts.most_common())
        weight, model = sources[name]
        rows.append([name, f"{weight:.4g}", model, sum(counts.values()), told or "-"])
    lines.append(table(["supervisor", "weight", "model", "answers", "confidence from"], rows))
    lines += ["", table(["setting", "value"], list(settings.items()))]
    with writing("the dataset card", path):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def model_of(supervisor: WeakSupervisor) -> str:
    """What a supervisor is; a folder's name is not published: only what looks like a Hub id is."""
    config = supervisor.config
    source = hub_id(config._name_or_path) or "local"
    more = ["", *(supervisor.adapters.names() if supervisor.adapters else ()), *filter(None, [supervisor.variant])]
    return f"{config.model_type} ({source})" + " + ".join(more)


def _row(supervisor: WeakSupervisor, weight: float, counts: Counts) -> list[str]:
    model, config = supervisor.model, supervisor.config
    size, dtype = ("-", supervisor.dtype) if model is None else (f"{_parameters(supervisor):,}", str(model.dtype))
    revision = getattr(config, "_commit_hash", None) or "-"
    parts = (supervisor.name, f"{weight:.4g}", model_of(supervisor), revision, size)
    left_out = (str(counted[supervisor.name]) for counted in vars(counts.left_out).values())
    return [*parts, dtype.removeprefix("torch."), supervisor_fingerprint(supervisor), *left_out]


def _parameters(supervisor: WeakSupervisor) -> int:
    """Those that answer: adapters that rest are not among them."""
    with supervisor.adapters.in_use():
        names = supervisor.adapters.described()[1]
    return sum(p.numel() for name, p in supervisor.model.named_parameters() if names.get(name, name) is not None)
