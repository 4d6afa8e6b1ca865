import copy
import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
from trl_weaks.losses.vocabulary import cpu_kernels
from trl_weaks.trainer.completions.weak_dataset import context_length

LISTS = ("weak_supervisors", "weak_weights", "weak_offsets", "weak_logps")

# Divergence and auxiliary loss at full weight from the first update on, and large enough to be seen.
EVERYTHING = {"weak_loss": "bayesian", "gamma_max": 0.25, "gamma_warmup": 0.0, "kl_coef": 0.01, "kl_anneal": 0.0}
SETTINGS = [
    {"weak_loss": "naive", "gamma_max": 0.0},
    {"weak_loss": "naive", "gamma_max": 0.25, "gamma_warmup": 0.0},
    EVERYTHING,
    EVERYTHING | {"soft_labels": False},
]


def weak_trainer(student, dataset, tokenizer, arguments, loss=None, peft_config=None, eval_dataset=None, **settings):
    return WeakSupervisionTrainer(
        model=student(),
        args=WeakSupervisionConfig(**arguments | settings),
        loss=loss,
        train_dataset=dataset if isinstance(dataset, Dataset) else Dataset.from_list(dataset),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def close(ours, theirs, tolerance=2e-5):
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch, accumulate", [(4, 1), (1, 4)])
@pytest.mark.parametrize("soft_labels, token_trees", [(True, None), (True, False), (False, False)])
def test_one_perfect_supervisor_is_plain_sft(
    student, perfect, gold, tokenizer, arguments, trajectory, batch, accumulate, soft_labels, token_trees
):
    arguments |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
    settings = {"weak_loss": "naive", "gamma_max": 0.0, "soft_labels": soft_labels, "token_trees": token_trees}
    weak = weak_trainer(student, perfect, tokenizer, arguments, **settings)
    plain = SFTTrainer(model=student(), args=SFTConfig(**arguments), train_dataset=gold, processing_class=tokenizer)
    close(trajectory(weak), trajectory(plain))
    for name in ("entropy", "mean_token_accuracy", "num_tokens"):
        ours, theirs = ([log[name] for log in t.state.log_history if name in log] for t in (weak, plain))
        close(ours, theirs, 1e-4)
    if token_trees is False:  # Adam divides by tiny moments, so that trees' rounding shows in single weights
        for ours, theirs in zip(weak.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS)
def test_updates_do_not_depend_on_how_the_batch_is_cut(student, weak_rows, tokenizer, arguments, settings):
    """12, 3 x 4 and 12 x 1, each for three updates. SGD: Adam would make much of the rounding of tiny gradients."""
    arguments |= {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "num_train_epochs": 3}
    ends = []
    for batch in (12, 4, 1):
        cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 12 // batch}
        trainer = weak_trainer(student, weak_rows, tokenizer, arguments | cut, **settings)
        start = parameters(trainer)
        trainer.train()
        assert trainer.state.global_step == 3
        ends.append(parameters(trainer))
    assert max(float((ends[0][name] - start[name]).abs().max()) for name in start) > 1e-2
    for name, value in ends[0].items():
        for other in ends[1:]:
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS[1:3])
def test_compiled_passes_change_nothing(student, weak_rows, tokenizer, arguments, settings, compiler, monkeypatch):
    """Without the setting they run, too."""
    asked, load = [], cpu_kernels.load_kernels
    arguments |= {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
    runs = [
        weak_trainer(student, weak_rows, tokenizer, arguments, **settings, **chosen)
        for chosen in ({"use_cpu_kernels": False}, {})
    ]
    monkeypatch.setattr(cpu_kernels, "load_kernels", lambda: asked.append(1) or load())
    for compiled, trainer in enumerate(runs):
        trainer.train()
        assert bool(asked) == bool(compiled), "the passes that were asked for ran"
    for ours, theirs in zip(*(t.model.parameters() for t in runs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("without", [{"kl_coef": 0.0}, {"gamma_max": 0.0}], ids=["KL", "auxiliary"])
def test_every_term_is_in_the_comparisons(student, weak_rows, tokenizer, arguments, without):
    """The settings above are all at work in the first update, or comparing it would say nothing of them."""
    whole, less = (
        full_batch_gradients(student, weak_rows, tokenizer, arguments, **settings)
        for settings in (EVERYTHING, EVERYTHING | without)
    )
    assert abs(whole[0] - less[0]) > 0.01
    assert max(float((whole[1][name] - less[1][name]).abs().max()) for name in whole[1]) > 1e-3


def full_batch_gradients(student, rows, tokenizer, arguments, **settings):
    """Loss and gradients of one step over the whole dataset."""
    arguments = arguments | {
        "per_device_train_batch_size": 64,
        "max_steps": 1,
        "learning_rate": 1.0,
        "optim": "sgd",
        "max_grad_norm": 0.0,
    }
    trainer = weak_trainer(student, rows, tokenizer, arguments, **settings)
    before = parameters(trainer)
    trainer.train()
    loss = next(log["loss"] for log in trainer.state.log_history if "loss" in log)
    return loss, {name: before[name] - value for name, value in parameters(trainer).items()}


def same_gradients(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    scale = max(float(value.abs().max()) for value in ours[1].values())
    assert scale > 1e-3
    for name in ours[1]:
        torch.testing.assert_close(ours[1][name], theirs[1][name], rtol=0, atol=1e-5 * max(scale, 1.0))


@pytest.mark.parametrize("settings", SETTINGS)
def test_permuting_supervisors_changes_nothing(student, weak_rows, tokenizer, arguments, settings):
    shuffled = copy.deepcopy(weak_rows)[::-1]
    for row in shuffled:
        for column in LISTS:
            row[column] = row[column][::-1]
    same_gradients(
        full_batch_gradients(student, weak_rows, tokenizer, arguments, **settings),
        full_batch_gradients(student, shuffled, tokenizer, arguments, **settings),
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_merging_agreeing_supervisors_is_keeping_them_apart(student, weak_rows, tokenizer, arguments, settings):
    """Two supervisors in one row train as two rows would; the contract forbids the latter, so the check is lifted."""
    apart = []
    for row in weak_rows:
        for i in range(len(row["weak_supervisors"])):
            apart.append(row | {column: [row[column][i]] for column in LISTS})
    with pytest.raises(ValueError, match="repeats the completion of row"):
        weak_trainer(student, apart, tokenizer, arguments)
    for number, row in enumerate(apart):
        row["example_id"] = f"{row['example_id']}-{number}"
        row["weak_weights"] = [1.0]  # every row an example of its own: equal weights, as in the merged rows
    merged = copy.deepcopy(weak_rows)
    same_gradients(
        full_batch_gradients(student, merged, tokenizer, arguments, **settings),
        full_batch_gradients(student, apart, tokenizer, arguments, **settings),
    )


def test_a_resumed_run_ends_bit_identical(student, weak_rows, tokenizer, arguments):
    arguments |= {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3}
    whole = weak_trainer(student, weak_rows, tokenizer, arguments)
    whole.train()
    checkpoint = f"{arguments['output_dir']}/checkpoint-2"
    again = weak_trainer(student, weak_rows, tokenizer, arguments)
    again.train(resume_from_checkpoint=checkpoint)
    assert again.state.global_step == whole.state.global_step > 2
    for name, value in parameters(whole).items():
        assert torch.equal(value, parameters(again)[name]), name


def test_gamma_and_the_other_metrics_are_logged(student, weak_rows, tokenizer, arguments):
    trainer = weak_trainer(student, weak_rows, tokenizer, arguments, gamma_max=0.4, gamma_warmup=0.5)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "weak/gamma" in log]
    steps = trainer.state.max_steps
    close([log["weak/gamma"] for log in logs], [0.4 * min(1.0, 2.0 * i / steps) for i in range(steps)], 1e-6)
    for log in logs:
        assert 0.0 < log["weak/confidence"] < 1.0
        assert 0.0 <= log["weak/agreement"] <= 1.0
        assert {"entropy", "mean_token_accuracy", "num_tokens", "grad_norm"} <= set(log)


def test_confidence_is_the_supervisors_per_word(student, perfect, tokenizer, arguments):
    """A student token alone in its word carries the word's whole log-probability."""
    row = perfect[1]  # "{}" and the end of sequence: one word
    row["weak_logps"] = [[-0.1] * 3]
    trainer = weak_trainer(student, [row], tokenizer, arguments, confidence_split="uniform", weak_loss="naive")
    prepared = trainer.train_dataset[0]
    supervised = [i for i, label in enumerate(prepared["labels"]) if label != -100]
    assert [prepared["weak_unit_ids"][i] for i in supervised] == [0] * len(supervised)
    close([prepared["weak_unit_logps"][i][0] for i in supervised], [-0.3] * len(supervised), 1e-6)


def test_evaluation_on_weak_and_on_gold_rows(student, weak_rows, gold, tokenizer, arguments):
    trainer = weak_trainer(
        student,
        weak_rows,
        tokenizer,
        arguments,
        eval_dataset={"weak": Dataset.from_list(weak_rows), "gold": gold},
        weak_loss="naive",
        gamma_max=0.0,
        per_device_eval_batch_size=8,
    )
    metrics = trainer.evaluate()
    plain = SFTTrainer(
        model=student(),
        args=SFTConfig(**arguments, per_device_eval_batch_size=8),
        train_dataset=gold,
        eval_dataset=gold,
        processing_class=tokenizer,
    )
    assert metrics["eval_gold_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)
    assert metrics["eval_weak_loss"] > 0.0


def test_the_context_is_that_of_the_model_that_is_loaded(student, tmp_path, arguments):
    student(max_position_embeddings=77).save_pretrained(tmp_path / "model" / "inner")
    config = WeakSupervisionConfig(**arguments, model_init_kwargs={"subfolder": "inner", "dtype": "float32"})
    assert context_length(str(tmp_path / "model"), config) == 77


@pytest.mark.parametrize("token_trees", [None, False])
def test_prediction_gives_the_logits_and_the_scores_of_evaluation(
    student, weak_rows, gold, tokenizer, arguments, token_trees
):
    trainer = weak_trainer(student, weak_rows, tokenizer, arguments, token_trees=token_trees)
    for rows in (Dataset.from_list(weak_rows), gold):
        found = trainer.predict(rows)
        assert found.metrics["test_loss"] == pytest.approx(trainer.evaluate(rows)["eval_loss"], rel=1e-6)
        assert found.predictions.shape == (*found.label_ids.shape, len(tokenizer))
        text = rows[0]["prompt"] + rows[0]["completion"] + tokenizer.eos_token
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = trainer.model.eval()(input_ids=ids).logits[0]
        torch.testing.assert_close(torch.tensor(found.predictions[0, : ids.shape[1]]), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"train_sampling_strategy": "group_by_length"},
        {"shuffle_dataset": True},
        {"dataloader_drop_last": True},
        {"packing": True, "max_length": 64},
        {"padding_free": True, "max_length": None},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_predictions_are_rows_in_their_order(student, weak_rows, gold, tokenizer, arguments, settings):
    """Whatever the settings do to batches: a row of logits is that of the row's own text."""
    trainer = weak_trainer(student, weak_rows, tokenizer, arguments, per_device_eval_batch_size=3, **settings)
    for rows in (Dataset.from_list(weak_rows), gold):
        found = trainer.predict(rows).predictions
        assert len(found) == len(rows)
        for row, logits in zip(rows, found, strict=True):
            ids = torch.tensor([tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]])
            with torch.no_grad():
                expected = trainer.model.eval()(input_ids=ids).logits[0]
            torch.testing.assert_close(torch.tensor(logits[: ids.shape[1]]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [{}, {"packing": True, "max_length": 64}, {"token_trees": False}], ids=str)
def test_a_row_of_twice_the_weight_is_two_rows(student, weak_rows, tokenizer, arguments, batch):
    ids = {row["example_id"] for row in weak_rows}
    heavy = min(ids)
    given = [row | {"triage_weight": 1.0 + (row["example_id"] == heavy)} for row in weak_rows]
    twice = [row | {"example_id": row["example_id"] + "/again"} for row in weak_rows if row["example_id"] == heavy]
    losses = []
    for rows in (given, [*weak_rows, *twice], weak_rows):
        settings = {"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 64} | batch
        trainer = weak_trainer(student, rows, tokenizer, arguments, **settings)
        trainer.train()
        losses.append(next(log["loss"] for log in trainer.state.log_history if "loss" in log))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)
    doubtful = Dataset.from_list([row | {"triage_weight": 0.0} for row in weak_rows])
    assert len(trainer.predict(doubtful).predictions) == len(doubtful)
    as_tensors = Dataset.from_list(given).with_format("torch")
    same = weak_trainer(student, as_tensors, tokenizer, arguments, **settings)
    first, second = ([row["weak_row_weights"] for row in one.train_dataset] for one in (same, weak_trainer(
        student, given, tokenizer, arguments, **settings)))  # fmt: skip
    assert first == second
    with pytest.raises(ValueError, match="triage_weight': holds -1"):
        weak_trainer(student, [row | {"triage_weight": -1.0} for row in weak_rows], tokenizer, arguments)


def test_lora_trains_only_the_adapter_and_matches_without_checkpointing(student, weak_rows, tokenizer, arguments):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    losses = []
    for checkpointing in (False, True):
        settings = arguments | {"gradient_checkpointing": checkpointing}
        trainer = weak_trainer(student, weak_rows, tokenizer, settings, peft_config=config)
        before = parameters(trainer)
        trainer.train()
        moved = {name for name, value in parameters(trainer).items() if not torch.equal(value, before[name])}
        assert moved and all("lora_" in name for name in moved)
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    close(losses[0], losses[1])


def test_a_callable_is_a_loss(student, weak_rows, tokenizer, arguments):
    """Cross-entropy written by hand gives what the built-in naive loss gives."""

    def cross_entropy(logits, targets, progress):
        return -(targets * logits.float().log_softmax(-1)).sum(-1)

    same_gradients(
        full_batch_gradients(student, weak_rows, tokenizer, arguments, loss=cross_entropy),
        full_batch_gradients(student, weak_rows, tokenizer, arguments, weak_loss="naive", gamma_max=0.0),
    )


def test_the_saved_model_loads_and_its_card_names_the_supervisors(student, weak_rows, tokenizer, arguments, tmp_path):
    from transformers import AutoModelForCausalLM

    trainer = weak_trainer(student, weak_rows, tokenizer, arguments)
    trainer.train()
    trainer.save_model(arguments["output_dir"])
    trainer.create_model_card(model_name="tiny")
    trainer.create_model_card(model_name="tiny")  # a second save does not repeat the section
    card = open(f"{arguments['output_dir']}/README.md", encoding="utf-8").read()
    assert card.count("## Weak supervision") == 1
    for piece in ("`ann`, `bob`", "8, 12", "EvidentialLoss", "2406.03199", "trl_weaks"):
        assert piece in card, piece
    loaded = AutoModelForCausalLM.from_pretrained(arguments["output_dir"])
    for ours, theirs in zip(loaded.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert json.loads(open(f"{arguments['output_dir']}/config.json").read())["architectures"] == ["LlamaForCausalLM"]
