"""Tiny models with random weights under the names that TRL's tests load, and tokenizers with TRL's chat templates."""

from pathlib import Path

import torch
import transformers as hf
from rows import PAIRS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32768,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS = {  # name -> class, settings of its own, chat template
    "Qwen2ForCausalLM-2.5": ("Qwen2", {}, "qwen2_5"),
    "Qwen3ForCausalLM": ("Qwen3", {}, "qwen3"),
    "Cohere2ForCausalLM": ("Cohere2", {"logit_scale": 0.125}, "cohere2"),
    "Qwen3MoeForCausalLM": ("Qwen3Moe", EXPERTS, "qwen3"),
    "Olmo3ForCausalLM": ("Olmo3", {}, "qwen2_5"),
    "GptOssForCausalLM": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2}, "gptoss"),
    "GPTNeoXForCausalLM": ("GPTNeoX", {}, None),
    "Lfm2ForCausalLM": ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "lfm2"),
    "Lfm2ForCausalLM-2.5": ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "lfm2_2_5"),
    "Glm4MoeForCausalLM": (
        "Glm4Moe",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
        "glm4moe",
    ),
}


def tokenizer(template: str | None, templates: Path) -> hf.PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([f"{a} {b}" for a, b in PAIRS] * 3, trainer)
    made = hf.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=marks[0], eos_token=marks[2])
    if template:
        made.chat_template = (templates / f"{template}.jinja").read_text(encoding="utf-8")
    return made


def make_models(folder: Path, templates: Path) -> None:
    """Writes every stand-in below `folder`; says which could not be made."""
    for name, (kind, own, template) in MODELS.items():
        try:
            torch.manual_seed(0)
            made = tokenizer(template, templates)
            ids = {"pad_token_id": made.pad_token_id, "eos_token_id": made.eos_token_id, "bos_token_id": None}
            config = getattr(hf, f"{kind}Config")(**SIZE | own | ids | {"vocab_size": len(made)})
            model = getattr(hf, f"{kind}ForCausalLM")(config)
            model.save_pretrained(folder / f"tiny-{name}")
            made.save_pretrained(folder / f"tiny-{name}")
        except (
            Exception
        ) as error:  # one architecture fewer; its tests fail with TRL's class too, and the table says so
            print(f"no stand-in for tiny-{name}: {type(error).__name__}: {error}")
