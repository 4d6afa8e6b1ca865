"""What `WeakPreferenceTrainer` and its config refuse, and what they count."""

import logging

import preference_runs as runs
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import HfArgumentParser
from trl import SFTConfig

from trl_weaks import ImitationAlarm
from trl_weaks.trainer.preference.checks import check_adapters, share_moved
from trl_weaks.trainer.weak_preference_config import WeakPreferenceConfig
from trl_weaks.trainer.weak_preference_trainer import WeakPreferenceTrainer


def build(folder, dataset, policy=None, reference="own", args=None, **changes):
    policy = policy or runs.model()
    reference = runs.reference_of(policy) if reference == "own" else reference
    args = args or WeakPreferenceConfig(**runs.settings(folder))
    return WeakPreferenceTrainer(
        policy, reference, args, train_dataset=dataset, processing_class=runs.tokenizer(), **changes
    )


def with_value(column, row, value):
    rows = runs.pairs().to_list()
    rows[row][column] = value
    return Dataset.from_list(rows)


REFUSED_SETTINGS = [
    ({"label_smoothing": 0.5}, r"`label_smoothing`.*\[0, 0.5\); got 0.5"),
    ({"label_smoothing": 0.4999999999}, r"`label_smoothing`.*\[0, 0.5\); got 0.4999999999"),
    ({"label_smoothing": -0.1}, r"`label_smoothing`.*got -0.1"),
    ({"label_smoothing": float("nan")}, "`label_smoothing`"),
    ({"preference_loss": "ipo"}, "`preference_loss` must be one of cdpo, cw, rdpo, sigmoid; got 'ipo'"),
    ({"preference_loss": "sigmoid", "label_smoothing": 0.1}, "no flip probability"),
    ({"preference_loss": "sigmoid", "use_pair_epsilon": True}, "no flip probability"),
    ({"beta": 0.0}, "`beta` must be positive"),
    ({"preference_loss": "rdpo", "loss_type": "ipo"}, r"`loss_type=\['ipo'\]` is not supported.*unset"),
    ({"preference_loss": "cdpo", "loss_weights": [2.0]}, "`loss_weights=.*unset"),
    ({"preference_loss": "cw", "f_divergence_type": "forward_kl"}, "`f_divergence_type='forward_kl'` is not"),
    ({"preference_loss": "sigmoid", "use_weighting": True}, "`use_weighting=True` is not supported"),
    ({"preference_loss": "cdpo", "loss_type": "cw"}, r"`loss_type=\['cw'\]` is not supported.*unset"),
    ({"loss_type": ["cw", "sft"]}, "no loss cw; .*name one of 'cdpo', 'rdpo' and 'cw' by itself"),
    ({"loss_type": "dpop"}, "`loss_type`: no loss dpop; choose among sigmoid, hinge"),
    ({"loss_type": "hinge", "label_smoothing": 0.1}, "`label_smoothing=0.1` is read by none of hinge"),
    ({"loss_type": "robust", "use_pair_epsilon": True}, "`use_pair_epsilon=True` is not supported"),
    ({"loss_type": ["sft", "aot"], "use_pair_weight": True}, "`use_pair_weight=True` is not supported.*sorts"),
    ({"label_smoothing_factor": 0.1}, "`label_smoothing`"),
]


@pytest.mark.parametrize("changes, message", REFUSED_SETTINGS)
def test_settings_that_cannot_be_honoured(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        WeakPreferenceConfig(**runs.settings(tmp_path) | changes)


def test_defaults_are_the_papers(tmp_path):
    config = WeakPreferenceConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.preference_loss, config.beta, config.label_smoothing, config.learning_rate) == (
        "cdpo",
        10.0,
        0.1,
        2e-7,
    )
    plain = WeakPreferenceConfig(str(tmp_path), use_cpu=True, bf16=False, preference_loss="sigmoid")
    assert plain.label_smoothing == 0.0


@pytest.mark.parametrize("name", ["cdpo", "cw", "rdpo"])
def test_our_losses_are_chosen_by_trls_setting_too(name, tmp_path):
    own = WeakPreferenceConfig(str(tmp_path), use_cpu=True, bf16=False, preference_loss=name)
    assert WeakPreferenceConfig(str(tmp_path), use_cpu=True, bf16=False, loss_type=name).to_dict() == own.to_dict()


def test_config_parses_from_a_command_line_and_explains_itself(tmp_path):
    parser = HfArgumentParser(WeakPreferenceConfig)
    line = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False", "--label_smoothing", "0.2"]
    (config,) = parser.parse_args_into_dataclasses([*line, "--use_pair_epsilon", "False"])
    assert config.label_smoothing == 0.2 and config.use_pair_epsilon is False and config.use_pair_weight is None
    text = parser.format_help()
    assert "pure bfloat16" in " ".join(text.split())


REFUSED_DATA = [
    (lambda: with_value("pair_epsilon", 3, 0.5), r"Row 3 .*`pair_epsilon` = 0.5.*swap the pair"),
    (lambda: with_value("pair_epsilon", 3, 0.4999999999), r"Row 3 .*`pair_epsilon` = 0.4999999999.*as float32"),
    (lambda: with_value("pair_weight", 1, 1e39), r"Row 1 .*`pair_weight` = 1e\+39.*as float32"),
    (lambda: with_value("pair_epsilon", 2, None), "Row 2 .*`pair_epsilon` = None"),
    (lambda: with_value("pair_epsilon", 0, float("nan")), "Row 0 .*`pair_epsilon` = nan"),
    (lambda: with_value("pair_weight", 5, -1.0), "Row 5 .*`pair_weight` = -1.0"),
    (lambda: with_value("pair_weight", 1, float("inf")), "Row 1 .*`pair_weight` = inf"),
    (
        lambda: runs.pairs(weight=False).add_column("pair_weight", [0.0] * 8),
        "Every `pair_weight` of the train dataset is 0",
    ),
    (lambda: with_value("chosen", 4, None), "Row 4 .*`chosen` = None"),
    (lambda: with_value("prompt", 1, None), "Row 1 .*`prompt` = None"),
    (lambda: runs.pairs().select([]), "The train dataset is empty"),
    (lambda: runs.pairs().remove_columns("rejected"), "no `rejected` column.*build_preferences"),
    (
        lambda: Dataset.from_list([{"prompt": "wake", "chosen": " me", "rejected": " me"}] * 3),
        "all 3 hold the same tokens twice",
    ),
]


@pytest.mark.parametrize("case", range(len(REFUSED_DATA)))
def test_data_that_cannot_train(case, tmp_path):
    make, message = REFUSED_DATA[case]
    with pytest.raises(ValueError, match=message):
        build(tmp_path, make())


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_weights_of_pairs_that_a_loss_sorts(name, tmp_path):
    args = WeakPreferenceConfig(**runs.settings(tmp_path, loss_type=name))
    with pytest.raises(ValueError, match="`pair_weight` of the train dataset cannot be used: .*use_pair_weight=False"):
        build(tmp_path, runs.pairs(), args=args)
    args = WeakPreferenceConfig(**runs.settings(tmp_path, loss_type=name, use_pair_weight=False))
    build(tmp_path, runs.pairs(), args=args)


STREAMED = [
    ("pair_epsilon", 0.9, "`pair_epsilon` = 0.9.*swap the pair"),
    ("pair_epsilon", 0.5, "`pair_epsilon` = 0.5"),
    ("pair_epsilon", 0.4999999999, "`pair_epsilon` = 0.4999999999.*as float32"),
    ("pair_epsilon", None, "`pair_epsilon` = None"),
    ("pair_weight", float("nan"), "`pair_weight` = nan.*drop the row"),
    ("pair_weight", -1.0, "`pair_weight` = -1.0"),
    ("chosen", None, "`chosen` = None"),
]


@pytest.mark.parametrize("known", [True, False], ids=["columns known", "columns unknown"])
@pytest.mark.parametrize("column, value, message", STREAMED)
def test_a_stream_is_refused_at_the_row(column, value, message, known, tmp_path):
    """Row 6 is met in the second step, long after the trainer was built; evaluation reads it too."""
    rows = [row | {"example_id": f"e{i}"} for i, row in enumerate(runs.pairs().to_list())]
    rows[6][column] = value
    bad = Dataset.from_list(rows).to_iterable_dataset()
    if not known:
        bad = IterableDataset.from_generator(lambda: iter(rows))
    args = WeakPreferenceConfig(**runs.settings(tmp_path, preference_loss="rdpo"))
    with pytest.raises(ValueError, match=rf"Row 6 of the train stream \(`example_id` 'e6'\) has {message}"):
        build(tmp_path, bad, args=args).train()
    trainer = build(tmp_path, runs.pairs(), args=args)
    with pytest.raises(ValueError, match=rf"Row 6 of the eval stream \(`example_id` 'e6'\) has {message}"):
        trainer.evaluate(bad)


def test_an_empty_evaluation_set(tmp_path):
    with pytest.raises(ValueError, match="The eval dataset is empty"):
        build(tmp_path, runs.pairs(), eval_dataset=runs.pairs().select([]))


def test_in_memory_model_without_a_reference(tmp_path):
    with pytest.raises(ValueError, match="built in memory.*ref_model=copy.deepcopy.*peft_config.*precompute"):
        build(tmp_path, runs.pairs(), reference=None)


def test_settings_of_another_trainer_and_a_collator_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a `WeakPreferenceConfig`, got `SFTConfig`"):
        build(tmp_path, runs.pairs(), args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False))
    with pytest.raises(ValueError, match="`data_collator` is not supported"):
        build(tmp_path, runs.pairs(), data_collator=lambda rows: rows)


def test_equal_pairs_are_dropped_and_counted(tmp_path, caplog):
    rows = runs.pairs(6).to_list()
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[4]["chosen"] = rows[4]["rejected"]
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, Dataset.from_list(rows))
    assert "Dropped 2 of 6 pairs of the train dataset" in caplog.text
    assert [row["prompt"] for row in trainer.train_dataset] == [rows[i]["prompt"] for i in (0, 2, 3, 5)]


def test_pairs_that_truncation_makes_equal_are_dropped(tmp_path, caplog):
    same, tail = " jazz in the kitchen" * 4, " anna"
    long = {"prompt": "play some", "chosen": same, "rejected": same + tail, "pair_epsilon": 0.1, "pair_weight": 1.0}
    args = WeakPreferenceConfig(**runs.settings(tmp_path, max_length=12))
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, Dataset.from_list([long, *runs.pairs(3).to_list()]), args=args)
    assert len(trainer.train_dataset) == 3 and "Dropped 1 of 4" in caplog.text


def test_a_learning_rate_that_rounds_away_is_named(tmp_path, caplog):
    def warned(learning_rate, dtype):
        caplog.clear()
        policy = runs.model().to(dtype)
        args = WeakPreferenceConfig(**runs.settings(tmp_path, learning_rate=learning_rate))
        with caplog.at_level(logging.WARNING):
            build(tmp_path, runs.pairs(), policy=policy, args=args)
        return "round back" in caplog.text

    assert warned(2e-7, torch.bfloat16)
    assert not warned(1e-3, torch.bfloat16)
    assert not warned(2e-7, torch.float32)


def test_share_of_weights_moved_by_the_papers_step():
    """The figures in the help: weights ~ N(0, 0.02) in bfloat16; 8e-5 moves most of them, 2e-7 one in four hundred."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 512, bias=False)
    torch.nn.init.normal_(layer.weight, std=0.02)
    layer.to(torch.bfloat16)
    assert share_moved(layer, 2e-7, sample=10**6) == pytest.approx(0.0025, abs=0.001)
    assert share_moved(layer, 8e-5, sample=10**6) == pytest.approx(0.88, abs=0.03)
    assert share_moved(layer.float(), 2e-7) is None


def test_a_model_given_by_its_path_has_no_adapters_to_check():
    check_adapters("some/model", None)


def test_an_alarm_for_imitators_is_refused_before_the_first_update(tmp_path):
    trainer = build(tmp_path, runs.pairs(), callbacks=[ImitationAlarm()])
    with pytest.raises(ValueError, match="`ImitationAlarm` watches students.*`WeakPreferenceTrainer` has none"):
        trainer.train()
    assert trainer.state.global_step == 0
