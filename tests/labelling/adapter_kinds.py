"""Kinds of adapters that PEFT makes, and how to tell that two supervisors answer alike. No tests."""

import pytest
from peft import IA3Config, LoHaConfig, LoraConfig, OFTConfig

PROMPTS = ["USER: turn on the light ASSISTANT:", "USER: wake me up at nine ASSISTANT:"]
ANSWERS = [' {"time": "nine"}', " jazz"]


def scores(supervisor):
    return [reading.logps for reading in supervisor.score(PROMPTS, ANSWERS)]


def close(one, other):
    return all(a == pytest.approx(b, abs=1e-5) for a, b in zip(one, other, strict=True))


KINDS = {
    "dora": lambda: LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "rank-stabilised": lambda: LoraConfig(r=4, use_rslora=True, target_modules=["o_proj"], task_type="CAUSAL_LM"),
    "embeddings": lambda: LoraConfig(r=2, target_modules=["embed_tokens", "v_proj"], task_type="CAUSAL_LM"),
    "whole head": lambda: LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    ),
    "new tokens": lambda: LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=[5, 6, 9], task_type="CAUSAL_LM"
    ),
    "ia3": lambda: IA3Config(
        target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "loha": lambda: LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "oft": lambda: OFTConfig(oft_block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "bias": lambda: LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}
