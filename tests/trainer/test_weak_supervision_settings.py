"""What the settings of completions build, and which settings and arguments are refused."""

import pytest
import torch

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss, NaiveLoss
from trl_weaks.losses.vocabulary import triton_passes
from trl_weaks.trainer.weak_supervision_trainer import _uses_kernels


def test_config_builds_the_loss_it_describes():
    config = dict(output_dir="unused", use_cpu=True, bf16=False)
    assert isinstance(WeakSupervisionConfig(**config, weak_loss="naive", gamma_max=0.0).build_loss(), NaiveLoss)
    evidential = dict(evidence="softplus", kl_coef=0.5, kl_anneal=0.1, evidence_offset=6.0)
    loss = WeakSupervisionConfig(**config, **evidential, gamma_max=0.3).build_loss()
    assert isinstance(loss, AuxiliaryConfidence) and isinstance(loss.loss, EvidentialLoss)
    assert loss.gamma_max == 0.3 and {name: getattr(loss.loss, name) for name in evidential} == evidential


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weak_loss": "bayes"}, "must be one of naive, bayesian"),
        ({"confidence_unit": "token"}, "must be one of word, span"),
        ({"confidence_split": "linear"}, "must be one of confidence"),
        ({"evidence": "square"}, "must be one of exp"),
        ({"gamma_max": 1.0}, r"in \[0, 1\)"),
        ({"gamma_warmup": 1.5}, "fraction of training"),
        ({"kl_anneal": -0.1}, "fraction of training"),
        ({"kl_coef": -1.0}, "must not be negative"),
        ({"loss_chunk_size": 0}, "`loss_chunk_size` must be at least 1; got 0"),
        ({"overlong": "split"}, "must be one of truncate, drop, refuse"),
    ],
)
def test_unsupported_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WeakSupervisionConfig(output_dir="unused", use_cpu=True, bf16=False, **settings)


def test_compiled_passes_are_for_a_cpu_with_a_compiler(student, perfect, tokenizer, arguments, monkeypatch):
    args = WeakSupervisionConfig(**arguments, use_cpu_kernels=True)
    given = {"model": student(), "train_dataset": perfect, "processing_class": tokenizer}

    def no_compiler():
        raise RuntimeError("install a compiler")

    monkeypatch.setattr("trl_weaks.trainer.weak_supervision_trainer.load_kernels", no_compiler)
    with pytest.raises(RuntimeError, match="install a compiler"):
        WeakSupervisionTrainer(args=args, **given)
    monkeypatch.setattr("trl_weaks.trainer.weak_supervision_trainer.find_kernels", lambda: None)
    unset = WeakSupervisionConfig(**arguments)
    assert not WeakSupervisionTrainer(args=unset, **given)._kernels, "PyTorch's passes where none load"
    monkeypatch.setattr(WeakSupervisionConfig, "device", torch.device("cuda", 0))
    with pytest.raises(ValueError, match="`use_cpu_kernels` is for training on a CPU, not on cuda:0; remove it"):
        WeakSupervisionTrainer(args=args, **given)


def test_triton_kernels_are_for_cuda_and_chosen_there(student, perfect, tokenizer, arguments, monkeypatch):
    given = {"model": student(), "train_dataset": perfect, "processing_class": tokenizer}
    with pytest.raises(ValueError, match="`use_triton_kernels` is for training on CUDA, not on cpu; remove it"):
        WeakSupervisionTrainer(args=WeakSupervisionConfig(**arguments, use_triton_kernels=True), **given)
    monkeypatch.setattr(WeakSupervisionConfig, "device", torch.device("cuda", 0))
    found = []
    monkeypatch.setattr(triton_passes, "find_kernels", lambda: found[-1])
    for kernels, chosen, expected in (
        (object(), {}, True),
        (object(), {"use_triton_kernels": False}, False),
        (object(), {"use_cpu_kernels": False}, True),
        (None, {}, False),
    ):
        found.append(kernels)
        assert _uses_kernels(WeakSupervisionConfig(**arguments, **chosen)) is expected
    with pytest.raises(RuntimeError, match="use_triton_kernels=True asks for Triton's kernels"):
        _uses_kernels(WeakSupervisionConfig(**arguments, use_triton_kernels=True))
