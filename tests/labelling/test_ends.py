"""Every end token of a checkpoint ends an answer, in text and chat, in beams, draws and labels; none is read as text."""

import pytest
import torch
from datasets import Dataset

from trl_weaks.inference.sampling import Sampling
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2")
EOT = "<|eot|>"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + EOT + "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Says(torch.nn.Module):
    """In place of the output layer's logits: after token i of a script comes token i + 1."""

    def __init__(self, follows: dict[int, int], size: int):
        super().__init__()
        self.follows, self.size = follows, size


def two_ends(build, shape: str, where: str) -> WeakSupervisor:
    """A supervisor that always says "jazz⟨eot⟩ rubbish⟨eos⟩", whose checkpoint names both ends."""
    made = build(shape)
    model, tokenizer = made.model, made.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [EOT]})
    model.resize_token_embeddings(len(tokenizer))
    eos, eot = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(EOT)
    holder = {"generation_config": model.generation_config, "config": model.config}.get(where)
    if holder is not None:
        holder.eos_token_id = [eos, eot]
    inside = tokenizer("a: jazz" + EOT + " rubbish" + tokenizer.eos_token)["input_ids"]
    start = len(tokenizer("a:")["input_ids"])
    script = inside[start:]
    real = model.forward

    def forward(input_ids=None, **options):
        made = real(input_ids=input_ids, **options)
        # the answer so far decides: its length is the position since the prompt's last token
        return made

    model.forward = forward
    return WeakSupervisor(model, tokenizer, "x"), script, eos, eot
