"""A tiny student, a tokenizer trained in place, and weak rows with very unequal lengths."""

import warnings

import pytest
from datasets import Dataset
from shapes import TEXTS
from tiny import causal_lm
from tiny_tokenizers import byte_level
from transformers import PreTrainedTokenizerFast

warnings.filterwarnings("ignore", category=FutureWarning)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level([prompt + completion for prompt, completion in TEXTS], "<eos>")


@pytest.fixture
def student(tokenizer):
    """A function that builds the same tiny Llama every time."""

    def build(**overrides):
        ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
        return causal_lm(
            "llama", len(tokenizer), width=32, inner=48, layers=2, kv_heads=2, positions=128, **ids | overrides
        )

    return build


def characters(text: str, logp: float) -> tuple[list[list[int]], list[float]]:
    """A supervisor that reads character by character, with the end of sequence at the end."""
    spans = [[i, i + 1] for i in range(len(text))] + [[len(text), len(text)]]
    return spans, [logp] * len(spans)


@pytest.fixture
def gold() -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "completion": completion} for prompt, completion in TEXTS])


@pytest.fixture
def weak_rows() -> list[dict]:
    """Two supervisors: on odd examples they agree (one row), on even ones they differ (two rows)."""
    rows = []
    for number, (prompt, completion) in enumerate(TEXTS):
        for name, text, logp in (("ann", completion, -0.01), ("bob", '{"date": "today"}', -0.05)):
            if number % 2:
                text = completion
            spans, logps = characters(text, logp)
            new = {
                "example_id": str(number),
                "prompt": prompt,
                "completion": text,
                "weak_supervisors": [name],
                "weak_weights": [0.5],
                "weak_offsets": [spans],
                "weak_logps": [logps],
            }
            if number % 2 and name == "bob":
                for column in ("weak_supervisors", "weak_weights", "weak_offsets", "weak_logps"):
                    rows[-1][column] += new[column]
            else:
                rows.append(new)
    return rows


@pytest.fixture
def perfect() -> Dataset:
    """One supervisor that gives the gold completion with probability 1."""
    rows = []
    for number, (prompt, completion) in enumerate(TEXTS):
        spans, logps = characters(completion, 0.0)
        rows.append(
            {
                "example_id": str(number),
                "prompt": prompt,
                "completion": completion,
                "weak_supervisors": ["oracle"],
                "weak_weights": [1.0],
                "weak_offsets": [spans],
                "weak_logps": [logps],
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture
def arguments(tmp_path) -> dict:
    """Settings for a quick, deterministic run on the CPU that logs every step."""
    return dict(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        bf16=False,
        dataloader_pin_memory=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        learning_rate=1e-2,
        gradient_checkpointing=False,
        disable_tqdm=True,
        per_device_train_batch_size=4,
        num_train_epochs=2,
        seed=3,
    )


def trajectory(trainer) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step."""
    trainer.train()
    return [(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "grad_norm" in log]


@pytest.fixture(name="trajectory")
def _trajectory():
    return trajectory
