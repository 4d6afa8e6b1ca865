"""`disable_dropout`, the default of classifiers: no layer drops anything, wherever it keeps the rate."""

import pytest
import tiny
import torch
from classification_runs import WORDS, settings, tokenizer, weak_dataset

from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer

IDS = {"pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 2}


def student(folder, kind, model_settings, **changes):
    model = tiny.classifier(kind, len(WORDS) + 4, scale=5, **IDS, **model_settings)
    return WeakClassificationTrainer(model, settings(folder, **changes), weak_dataset(8), processing_class=tokenizer())


@pytest.mark.parametrize(
    "kind, own",
    [
        ("opt", {"dropout": 0.3}),
        ("llama", {"attention_dropout": 0.3}),
        ("gpt_neox", {"attention_dropout": 0.3, "hidden_dropout": 0.3}),
        ("bloom", {"hidden_dropout": 0.3}),
        ("bert", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}),
        ("modernbert", {"attention_dropout": 0.3, "cls_token_id": 3, "sep_token_id": 3}),
    ],
)
def test_a_student_in_training_answers_as_in_evaluation(tmp_path, kind, own):
    trainer = student(tmp_path, kind, own)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        trained, again = (trainer.model.train()(**given).logits for _ in range(2))
        assert torch.equal(trained, again) and torch.equal(trained, trainer.model.eval()(**given).logits)
        with_dropout = student(tmp_path, kind, own, disable_dropout=False).model.train()
        assert not torch.equal(with_dropout(**given).logits, with_dropout(**given).logits)


def test_dropout_that_cannot_be_reached_is_refused(tmp_path):
    own = {"hidden_dropout": 0.3, "attention_dropout": 0.0}
    with pytest.raises(ValueError, match="FalconDecoderLayer, which reads `hidden_dropout`.*'hidden_dropout': 0.0"):
        student(tmp_path / "out", "falcon", own)
    student(tmp_path / "out", "falcon", own, disable_dropout=False)
    made = tiny.classifier("falcon", len(WORDS) + 4, **IDS, **own)
    made.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    args = settings(tmp_path / "out", model_init_kwargs={"hidden_dropout": 0.0})
    trainer = WeakClassificationTrainer(str(tmp_path / "model"), args, weak_dataset(8))
    assert trainer.model.config.hidden_dropout == 0.0
