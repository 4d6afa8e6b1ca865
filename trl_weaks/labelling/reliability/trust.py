"""Weights that say, for every text, how far each supervisor's vote is to be trusted there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ... import columns
from ...aggregation.base import NotComputable
from ...aggregation.trust import TrustHead
from ...supervisors.class_names import class_id
from ...supervisors.classifier import WeakClassifier
from ...supervisors.ensemble import WeakEnsemble
from ...supervisors.reading.messages import completion_text
from ...supervisors.supervisor import WeakSupervisor
from ..sources.tables import same_text
from .gold import Gold, class_names, gold_texts, read_gold
from .shared_ids import refuse_shared_ids
from .weights import renormalise_weights


def trust_weights(
    ensemble: WeakEnsemble, labels: Dataset, known: Dataset, gold: Gold, l2: float | None = None
) -> Dataset:
    r"""The labels with weights $w_i(x)$ for every text: each supervisor's, times the trust in its label, normalised.

    For each supervisor a [`TrustHead`] learns on `known`, whose gold is there (half A of a weak-to-strong
    experiment), in which states of its own its label is right; on `labels` it says how likely the label is right. The
    trainer uses the weights as they are, and `weak_trust` keeps the probabilities. A classifier's state is what its
    head reads; a language model's is that of the last layer at the end of its completion. After arXiv 2606.01000,
    which keeps the most trusted labels of one supervisor; weights among several are *ours*.

    Args:
        ensemble: the supervisors that gave the labels: `WeakClassifier`s, or `WeakSupervisor`s.
        labels: what `label_classes` or `label_completions` (mode `"independent"`) made, to be weighted.
        known: what it made of other texts, some with gold. Supervisors are more often right on texts they were trained
            on than elsewhere: gold that they have not seen is better.
        gold: of `known`: rows of `example_id` and `label` (or `completion`), or a mapping from ids to classes or
            texts; a completion is right where it equals the text up to white space at the ends.
        l2: strength of the heads' ridge; None for cross-validation.

    Raises:
        ValueError: before any work: labels of other supervisors, classes in another order, or a text that is in both.
        NotComputable: fewer than two gold labels.

    Example: `docs/howto/trust.md`.
    """
    if columns.WEAK_PROBS not in labels.column_names and columns.COMPLETION in labels.column_names:
        return _of_completions(ensemble, labels, known, gold, l2)
    for name, part in (("labels", labels), ("known", known)):
        _check(part, name, ensemble)
    classes, column = class_names(labels, len(labels[0][columns.WEAK_PROBS][0])), _text_column(labels, "labels")
    if class_names(known, len(classes)) != classes:
        raise ValueError(f"`known` lists the classes as {class_names(known, len(classes))}, `labels` as {classes}.")
    refuse_shared_ids(known, one_row=True)
    texts, learned = labels[column][:], known[_text_column(known, "known")][:]
    _refuse_shared(texts, learned)
    place = {example: row for row, example in enumerate(known[columns.EXAMPLE_ID])}
    truth = {place[e]: class_id(label, classes, e) for e, label in read_gold(gold, place).items()}
    if len(truth) < 2:
        raise NotComputable("gold: two labels or more are needed to learn from; some hundreds are better.")
    rows, right = sorted(truth), torch.tensor([truth[row] for row in sorted(truth)])
    votes = torch.tensor(np.asarray(known[columns.WEAK_PROBS][:], dtype=float))[rows].argmax(-1)
    trust = []
    for i, supervisor in enumerate(ensemble.supervisors):
        head = TrustHead(l2).fit(supervisor.hidden_states([learned[row] for row in rows]), votes[:, i] == right)
        trust.append(head(supervisor.hidden_states(texts)))
    return _weighted(labels, torch.stack(trust, -1), ensemble.weights)


def _of_completions(ensemble: WeakEnsemble, labels: Dataset, known: Dataset, gold: Gold, l2: float | None) -> Dataset:
    for name, part in (("labels", labels), ("known", known)):
        _check_completions(part, name, ensemble)
        refuse_shared_ids(part)
    _refuse_shared(labels[columns.PROMPT][:], known[columns.PROMPT][:])
    truth = gold_texts(gold, set(known[columns.EXAMPLE_ID]))
    trust: list[list[float]] = [[0.0] * len(names) for names in labels[columns.SUPERVISORS]]
    heads = {}
    for supervisor in ensemble.supervisors:
        rows = [
            row for row in known if row[columns.EXAMPLE_ID] in truth and supervisor.name in row[columns.SUPERVISORS]
        ]
        if len(rows) < 2:
            raise NotComputable(
                f"gold: {len(rows)} completions of supervisor {supervisor.name!r} in `known` have gold; two or more "
                "are needed to learn from, and some hundreds are better."
            )
        right = [bool(same_text(_text(row), truth[row[columns.EXAMPLE_ID]])) for row in rows]
        heads[supervisor.name] = TrustHead(l2).fit(_states(supervisor, rows), torch.tensor(right))
    for supervisor in ensemble.supervisors:
        places = [(n, row) for n, row in enumerate(labels) if supervisor.name in row[columns.SUPERVISORS]]
        if places:
            found = heads[supervisor.name](_states(supervisor, [row for _, row in places])).tolist()
            for (n, row), value in zip(places, found, strict=True):
                trust[n][row[columns.SUPERVISORS].index(supervisor.name)] = value
    given = dict(zip(ensemble.names, ensemble.weights, strict=True))
    weights = [
        [given[name] * value for name, value in zip(names, values, strict=True)]
        for names, values in zip(labels[columns.SUPERVISORS], trust, strict=True)
    ]
    return renormalise_weights(_with(labels, weights, trust))


def _states(supervisor: WeakSupervisor, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    names = [f"example {row[columns.EXAMPLE_ID]!r}" for row in rows]
    return supervisor.hidden_states(
        [row[columns.PROMPT] for row in rows], [row[columns.COMPLETION] for row in rows], names
    )


def _text(row: Mapping[str, Any]) -> str:
    return completion_text(row[columns.COMPLETION], f"example {row[columns.EXAMPLE_ID]!r}")


def _refuse_shared(texts: Sequence[Any], learned: Sequence[Any]) -> None:
    shared = {repr(text) for text in texts} & {repr(text) for text in learned}
    if shared:
        raise ValueError(f"the text {min(shared)} is in `labels` and in `known`; its gold would leak. Remove it.")


def _weighted(labels: Dataset, trust: torch.Tensor, weights: Sequence[float]) -> Dataset:
    shares = trust * torch.tensor(weights, dtype=trust.dtype)
    shares = shares / shares.sum(-1, keepdim=True)
    return _with(labels, shares.tolist(), trust.tolist())


def _with(labels: Dataset, weights: list[list[float]], trust: list[list[float]]) -> Dataset:
    made = labels.remove_columns([c for c in (columns.WEIGHTS, columns.TRUST) if c in labels.column_names])
    return made.add_column(columns.WEIGHTS, weights).add_column(columns.TRUST, trust)


def _check_completions(labels: Dataset, name: str, ensemble: WeakEnsemble) -> None:
    strange = [s.name for s in ensemble.supervisors if not isinstance(s, WeakSupervisor) or s.adapters is None]
    if strange:
        raise ValueError(f"supervisor {strange[0]!r} is no local `WeakSupervisor`, whose states could be read.")
    missing = {columns.EXAMPLE_ID, columns.PROMPT, columns.COMPLETION, columns.SUPERVISORS} - set(labels.column_names)
    if missing or not len(labels):
        raise ValueError(f"`{name}` is empty, or lacks the columns {sorted(missing)}; make it by `label_completions`.")
    for row, names in enumerate(labels[columns.SUPERVISORS]):
        unknown = sorted(set(names) - set(ensemble.names))
        if unknown:
            raise ValueError(
                f"`{name}`, row {row}, column {columns.SUPERVISORS!r}: {unknown[0]!r} is none of {ensemble.names}; "
                "label the prompts with this ensemble."
            )


def _check(labels: Dataset, name: str, ensemble: WeakEnsemble) -> None:
    strange = [s.name for s in ensemble.supervisors if not isinstance(s, WeakClassifier)]
    if strange:
        raise ValueError(f"supervisor {strange[0]!r} is no `WeakClassifier`; trust heads read classifiers' states.")
    missing = {columns.EXAMPLE_ID, columns.WEAK_PROBS, columns.SUPERVISORS} - set(labels.column_names)
    if missing or not len(labels):
        raise ValueError(
            f"`{name}` is empty, or lacks the columns {sorted(missing)}; make it by `label_classes` of this ensemble."
        )
    for row, names in enumerate(labels[columns.SUPERVISORS]):
        if list(names) != list(ensemble.names):
            raise ValueError(
                f"`{name}`, row {row}, column {columns.SUPERVISORS!r}: votes of {names}, not of {ensemble.names}; "
                "label the texts with this ensemble."
            )


def _text_column(labels: Dataset, name: str) -> str:
    found = [c for c in (columns.TEXT, columns.PROMPT) if c in labels.column_names]
    if not found:
        raise ValueError(f"`{name}` has no column {columns.TEXT!r} or {columns.PROMPT!r}.")
    return found[0]
