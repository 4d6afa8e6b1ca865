"""What a script of TRL's passes beside weak rows: metrics, a formatting function, assistants only, names of models."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from classification_runs import end_group
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from shapes import shape

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

GENERATION = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build(tokenizer, arguments, rows, eval_dataset=None, model=None, given=None, **settings):
    return WeakSupervisionTrainer(
        model=model or shape("llama", tokenizer),
        args=WeakSupervisionConfig(**arguments | settings),
        train_dataset=rows if not isinstance(rows, list) else Dataset.from_list(rows),
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        **given or {},
    )


@pytest.mark.parametrize("batch", [{}, {"padding_free": True, "max_length": None}], ids=["rows", "padding-free"])
def test_compute_metrics_sees_logits_and_labels(tokenizer, arguments, weak_rows, batch):
    """Accuracy from the logits it is given is the accuracy that is logged; and evaluation tells which set it was."""

    def accuracy(found):
        tops, labels = found.predictions[..., :-1], found.label_ids[..., 1:]
        return {"right": float((tops == labels)[labels != -100].mean())}

    weak = Dataset.from_list(weak_rows)
    given = {
        "compute_metrics": accuracy,
        "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
    }
    settings = batch | {"eval_strategy": "epoch", "metric_for_best_model": "eval_a_right", "learning_rate": 0.05}
    trainer = build(tokenizer, arguments | settings, weak_rows, {"a": weak, "b": weak.select([0, 1])}, given=given)
    trainer.train()
    found = trainer.evaluate()
    for name in ("a", "b"):
        assert 0.0 < found[f"eval_{name}_right"] == pytest.approx(found[f"eval_{name}_mean_token_accuracy"])
    assert np.isfinite(trainer.state.best_metric)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_formatting_function_writes_the_prompt(tokenizer, arguments, weak_rows, streamed):
    """As if its text had been the prompt of every row; for text and for messages."""

    def formatted(row):
        answer = row["completion"]
        return f"### {row['source']}\n" + (answer if isinstance(answer, str) else answer[0]["content"])

    named = [row | {"source": f"example {row['example_id']}"} for row in weak_rows]
    chats = [row | {"completion": [{"role": "assistant", "content": row["completion"]}]} for row in named]
    chats = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in chats]
    expected = build(tokenizer, arguments, [row | {"prompt": f"### {row['source']}\n"} for row in named]).train_dataset
    for rows in (named, chats):
        dataset = Dataset.from_list(rows)
        dataset = dataset.to_iterable_dataset() if streamed else dataset
        trainer = build(
            tokenizer, arguments, dataset, {"a": dataset}, given={"formatting_func": formatted}, max_steps=2
        )
        trainer.evaluate({"b": dataset})
        for found in (trainer.train_dataset, trainer.eval_dataset["a"]):
            for row, same in zip(found, expected, strict=True):
                for column in ("input_ids", "labels", "weak_unit_ids", "weak_unit_logps"):
                    assert row[column] == same[column]


def test_a_formatting_function_may_write_each_row_of_an_example_in_its_own_way(tokenizer, arguments, weak_rows):
    styled = [row | {"style": f"style {i}"} for i, row in enumerate(weak_rows)]
    given = {"formatting_func": lambda row: f"{row['style']}: {row['prompt']}{row['completion']}"}
    found = build(tokenizer, arguments, Dataset.from_list(styled), given=given).train_dataset
    texts = [f"{row['style']}: {row['prompt']}{row['completion']}{tokenizer.eos_token}" for row in styled]
    assert found["input_ids"][:] == tokenizer(texts)["input_ids"]


def test_a_formatting_function_that_changes_the_completion_is_refused(tokenizer, arguments, weak_rows):
    with pytest.raises(
        ValueError, match="Row 0 .example '0'.: `formatting_func` must return the prompt's text follow"
    ):
        build(tokenizer, arguments, weak_rows, given={"formatting_func": lambda row: row["completion"] + "!"})


def test_assistants_only_where_the_answer_is_the_assistants(tokenizer, arguments, weak_rows, caplog):
    """An earlier answer in the prompt is the assistant's too, and stays untrained."""
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = GENERATION
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows = [
        row
        | {
            "prompt": [*history, {"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in weak_rows
    ]
    only = build(chat, arguments, rows, assistant_only_loss=True).train_dataset
    whole = build(chat, arguments, rows).train_dataset
    for row, full, weak in zip(only, whole, weak_rows, strict=True):
        learned = [label for label in row["labels"] if label != -100]
        assert chat.decode(learned) == weak["completion"] + "<eos>"
        for column in ("input_ids", "weak_unit_ids", "weak_unit_logps"):
            assert row[column] == full[column]


@pytest.mark.parametrize(
    "how, adapter",
    [(how, adapter) for how in ("loaded", "path", "path with a processing class") for adapter in ("none", "config")]
    + [("loaded", "model")],
)
def test_a_model_is_a_path_or_an_object_with_or_without_lora(tokenizer, arguments, weak_rows, tmp_path, how, adapter):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    model = shape("llama", tokenizer)
    if adapter == "model":
        model = get_peft_model(model, lora)
    if how != "loaded":
        model.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        model = str(tmp_path / "student")
    trainer = WeakSupervisionTrainer(
        model=model,
        args=WeakSupervisionConfig(**arguments),
        train_dataset=Dataset.from_list(weak_rows),
        processing_class=None if how == "path" else tokenizer,
        peft_config=lora if adapter == "config" else None,
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = [name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])]
    assert moved and (adapter == "none") != all("lora_" in name for name in moved)


@pytest.mark.distributed
@pytest.mark.parametrize("batch", ["rows", "padding-free"])
def test_two_processes_with_uneven_shards_report_what_one_does(tmp_path, batch):
    """Seven rows in batches of two: the sampler repeats one to fill the second round of two processes."""
    found = {}
    for world in (1, 2):
        done = processes.run([__file__, tmp_path / str(world), batch], world)
        assert done.returncode == 0, done.stderr[-3000:]
        found[world] = json.loads((tmp_path / str(world) / "found.json").read_text())
    for name in ("weak/agreement", "weak/confidence", "entropy", "mean_token_accuracy"):
        for place in ("test_", "eval_a_", "eval_b_", "eval_c_"):
            assert found[2][place + name] == pytest.approx(found[1][place + name], rel=1e-5), place + name
    for name in ("weak/agreement", "weak/confidence"):
        assert 0.0 < found[2][f"test_{name}"] != found[2][f"eval_a_{name}"]
    assert found[1]["world"] == 1 and found[2]["world"] == 2


def main(folder: str, batch: str) -> None:
    import preference_runs

    words = preference_runs.pairs(12).to_list()
    rows = [
        {
            "example_id": str(i),
            "prompt": pair["prompt"],
            "completion": pair["chosen"],
            "weak_supervisors": ["a"],
            "weak_weights": [1.0],
            "weak_offsets": [[[0, len(pair["chosen"])]]],
            "weak_logps": [[-0.1 * i]],
        }
        for i, pair in enumerate(words)
    ]
    weak = Dataset.from_list(rows)
    settings = {"padding_free": True, "max_length": None} if batch == "padding-free" else {}
    args = WeakSupervisionConfig(
        output_dir=folder, use_cpu=True, bf16=False, report_to="none", per_device_eval_batch_size=2, max_steps=4,
        learning_rate=0.05, per_device_train_batch_size=2, confidence_split="uniform", save_strategy="no",
        disable_tqdm=True, **settings,
    )  # fmt: skip
    model, tokenizer = preference_runs.model(), preference_runs.tokenizer()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for row in rows * 4:  # some of it is learned, so that agreement is neither none nor all
        ids = torch.tensor([tokenizer(row["prompt"] + row["completion"])["input_ids"]])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sets = {"a": weak.select(range(7)), "b": weak.select(range(5, 10))}
    trainer = WeakSupervisionTrainer(model, args, train_dataset=weak, eval_dataset=sets, processing_class=tokenizer)
    streams = {"c": weak.select(range(8)).to_iterable_dataset()}
    found = trainer.evaluate(streams)
    found |= trainer.predict(weak.select(range(3, 12))).metrics | trainer.evaluate()
    found["world"] = trainer.accelerator.num_processes
    if trainer.accelerator.is_main_process:
        (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_group()
