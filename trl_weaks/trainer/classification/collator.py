"""Batches for `WeakClassificationTrainer`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .data import INPUT_IDS, LABELS, ROW_WEIGHTS, ROWS, UNKNOWN, VOTE_WEIGHTS, VOTES


@dataclass
class WeakClassificationCollator:
    """
    Pads prepared rows.

    Texts are padded on the right whatever the tokenizer's habit: a decoder with learned positions (GPT-2, OPT) gives
    other logits under left padding. The batch holds `input_ids` and `attention_mask` (B, L); `weak_votes` (B, N, K)
    float32, N the largest number of votes in the batch, missing ones uniform with weight 0; `weak_vote_weights` (B, N)
    float32; `labels` (B,); `weak_rows` (B,), the rows' numbers in their set; `weak_row_weights`
    (B,) float32, how much each teaches.

    Args:
        pad_token_id: Token to pad with.
        pad_to_multiple_of: Pad to a multiple of this length.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [torch.tensor(row[INPUT_IDS], dtype=torch.long) for row in rows]
        ids = pad_sequence(texts, batch_first=True, padding_value=self.pad_token_id)
        mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        if self.pad_to_multiple_of is not None:
            missing = -ids.shape[1] % self.pad_to_multiple_of
            ids = torch.nn.functional.pad(ids, (0, missing), value=self.pad_token_id)
            mask = torch.nn.functional.pad(mask, (0, missing))
        num_votes = max(len(row[VOTES]) for row in rows)
        num_classes = len(rows[0][VOTES][0])
        votes = torch.full((len(rows), num_votes, num_classes), 1 / num_classes)
        weights = torch.zeros(len(rows), num_votes)
        for i, row in enumerate(rows):
            votes[i, : len(row[VOTES])] = torch.tensor(row[VOTES], dtype=torch.float32)
            weights[i, : len(row[VOTES])] = torch.tensor(row[VOTE_WEIGHTS], dtype=torch.float32)
        labels = torch.tensor([row[LABELS] for row in rows], dtype=torch.long)
        batch = {INPUT_IDS: ids, "attention_mask": mask, VOTES: votes, VOTE_WEIGHTS: weights, LABELS: labels}
        numbers = [row.get(ROWS, UNKNOWN) for row in rows]
        taught = [row.get(ROW_WEIGHTS, 1.0) for row in rows]
        return batch | {
            ROWS: torch.tensor(numbers, dtype=torch.long),
            ROW_WEIGHTS: torch.tensor(taught, dtype=torch.float32),
        }
