"""Training, and training that fails, changes nothing of a user's objects that SFTTrainer would not change."""

import copy
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer


class Fails(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("the disk is full")


def of_model(model) -> dict:
    return {
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "modes": [module.training for module in model.modules()],
        "trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "buffers": {name: (tuple(b.shape), b.dtype) for name, b in model.named_buffers()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "dtype": model.dtype,
    }


def of_rest(tokenizer) -> dict:
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "special": tokenizer.special_tokens_map,
        "template": tokenizer.chat_template,
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
    }


def run(trainer_class, config_class, rows, student, tokenizer, arguments, fails: bool) -> tuple[dict, dict]:
    model, tokenizer, before = student(), copy.deepcopy(tokenizer), rows.to_list()
    settings = config_class(**arguments)
    given = copy.deepcopy(settings.to_dict())
    trainer = trainer_class(
        model=model,
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Fails()] if fails else [],
    )
    if fails:
        with pytest.raises(RuntimeError, match="the disk is full"):
            trainer.train()
    else:
        trainer.train()
    assert rows.to_list() == before and rows.column_names == list(before[0])
    changed = {name for name, value in settings.to_dict().items() if value != given[name]}
    return of_model(model) | {"changed settings": changed}, of_rest(tokenizer)


@pytest.mark.parametrize("fails", [False, True])
def test_as_sft_trainer_leaves_it(student, tokenizer, gold, weak_rows, arguments, fails):
    stock = run(SFTTrainer, SFTConfig, gold, student, tokenizer, arguments, fails)
    ours = run(
        WeakSupervisionTrainer,
        WeakSupervisionConfig,
        Dataset.from_list(weak_rows),
        student,
        tokenizer,
        arguments,
        fails,
    )
    assert ours[1] == stock[1]
    for name in stock[0]:
        assert ours[0][name] == stock[0][name], name


def test_random_states_move_by_the_seed_alone(student, tokenizer, weak_rows, arguments):
    """Two trainings in a row end with the same random states: nothing draws from a source that no seed sets."""
    states = []
    for _ in range(2):
        run(
            WeakSupervisionTrainer, WeakSupervisionConfig, Dataset.from_list(weak_rows), student, tokenizer,
            arguments, False,
        )  # fmt: skip
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()))
    assert states[0] == states[1]
