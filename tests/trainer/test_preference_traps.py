"""Preferences that trained something else in silence: dropout, adapters, columns of other formats, names of losses."""

import copy
import logging

import preference_runs as runs
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from tiny import causal_lm
from trl import DPOConfig, DPOTrainer

from trl_weaks.labelling.preferences import build_preferences, preference_report
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.scores import Scored
from trl_weaks.supervisors.supervisor import WeakSupervisor
from trl_weaks.trainer.preference import checks
from trl_weaks.trainer.preference.run import trainer_on_pairs
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_preference_trainer import WeakPreferenceTrainer

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def trainer(folder, policy=None, reference=None, rows=None, stock=False, **changes):
    kind, config = (DPOTrainer, DPOConfig) if stock else (WeakPreferenceTrainer, WeakPreferenceConfig)
    rows = runs.pairs(epsilon=False, weight=False) if rows is None else rows
    args = config(**runs.settings(folder, **changes))
    policy = policy or runs.model()
    return kind(policy, reference, args, train_dataset=rows, processing_class=runs.tokenizer())


def losses(made):
    made.train()
    return [log["loss"] for log in made.state.log_history if "loss" in log]


def heard(caplog):
    return [r.getMessage() for r in caplog.records if r.name == checks.__name__]


def test_sigmoid_by_name_is_plain_dpo_and_unset_it_is_ours(tmp_path):
    policy = runs.model()
    reference = runs.reference_of(policy)

    def of(**changes):
        return losses(trainer(tmp_path, copy.deepcopy(policy), copy.deepcopy(reference), **changes))

    assert of(loss_type="sigmoid") == pytest.approx(of(stock=True, loss_type=["sigmoid"]), abs=1e-5)
    assert of(loss_type=["sigmoid"]) == of(preference_loss="sigmoid") != of() == of(preference_loss="cdpo")
    again = WeakPreferenceConfig(**runs.settings(tmp_path))
    copied = WeakPreferenceConfig(**runs.settings(tmp_path, preference_loss="cdpo", loss_type=again.loss_type))
    assert (
        (copied.preference_loss, copied.loss_type) == (again.preference_loss, again.loss_type) == ("cdpo", ["sigmoid"])
    )


@pytest.mark.parametrize("name", ["robust", ["sigmoid", "sft"], "sigmoid"])
def test_flip_probabilities_that_a_loss_does_not_read_are_said(tmp_path, caplog, name):
    loss = {"loss_type": name}
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, reference=runs.model(), rows=runs.pairs(weight=False), use_pair_epsilon=False, **loss)
        trainer(tmp_path, reference=runs.model(), rows=runs.pairs(epsilon=False), **loss)
        assert not [one for one in heard(caplog) if "pair_epsilon" in one]
        trainer(tmp_path, reference=runs.model(), rows=runs.pairs(weight=False), **loss)
    (warning,) = [one for one in heard(caplog) if "pair_epsilon" in one]
    assert "is not read" in warning and "'cdpo'" in warning


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("gpt_bigcode", {"positions": 128}),  # attn_pdrop is 0.1 by default
        ("bloom", {"hidden_dropout": 0.3}),
        ("starcoder2", {"residual_dropout": 0.3}),
        ("opt", {"positions": 128, "layerdrop": 0.5}),
    ],
)
def test_policy_and_reference_are_one_model_at_the_start_whatever_their_dropout_is_called(tmp_path, kind, own):
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    policy = causal_lm(kind, 320, width=32, layers=2, heads=4, seed=0, **ids, **own)
    made = trainer(tmp_path, policy.train(), copy.deepcopy(policy).train(), max_steps=1)
    made.train()
    assert made.state.log_history[0]["rewards/margins"] == 0


def test_dropout_that_a_layer_reads_from_the_configuration_is_refused(tmp_path):
    own = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "hidden_dropout": 0.3, "attention_dropout": 0.0}
    policy = causal_lm("falcon", 320, width=32, layers=2, heads=4, seed=0, **own)
    with pytest.raises(
        ValueError, match="FalconDecoderLayer, which reads `hidden_dropout` from .*hidden_dropout = 0.0"
    ):
        trainer(tmp_path, policy, copy.deepcopy(policy))
    policy.config.hidden_dropout = 0.0
    assert losses(trainer(tmp_path, policy, copy.deepcopy(policy)))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_a_reference_in_training_mode_is_read_without_dropout_beforehand(tmp_path, kind):
    policy = runs.model(kind, dropout=0.3).train()
    made = trainer(tmp_path, policy, copy.deepcopy(policy).train(), max_steps=1, precompute_ref_log_probs=True)
    made.train()
    assert made.state.log_history[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("other", [{"messages": [{"role": "user", "content": "hi"}]}, {"completion": [{"role": "a"}]}])
@pytest.mark.parametrize("stream", [False, True])
def test_columns_of_other_formats_do_not_decide_what_a_pair_is(tmp_path, other, stream):
    plain = runs.pairs(epsilon=False, weight=False)
    carried = Dataset.from_list([row | other for row in plain.to_list()])
    kinds = [checks.without_other_texts(one.to_iterable_dataset() if stream else one) for one in (plain, carried)]
    assert kinds[0].column_names == kinds[1].column_names == plain.column_names
    if not stream:
        one, two = (trainer(tmp_path, reference=runs.model(), rows=rows).train_dataset for rows in (plain, carried))
        assert one.to_list() == two.to_list()
        assert all(row["chosen_ids"][-1] == runs.tokenizer().eos_token_id for row in two)


def test_streams_of_unknown_columns_are_checked_as_their_rows_come(tmp_path):
    rows = runs.pairs(epsilon=False).to_list()
    weighed = IterableDataset.from_generator(lambda: iter(rows))
    carried = IterableDataset.from_generator(lambda: iter([row | {"messages": []} for row in rows]))
    assert weighed.column_names is None
    with pytest.raises(ValueError, match="`pair_weight` cannot be used: "):
        losses(trainer(tmp_path, reference=runs.model(), rows=weighed, loss_type="aot"))
    with pytest.raises(ValueError, match="has a column `messages`, which is no part of a pair"):
        losses(trainer(tmp_path, reference=runs.model(), rows=carried))


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["whole", "another adapter"])
def test_a_student_whose_adapter_would_be_lost_is_refused(tmp_path, peft_config):
    tuned = get_peft_model(runs.model(), LORA)
    student = WeakSupervisor(tuned, runs.tokenizer(), "student")
    args = WeakPreferenceConfig(**runs.settings(tmp_path))
    with pytest.raises(ValueError, match="holds adapters and is no `PeftModel`.*merge_and_unload"):
        trainer_on_pairs(student, runs.pairs(), args, peft_config)
    merged = WeakSupervisor(tuned.merge_and_unload().requires_grad_(True), runs.tokenizer(), "student")
    assert losses(trainer_on_pairs(merged, runs.pairs(), args, peft_config))


def test_a_model_that_was_trained_since_it_was_loaded_is_no_reference_from_disk(tmp_path, caplog):
    runs.model().save_pretrained(tmp_path / "saved")
    with caplog.at_level(logging.WARNING):
        policy = type(runs.model()).from_pretrained(tmp_path / "saved")
        trainer(tmp_path, policy)
        assert not [one for one in heard(caplog) if "reference" in one]
        with torch.no_grad():
            policy.lm_head.weight.add_(0.1)
        trainer(tmp_path, policy)
    (warning,) = [one for one in heard(caplog) if "reference" in one]
    assert "has been trained since" in warning and "ref_model=copy.deepcopy(model)" in warning


@pytest.mark.parametrize("name", ["sft", "ipo", "sigmoid_norm", "hinge"])
def test_prompts_without_tokens_count_as_in_trl(tmp_path, name):
    """The first token of such a completion is predicted by nothing."""
    rows = Dataset.from_list([row | {"prompt": ""} for row in runs.pairs(epsilon=False, weight=False).to_list()])
    policy = runs.model()
    made = [
        losses(trainer(tmp_path, copy.deepcopy(policy), runs.reference_of(policy), rows, stock, loss_type=[name]))
        for stock in (False, True)
    ]
    assert made[0] == pytest.approx(made[1], abs=1e-5)


class Scripted(WeakSupervisor):
    """Says and scores what a test plants."""

    said, table = (), {}

    def answer(self, prompts, *args, **options):
        return [list(self.said) for _ in prompts]

    def score_fitting(self, prompts, completions, names=None):
        return [Scored([0, 0], [self.table[c]] * 2, [(0, len(c)), (len(c), len(c))]) for c in completions]


def test_cut_answers_are_counted_where_they_end_up(caplog):
    """One loud supervisor has the whole answer on top; two quiet ones swap the pair, and the cut one is chosen."""
    tables = [{" cut": -100.0, " whole": -1.0}] + [{" cut": -1.0, " whole": -5.0}] * 2
    supervisors = []
    for seed, table in enumerate(tables, 1):
        supervisors.append(Scripted(runs.model(seed=seed), runs.tokenizer(), f"s{seed}"))
        supervisors[-1].table = table
    student = Scripted(runs.model(), runs.tokenizer(), "student")
    student.said = [(" cut", False), (" whole", True)]
    rows = Dataset.from_list([{"prompt": "wake me"}, {"prompt": "play jazz"}])
    with caplog.at_level(logging.WARNING):
        made = build_preferences(student, WeakEnsemble(supervisors), rows, shared_error=0.0)
    assert made["chosen"][:] == [" cut"] * 2 and preference_report(made)["swapped"] == 2
    assert preference_report(made)["chosen_unfinished"] == 2
    assert any("2 of 2 chosen answers were cut" in record.getMessage() for record in caplog.records)


def test_a_column_that_pairs_write_is_not_overwritten():
    from trl_weaks import pairs_from_comparisons

    votes = [{"example_id": "1", "supervisor": "j", "completion_a": "x", "completion_b": "y", "preferred": "a"}]
    with pytest.raises(ValueError, match="a column 'votes', which pairs write"):
        pairs_from_comparisons([{"example_id": "1", "prompt": "p", "votes": 77}], votes)
