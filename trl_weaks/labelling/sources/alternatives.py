"""What else a server would have said, as rows from which a student of any tokenizer learns without the server."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from ... import columns

Alternatives = list[tuple[str, float]]
# Marks that no answer contains: with bars (`<|im_end|>`, DeepSeek's wide ones too), of a turn (`<end_of_turn>`), or by
# the names that tokenizers give (`</s>`, `<eos>`, `[SEP]`). Tags such as `<p>`, which are text, are none of them.
_NAMES = r"eos|bos|pad|unk|mask|sep|cls|eo[tdmp]|inst|im_(start|end|sep)|(end|start|begin)_?of_?(text|turn|utterance)"
_BARS = r"<[|｜][^<>|｜]+[|｜]?>|<[^<>|｜]+[|｜]>"
_MARK = re.compile(rf"{_BARS}|</?s>|</?({_NAMES})>|\[/?({_NAMES})\]|\[end of text\]", re.IGNORECASE)


def alternatives_as_rows(labels: Dataset, below: float = 1.0, ends: Sequence[str] = ()) -> Dataset:
    r"""The alternatives of every token, as weak labels of their own: the answer so far, and what may come next.

    For each token of an answer whose server gave alternatives $a_1, \dots, a_k$ with probabilities $p_1, \dots, p_k$:
    one example, the prompt with the answer up to that token, and k completions $a_j$ with the weights
    $p_j / \sum_i p_i$, hard labels without an end. Training on them is the student's cross-entropy to what the server
    said of the alternatives that it listed, $-\sum_j p_j \log P(a_j)$. All is text: the student may cut each $a_j$
    into tokens of its own, also where these begin alike. What the server did not list has no part in it, nor has an
    end of the answer there, which is no text: an alternative that is empty or a mark (`<|im_end|>`, `</s>`). *ours*

    Put them beside the labels themselves (`concatenate_datasets([labels, alternatives_as_rows(labels)])`) or in their
    place.

    Args:
        labels: with `weak_top_logps`, as [`labels_from_completions`] gives them where servers were asked for
            `top_logprobs`; prompts are text.
        below: only tokens that were less probable than this; 0.9, say, leaves out what the server is sure of.
        ends: tokens by which the server's model ends an answer, where they are no usual marks.

    Returns:
        Rows with the columns of [`trl_weaks.columns`] and `confidence_source`. The id is the example's with the
        supervisor and the number of the token; each alternative has a "supervisor" of its own, since one gives one
        answer.

    Raises:
        ValueError: there are no alternatives, or prompts are messages.

    Example:

    >>> top = [[[{"token": " jazz", "logp": -0.2}, {"token": " rock", "logp": -1.8}], []]]
    >>> labels = Dataset.from_list([{
    ...     "example_id": "1", "prompt": "play", "completion": " jazz", "weak_supervisors": ["api"],
    ...     "weak_weights": [1.0], "weak_offsets": [[[0, 5], [5, 5]]], "weak_logps": [[-0.2, 0.0]],
    ...     "weak_top_logps": top,
    ... }])
    >>> rows = alternatives_as_rows(labels)
    >>> rows["example_id"][:], rows["completion"][:], [round(w, 3) for w, in rows["weak_weights"]]
    (['1/api/0', '1/api/0'], [' jazz', ' rock'], [0.832, 0.168])
    """
    if columns.TOP_LOGPS not in labels.column_names:
        raise ValueError(
            f"the labels have no column {columns.TOP_LOGPS!r}; ask servers for alternatives (top_logprobs=5)."
        )
    if isinstance(ends, str):
        raise ValueError(f"ends={ends!r} is one text; give a list of tokens.")
    rows = [made for row in labels for made in _rows_of(row, below, set(ends))]
    if not rows:
        raise ValueError(f"no token has alternatives{f' and a probability below {below}' if below < 1 else ''}.")
    return Dataset.from_list(rows)


def _rows_of(row: Mapping[str, Any], below: float, ends: Collection[str]) -> Iterator[dict[str, Any]]:
    example, prompt, text = row[columns.EXAMPLE_ID], row[columns.PROMPT], row[columns.COMPLETION]
    if not isinstance(prompt, str):
        raise ValueError(f"example {example!r}: the prompt is messages, which hold no half of an answer; use text.")
    taught = {name: row[name] for name in (columns.TRAIN_WEIGHT,) if name in row}  # as much as the example itself
    for supervisor, offsets, logps, top in zip(
        *(row[name] for name in (columns.SUPERVISORS, columns.OFFSETS, columns.LOGPS, columns.TOP_LOGPS)), strict=True
    ):
        for number, start, given in _places(offsets, logps, top or [], below, ends):
            total = math.fsum(math.exp(logp) for _, logp in given)
            for rank, (said, logp) in enumerate(given):
                yield taught | {
                    columns.EXAMPLE_ID: f"{example}/{supervisor}/{number}",
                    columns.PROMPT: prompt + text[:start],
                    columns.COMPLETION: said,
                    columns.SUPERVISORS: [f"{supervisor}/{rank}"],
                    columns.WEIGHTS: [math.exp(logp) / total],
                    columns.OFFSETS: [[[0, len(said)]]],
                    columns.LOGPS: [[0.0]],
                    columns.FINISHED: False,
                    columns.CONFIDENCE_SOURCE: ["logprobs"],
                }


def _places(
    offsets: Any, logps: Any, top: Any, below: float, ends: Collection[str]
) -> Iterator[tuple[int, int, Alternatives]]:
    """Number, first character and alternatives of the tokens that begin with a character of their own."""
    end = 0
    for number, (span, logp, alternatives) in enumerate(zip(offsets, logps, top, strict=bool(top))):
        begins, end = span[0] >= end, span[1]  # a token may hold the rest of a character
        given = [(a["token"], a["logp"]) for a in alternatives if not _ends(a["token"], ends)]
        if begins and given and (below >= 1 or math.exp(logp) < below):
            yield number, span[0], given


def _ends(said: str, ends: Collection[str]) -> bool:
    """Whether an alternative is an end of the answer: some servers write no text for it, others the token's name."""
    return not said or said in ends or _MARK.fullmatch(said.strip()) is not None
