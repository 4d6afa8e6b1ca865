"""Students with other tokenizers than byte-level ones: what a confidence is worth does not depend on how they cut."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

PROMPT, COMPLETION = "wake me at five pm tomorrow\n", "Fünf pm  tomorrow"


def wordpiece(texts: list[str], specials: bool, lower: bool) -> PreTrainedTokenizerFast:
    """BERT's kind: white space is dropped, the rest of a word is written with `##`."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    if lower:
        raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["<pad>", "<eos>", "[UNK]", "[CLS]", "[SEP]"]
    raw.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=90, special_tokens=names, show_progress=False))
    if specials:
        ids = [(name, raw.token_to_id(name)) for name in names[3:]]
        raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="[UNK]")


@pytest.fixture(params=[(False, False), (True, True)], ids=["plain", "with special tokens, lower case"])
def tokenizer(request, weak_rows) -> PreTrainedTokenizerFast:
    texts = [row["prompt"] + row["completion"] for row in weak_rows] + [PROMPT + COMPLETION]
    return wordpiece(texts, *request.param)


def trainer_of(student, tokenizer, rows, arguments, **settings):
    return WeakSupervisionTrainer(
        model=student(vocab_size=len(tokenizer)),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def supervised(row: dict) -> list[tuple[int, float]]:
    """Unit of each supervised token, and the unit's log-probability under the first supervisor."""
    marked = zip(row["labels"], row["weak_unit_ids"], row["weak_unit_logps"], strict=True)
    return [(unit, logps[0]) for label, unit, logps in marked if label != -100]


def test_words_of_wordpiece_by_hand(student, tokenizer, weak_rows, arguments):
    """A supervisor that reads characters, each at -0.01; spaces belong to the next word, the end to the last."""
    spans = [[i, i + 1] for i in range(len(COMPLETION))] + [[len(COMPLETION)] * 2]
    row = weak_rows[0] | {
        "prompt": PROMPT,
        "completion": COMPLETION,
        "weak_weights": [1.0],
        "weak_offsets": [spans],
        "weak_logps": [[-0.01] * len(spans)],
    }
    found = supervised(trainer_of(student, tokenizer, [row], arguments).train_dataset[0])
    units = dict(found)
    assert [unit for unit, _ in found] == sorted(unit for unit, _ in found)
    assert units == pytest.approx({0: -0.01 * len("Fünf"), 1: -0.01 * len(" pm"), 2: -0.01 * (len("  tomorrow") + 1)})
    assert len(found) > len(units)  # pieces of words, so that there was something to share


def test_whole_completions_keep_their_probability(student, tokenizer, weak_rows, arguments):
    trainer = trainer_of(student, tokenizer, weak_rows, arguments)
    for row, prepared in zip(weak_rows, trainer.train_dataset, strict=True):
        assert sum(dict(supervised(prepared)).values()) == pytest.approx(sum(row["weak_logps"][0]))


def test_it_trains(student, tokenizer, weak_rows, arguments, trajectory):
    trainer = trainer_of(student, tokenizer, weak_rows, arguments, num_train_epochs=4)
    path = torch.tensor(trajectory(trainer))
    assert torch.isfinite(path).all() and path[-1, 0] < path[0, 0]
    log = next(log for log in trainer.state.log_history if "weak/confidence" in log)
    assert 0.9 < log["weak/confidence"] < 1.0
