"""A loss in a file of the user's: both trainers and a command line know it by its name, and no file of the package."""

import importlib.util

import classification_runs
import pytest
import torch
from datasets import Dataset
from trl import TrlParser

from trl_weaks import WeakClassificationTrainer, WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.losses import LOSSES

TOY = """
from trl_weaks.losses import register_loss

@register_loss("toy")
def toy(logits, targets, progress):
    return -(targets * logits.float().log_softmax(-1)).sum(-1)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    (tmp_path / "toy_loss.py").write_text(TOY)
    spec = importlib.util.spec_from_file_location("toy_loss", tmp_path / "toy_loss.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def losses_of(trainer):
    trainer.train()
    return torch.tensor([log["loss"] for log in trainer.state.log_history if "grad_norm" in log])


def test_it_trains_completions_as_the_command_line_says(toy, student, weak_rows, tokenizer, arguments):
    def train(*options):
        given = [
            *options,
            "--output_dir",
            arguments["output_dir"],
            "--gamma_max",
            "0.2",
            "--use_cpu",
            "--bf16",
            "false",
        ]
        (args,) = TrlParser((WeakSupervisionConfig,)).parse_args_and_config(given)
        args = WeakSupervisionConfig(
            **arguments | {"weak_loss": args.weak_loss, "gamma_max": args.gamma_max, "num_train_epochs": 1}
        )
        rows = Dataset.from_list(weak_rows)
        return losses_of(WeakSupervisionTrainer(student(), args, train_dataset=rows, processing_class=tokenizer))

    torch.testing.assert_close(train("--weak_loss", "toy"), train("--weak_loss", "naive"), rtol=1e-5, atol=1e-5)


def test_it_trains_classes(toy, tmp_path):
    def train(name):
        args = classification_runs.settings(tmp_path, num_train_epochs=1, gamma_max=0.2, weak_loss=name)
        rows, model = classification_runs.weak_dataset(), classification_runs.classifier()
        return losses_of(
            WeakClassificationTrainer(model, args, rows, processing_class=classification_runs.tokenizer())
        )

    torch.testing.assert_close(train("toy"), train("naive"), rtol=1e-5, atol=1e-5)


def test_help_and_refusal_know_it(toy, capsys):
    parser = TrlParser((WeakSupervisionConfig,))
    with pytest.raises(SystemExit):
        parser.parse_args(["--weak_loss", "toys"])
    assert "toys" in capsys.readouterr().err
    text = " ".join(parser.format_help().split())
    assert (
        "--weak_loss {naive,bayesian," in text and "toy}" in text and "Loss on the weak labels: naive, bayes" in text
    )
