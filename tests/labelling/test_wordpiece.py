"""A supervisor that reads WordPiece (lower case, ## inside words) from scores to labels to a student's training."""

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

PROMPTS = [f"USER: Wake me up at {word} ASSISTANT:" for word in ("nine", "noon", "Five pm", "seven")]
TEXTS = ['{"time": "five pm"}', "Tomorrows", " é 你好", "tomorrow in the kitchen"]
LETTERS = sorted({letter for text in [*PROMPTS, TEXTS[0], TEXTS[3]] for letter in text.lower() if letter != " "})
WHOLE = ["tomorrow", "kitchen", "user", "assistant", "time", "wake", "five", "in", "the"]
# Written out and not trained: the trainer breaks ties by hash, so that each process would have another tokenizer.
VOCABULARY = {
    piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[EOS]", *LETTERS, *(f"##{c}" for c in LETTERS), *WHOLE])
}


def wordpiece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[EOS]", pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def supervisor(build):
    tokenizer = wordpiece()
    return WeakSupervisor(build("gpt2", 5).model, tokenizer, "pieces")


def test_scores_are_those_of_a_plain_forward(supervisor, reference_logps):
    tok = supervisor.tokenizer
    for prompt, text, read in zip(PROMPTS, TEXTS, supervisor.score(PROMPTS, TEXTS), strict=True):
        ids = tok(prompt)["input_ids"]
        assert ids + read.token_ids == tok(prompt + text + "[EOS]")["input_ids"]
        assert read.logps == pytest.approx(reference_logps(supervisor, ids, read.token_ids), abs=1e-4)
        assert [start for start, _ in read.offsets][1:] == [end for _, end in read.offsets][:-1], "no gap"
        for token, (start, end) in list(zip(read.token_ids, read.offsets, strict=True))[:-1]:
            piece = tok.convert_ids_to_tokens(token).removeprefix("##")
            assert piece in ("[UNK]", text[start:end].strip().lower().replace("é", "e"))
    assert any(tok.convert_ids_to_tokens(t).startswith("##") for t in supervisor.score(PROMPTS, TEXTS)[1].token_ids)


def test_labels_train_a_student_of_another_tokenizer(supervisor, build, tmp_path):
    ensemble = WeakEnsemble([supervisor, build("llama", 1, "other")])
    rows = Dataset.from_list([{"example_id": f"e{i}", "prompt": prompt} for i, prompt in enumerate(PROMPTS)])
    run = {"num_candidates": 3, "max_new_tokens": 5, "output_dir": tmp_path / "labels"}
    labels = label_completions(ensemble, rows, **run)
    assert {name for row in labels for name in row["weak_supervisors"]} == {"pieces", "other"}
    assert verify_labels(ensemble, rows, share=1, **run).different == []
    student = build("qwen2", 7)
    arguments = WeakSupervisionConfig(
        output_dir=tmp_path / "student", max_steps=2, per_device_train_batch_size=4, use_cpu=True, bf16=False,
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = WeakSupervisionTrainer(
        model=student.model, args=arguments, train_dataset=labels, processing_class=student.tokenizer
    )
    for row, label in zip(trainer.train_dataset, labels, strict=True):
        units = dict(zip(row["weak_unit_ids"], row["weak_unit_logps"], strict=True))
        totals = [sum(values) for values in zip(*(v for unit, v in units.items() if unit >= 0), strict=True)]
        assert totals == pytest.approx([sum(logps) for logps in label["weak_logps"]], abs=1e-4)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)
