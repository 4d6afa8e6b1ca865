"""Does a model compute several texts in one row as if each were alone? Tried on a few made-up tokens."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...inference.probe import tells_apart

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest hidden state; other dtypes 0.05


def tried(
    model: PreTrainedModel,
    together: Mapping[str, Tensor],
    rows: Sequence[Tensor],
    places: Sequence[Sequence[int]],
    known: Sequence[str],
) -> str | None:
    """
    Why texts laid out in one row are not computed as if alone, or why that cannot be found out; None where they are.

    Args:
        together: Arguments of the backbone, one row.
        rows: The same texts, token ids `(1, n)` each.
        places: Where each text's tokens stand in that row.
        known: Architectures known to be exact, for the message.
    """
    if any(not p.numel() or p.is_meta or hasattr(p, "full_tensor") for p in model.parameters()):
        return f"its weights are not here to be tried, and only {', '.join(known)} are known to be exact"
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            mixed = model.base_model(**together, use_cache=False).last_hidden_state[0]
            alone = [model.base_model(input_ids=row, use_cache=False).last_hidden_state[0] for row in rows]
            other = torch.cat([rows[0][:, 1:2], rows[0][:, 1:]], 1)  # another first token
            changed = model.base_model(input_ids=other, use_cache=False).last_hidden_state[0]
    except Exception as caught:  # whatever a foreign model does with arguments it does not expect
        return f"{type(caught).__name__}: {caught}"
    finally:
        for module in training:
            module.training = True
    if not tells_apart(torch.stack([alone[0][-1], changed[-1]])):
        return "its hidden states do not depend on the tokens before (yet), so that this cannot be tried"
    pairs = zip(alone, places, strict=True)
    error = max(float((mixed[list(at)] - states).abs().max()) for states, at in pairs)
    error /= max(1e-6, max(float(states.abs().max()) for states in alone))
    if error <= TOLERANCE.get(mixed.dtype, 0.05):
        return None
    return f"its hidden states change by {error:.0%} of the largest when another text shares the row"
