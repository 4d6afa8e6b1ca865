"""Pushes labels and three students to the Hub at HF_ENDPOINT, loads all again, and prints what it compared as JSON."""

import json
import re
import sys
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard, hf_hub_download
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from trl_weaks import (
    WeakClassificationConfig,
    WeakClassificationTrainer,
    WeakPreferenceConfig,
    WeakPreferenceTrainer,
    WeakSupervisionConfig,
    WeakSupervisionTrainer,
    labels_from_completions,
    push_labels,
)
from trl_weaks.study.models.tiny import build_model, train_tokenizer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "hub.md"
ROOM, TOKEN = Path(sys.argv[1]), sys.argv[2]
WORDS = ("jazz", "some rock", "nine songs", "the radio")
CODE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def settings(kind, name: str, **more):
    shared = dict(max_steps=2, use_cpu=True, bf16=False, report_to="none", learning_rate=1e-3, logging_steps=1)
    where = dict(output_dir=str(ROOM / name), push_to_hub=True, hub_model_id=f"me/{name}", hub_token=TOKEN)
    return kind(**shared, **where, **more)


def same(trained, loaded) -> bool:
    theirs = loaded.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in trained.state_dict().items())


def run_code(repository: str, kind: str = "model") -> int:
    """The blocks of a card run as printed; how many there are."""
    card = Path(hf_hub_download(repository, "README.md", repo_type=kind)).read_text(encoding="utf-8")
    blocks = CODE.findall(card)
    for block in blocks:
        exec(compile(block.replace(', device_map="auto"', ""), f"card of {repository}", "exec"), {})
    return len(blocks)


def labels() -> Dataset:
    examples = [{"example_id": str(i), "prompt": f"play {word}\n"} for i, word in enumerate(WORDS)]
    said = [
        {"example_id": row["example_id"], "supervisor": who, "completion": answer, "confidence": sure}
        for row in examples
        for who, answer, sure in (("ann", " yes", 0.9), ("bob", " yes" if row["example_id"] > "1" else " no", None))
    ]
    return labels_from_completions(examples, said)


def generation(made: Dataset, tokenizer, found: dict) -> None:
    model = build_model("llama", tokenizer, hidden_size=16, layers=1, heads=2, max_length=64, seed=0)
    model.save_pretrained(ROOM / "base")
    tokenizer.save_pretrained(ROOM / "base")
    args = settings(WeakSupervisionConfig, "student", eval_strategy="steps", eval_steps=2, save_steps=1)
    trainer = WeakSupervisionTrainer(str(ROOM / "base"), args, train_dataset=made, eval_dataset=made)
    trainer.train()
    trainer.push_to_hub(license="apache-2.0", dataset_name="me/labels", results={"pgr": (0.43, 0.33, 0.52)})
    found["student"] = same(trainer.model, AutoModelForCausalLM.from_pretrained("me/student"))
    found["token_stays"] = args.hub_token == TOKEN
    again = AutoTokenizer.from_pretrained("me/student")
    found["tokenizer"] = again("play some jazz")["input_ids"] == tokenizer("play some jazz")["input_ids"]
    found["eval_loss"] = trainer.evaluate()["eval_loss"]
    blocks = run_code("me/student")
    more = settings(WeakSupervisionConfig, "grandchild")
    theirs = load_dataset("me/labels", "people", split="train")
    child = WeakSupervisionTrainer("me/student", more, train_dataset=theirs)
    found["reloaded_eval_loss"] = child.evaluate(made)["eval_loss"]
    child.push_to_hub()
    found["no_licence"] = ModelCard.load("me/grandchild").data.license is None
    found["code"] = blocks + run_code("me/labels", "dataset")
    for block in CODE.findall(PAGE.read_text(encoding="utf-8").replace('"me/', '"me/page-')):
        exec(compile(block, PAGE.name, "exec"), {"labels": made, "trainer": child})


def classes(tokenizer, found: dict) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    votes = [{"text": f"play {word}", "weak_probs": [[0.2, 0.8], [0.4, 0.6]]} for word in WORDS]
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=2, **sizes)
    trainer = WeakClassificationTrainer(
        LlamaForSequenceClassification(config),
        settings(WeakClassificationConfig, "classifier"),
        Dataset.from_list(votes),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.push_to_hub(license="mit")
    loaded = AutoModelForSequenceClassification.from_pretrained("me/classifier")
    found["classifier"] = same(trainer.model, loaded)
    found["code"] += run_code("me/classifier")


def preferences(found: dict) -> None:
    pairs = [
        {"prompt": f"play {word}\n", "chosen": " yes", "rejected": " no", "pair_epsilon": 0.1, "pair_weight": 1.0}
        for word in WORDS
    ]
    args = settings(WeakPreferenceConfig, "aligned")
    trainer = WeakPreferenceTrainer("me/student", args=args, train_dataset=Dataset.from_list(pairs))
    trainer.train()
    trainer.push_to_hub(license="apache-2.0")
    found["aligned"] = same(trainer.model, AutoModelForCausalLM.from_pretrained("me/aligned"))


def main() -> None:
    found: dict = {}
    made = labels()
    push_labels(made, "me/labels", config_name="people", license="cc-by-4.0")
    push_labels(made.select([0]), "me/labels", config_name="one", license="cc-by-4.0")
    again = load_dataset("me/labels", "people", split="train")
    found["labels"] = again.column_names == made.column_names and again[:] == made[:]
    found["one"] = load_dataset("me/labels", "one", split="train")[:] == made.select([0])[:]
    tokenizer = train_tokenizer("llama", [f"play {word} yes no" for word in WORDS] * 5, 420)
    generation(made, tokenizer, found)
    classes(tokenizer, found)
    preferences(found)
    print(json.dumps(found))


main()
