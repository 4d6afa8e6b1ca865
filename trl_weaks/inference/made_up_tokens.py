"""Token ids on which a model is tried: what a probe finds on tokens that say nothing holds for every model."""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def made_up_tokens(model: PreTrainedModel, count: int) -> Tensor:
    """
    Distinct token ids from all over the vocabulary, never the padding token, whose embedding may be zero: `(1, count)`
    on the model's device, the same at every call and on every process. Smaller vocabularies repeat them.
    """
    embedding = model.get_input_embeddings()
    # the configuration's where the weights lie in pieces (ZeRO-3)
    size = embedding.weight.shape[0] or model.config.get_text_config().vocab_size
    padding = {getattr(embedding, "padding_idx", None), getattr(model.config.get_text_config(), "pad_token_id", None)}
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
    ids = [i for i in order[: count + len(padding)] if i not in padding] or order
    return torch.tensor([(ids * count)[:count]], device=model.device)


def tells_apart(outputs: Tensor) -> bool:
    """Whether outputs, `(rows, ...)`, differ from row to row by more than rounding: otherwise equal says nothing."""
    outputs = outputs.float()
    return bool((outputs - outputs[:1]).abs().max() > 1e-5 * outputs.abs().max())
