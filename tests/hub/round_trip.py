"""Pushes labels, students and studies to the Hub at HF_ENDPOINT, loads all again, prints what it compared as JSON."""

import json
import re
import sys
from pathlib import Path

import torch
from datasets import Dataset, load_dataset, load_from_disk
from huggingface_hub import ModelCard, hf_hub_download
from tiny import classifier
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
from trl_weaks.study import ClassificationTask, CompletionTask, Example, Splits, run_study
from trl_weaks.study.models.tiny import build_model, train_tokenizer
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.supervisor import WeakSupervisor

CLASSIFIER = AutoModelForSequenceClassification
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
    votes = [{"text": f"play {word}", "weak_probs": [[0.2, 0.8], [0.4, 0.6]]} for word in WORDS]
    trainer = WeakClassificationTrainer(
        classifier("llama", len(tokenizer), inner=16, pad_token_id=tokenizer.pad_token_id),
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


class Parity(ClassificationTask):
    name, classes = "parity", ("even", "odd")

    def splits(self, seed):
        made = [Example(str(n), f"Is {n} odd?", self.classes[n % 2]) for n in range(60)]
        return Splits(made[:20], made[20:35], made[35:40], made[40:])


class Sums(CompletionTask):
    name = "sums"

    def splits(self, seed):
        made = [Example(f"{a}-{b}", f"{a} + {b}", a + b) for a in range(7) for b in range(7)]
        return Splits(made[:20], made[20:32], made[32:36], made[36:])

    def prompt(self, example):
        return f"{example.text} =\n"

    def completion(self, example):
        return str(example.target)

    def score(self, completion, example):
        return {"exact_match": float(completion.strip() == str(example.target))}


def studies(found: dict) -> None:
    """A study of classes pushed twice, once of its two seeds; and one of completions whose student is an adapter."""
    size = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 64}
    training = {"per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 5e-3}
    shared = {"tiny_models": dict.fromkeys(("gpt2", "opt", "llama"), size), "weak_models": ["tiny:gpt2", "tiny:opt"]}
    shared |= {"student_model": "tiny:llama", "weak_training": training, "student_training": training, "workers": 1}
    shared |= {"preset": None, "methods": ["naive"], "hub_license": "apache-2.0"}
    for prefix, more in (
        ("me/parity", {"seeds": [0]}),
        ("me/parity", {"seeds": [0]}),
        ("our-lab/two", {"seeds": [0, 1]}),
    ):
        study = run_study(Parity(), output_dir=str(ROOM / "parity"), push_to_hub=prefix, **shared, **more)
    model, tokenizer = (kind.from_pretrained("our-lab/two-naive-seed1") for kind in (CLASSIFIER, AutoTokenizer))
    test = Parity().splits(1).test
    said = WeakClassifier(model, tokenizer).predict([example.text for example in test]).probabilities.argmax(-1)
    gold = torch.tensor([Parity.classes.index(example.target) for example in test])
    found["accuracy"] = (said == gold).double().mean().item()
    found["parity"] = study["naive"]
    labels = load_dataset("our-lab/two-labels", "seed1-independent", split="train")
    found["study_labels"] = labels[:] == load_from_disk(str(ROOM / "parity" / "seed-1" / "labels" / "dataset"))[:]
    more = {"num_candidates": 2, "max_new_tokens": 4, "use_peft": True, "lora": {"r": 2}, "hub_private_repo": True}
    more["student_model"] = str(ROOM / "base")
    run_study(Sums(), output_dir=str(ROOM / "sums"), push_to_hub="me/sums", **shared | more)
    lines = (ROOM / "sums" / "seed-0" / "predictions" / "naive" / "predictions.jsonl").read_text().splitlines()
    model, tokenizer = (kind.from_pretrained("me/sums-naive") for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompts = [Sums().prompt(example) for example in Sums().splits(0).test]
    answers = WeakSupervisor(model, tokenizer, "again").answer(prompts, num_candidates=3, max_new_tokens=4)
    found["answers"] = [answer[0][0] for answer in answers] == [json.loads(line)["completion"] for line in lines]
    found["code"] += (
        run_code("our-lab/two-naive-seed1") + run_code("me/sums-naive") + run_code("me/sums-labels", "dataset")
    )
    refused: dict = {}
    for name, how in (("somebody/else", {}), ("me/parity", {"hub_private_repo": True})):
        try:
            run_study(Parity(), output_dir=str(ROOM / "parity"), push_to_hub=name, **shared, **how)
        except ValueError as error:
            refused[name] = str(error)
    found["refused"] = refused


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
    studies(found)
    print(json.dumps(found))


main()
