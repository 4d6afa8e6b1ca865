"""Tiny supervisors of several shapes, with tokenizers trained in place; nothing is downloaded."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CORPUS = [
    "USER: turn on the light in the kitchen ASSISTANT:",
    '{"date": "tomorrow", "time": "five pm"}',
    "wake me up at nine, play some jazz; hello wörld 你好 🙂 é",
]
SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2")


def byte_level(bos: str | None = None, eos: str = "<|endoftext|>", vocab: int = 320) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", *([bos] if bos and bos != eos else []), eos]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet)
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token="<pad>")


def metaspace() -> PreTrainedTokenizerFast:
    """Llama's way: a leading space is a letter, unknown letters are bytes, `<s>` opens every text."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    backend.train_from_iterator(CORPUS[:2], trainers.BpeTrainer(vocab_size=150, special_tokens=special))
    backend.add_tokens([f"<0x{i:02X}>" for i in range(256)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tokenizer_of(shape: str) -> PreTrainedTokenizerFast:
    if shape == "opt":
        return byte_level(bos="</s>", eos="</s>", vocab=300)
    return metaspace() if shape in ("llama", "gemma", "gemma2") else byte_level()


def model_of(shape: str, vocab: int, seed: int = 0, **changes):
    common = {"vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs = {
        "gpt2": lambda: GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=256, **changes),
        "opt": lambda: OPTConfig(**common, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=256, **changes),
        "neox": lambda: GPTNeoXConfig(**common, intermediate_size=64, max_position_embeddings=256, **changes),
        "llama": lambda: LlamaConfig(
            **common, intermediate_size=64, num_key_value_heads=2, max_position_embeddings=256, **changes
        ),
        "qwen2": lambda: Qwen2Config(
            **common, intermediate_size=64, num_key_value_heads=2, max_position_embeddings=256, **changes
        ),
        "gemma": lambda: GemmaConfig(
            **common, intermediate_size=64, num_key_value_heads=1, head_dim=8, max_position_embeddings=256, **changes
        ),
        "gemma2": lambda: Gemma2Config(
            **common,
            **({"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16} | changes),
            max_position_embeddings=256,
        ),
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configs[shape]())
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that errors show and beams do not tie
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


@pytest.fixture(scope="session")
def build():
    """`build(shape, seed=0, **config)` -> a supervisor with random weights."""
    from trl_weaks.supervisors.supervisor import WeakSupervisor

    def make(shape: str, seed: int = 0, name: str | None = None, **changes) -> WeakSupervisor:
        tokenizer = tokenizer_of(shape)
        return WeakSupervisor(model_of(shape, len(tokenizer), seed, **changes), tokenizer, name or f"{shape}-{seed}")

    return make


@pytest.fixture(scope="session")
def tiny():
    """`tiny.model(shape, vocabulary, seed=0, **config)` and `tiny.tokenizer(shape)`."""
    return SimpleNamespace(model=model_of, tokenizer=tokenizer_of)


@pytest.fixture(scope="session")
def reference_logps():
    """Log-probabilities of one sequence by itself: no padding, no cache, softmax in float64."""

    def compute(supervisor, prompt_ids, completion_ids) -> list[float]:
        with torch.no_grad():
            logits = supervisor.model.eval()(torch.tensor([[*prompt_ids, *completion_ids]])).logits[0].double()
        logps = logits.log_softmax(-1)
        return [logps[len(prompt_ids) - 1 + t, token].item() for t, token in enumerate(completion_ids)]

    return compute


@pytest.fixture
def serve(monkeypatch):
    """Starts scripted servers (see `scripted_server`), which are closed afterwards; waits between tries are none."""
    from scripted_server import SECRET, Server, chat

    monkeypatch.setattr("trl_weaks.supervisors.server.time.sleep", lambda seconds: None)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    running = []

    def start(reply=lambda body, count: (200, chat()), **settings):
        running.append(Server(reply, **settings))
        return running[-1]

    yield start
    for server in running:
        server.close()
