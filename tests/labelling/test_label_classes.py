"""Votes of several classifiers: right, calibrated, cached, resumable, refused where they cannot be."""

import copy
import errno
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from scipy.optimize import minimize_scalar
from tiny import classifier
from tiny_tokenizers import word_level

from trl_weaks import columns, labels_from_votes, supervisor_report
from trl_weaks.aggregation.calibration import fit_isotonic, fit_temperature
from trl_weaks.labelling import label_classes as module
from trl_weaks.labelling.label_classes import label_classes
from trl_weaks.labelling.storage.store import LabelStoreError
from trl_weaks.supervisors.class_predictions import ClassPredictions
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble

WORDS = "wake me up at seven play some jazz turn the lights on off".split()


@pytest.fixture(scope="module")
def tokenizer():
    return word_level(WORDS)


def model(seed: int, num_labels: int = 3, kind: str = "llama", **extra):
    return classifier(kind, len(WORDS) + 2, num_labels, seed=seed, scale=8, positions=12, pad_token_id=0, **extra)


@pytest.fixture
def ensemble(tokenizer):
    members = [WeakClassifier(model(i, kind=kind), tokenizer, f"weak{i}") for i, kind in enumerate(("llama", "gpt2"))]
    return WeakEnsemble(members, weights=[1, 3])


def rows(n: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (n,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (k,), generator=generator)) for k in lengths]


def by_hand(classifier: WeakClassifier, text: str) -> torch.Tensor:
    ids = torch.tensor([[classifier.tokenizer.convert_tokens_to_ids(w) for w in text.split()]])
    with torch.no_grad():
        return classifier.model.eval()(ids).logits[0].softmax(-1)


def test_votes_are_each_models_softmax_of_each_text(ensemble):
    dataset = Dataset.from_dict({"text": rows(20), "kept": list(range(20))})
    labelled = label_classes(ensemble, dataset)
    assert labelled["kept"] == list(range(20)) and labelled["weak_weights"][0] == [0.25, 0.75]
    assert labelled["weak_supervisors"][3] == ["weak0", "weak1"]
    for row in labelled:
        expected = torch.stack([by_hand(s, row["text"]) for s in ensemble.supervisors])
        torch.testing.assert_close(torch.tensor(row["weak_probs"]), expected, rtol=1e-4, atol=1e-5)


def test_votes_of_others_on_the_same_texts_are_gone(ensemble):
    """People's votes that were carried along were what the report spoke of, not the models that labelled."""
    texts = [{"example_id": str(i), "text": text} for i, text in enumerate(rows(6))]
    plain = label_classes(ensemble, Dataset.from_list(texts))
    votes = [{"example_id": str(i), "supervisor": who, "label": i % 3} for i in range(6) for who in ("ann", "bob")]
    people = labels_from_votes(texts, votes, classes=["a", "b", "c"])
    made = label_classes(ensemble, people)
    assert made.to_list() == plain.to_list()
    gold = {str(i): i % 3 for i in range(6)}
    assert supervisor_report(made, gold).supervisors == supervisor_report(plain, gold).supervisors
    stale = Dataset.from_list([row | dict.fromkeys(columns.WEAK, "old") for row in texts])
    assert label_classes(ensemble, stale).to_list() == plain.to_list()


def test_an_evidential_supervisor_votes_with_its_dirichlet_mean(tokenizer):
    evidential = WeakClassifier(model(4, weak_evidence="softplus"), tokenizer, "e")
    found = evidential.predict(["play some jazz"])
    with torch.no_grad():
        alpha = torch.nn.functional.softplus(evidential.model(torch.tensor([[7, 8, 9]])).logits[0]) + 1
    torch.testing.assert_close(found.probabilities[0], alpha / alpha.sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.vacuity[0], 3 / alpha.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("evidence", ["exp", "softplus"])
def test_predictions_by_prior(evidence):
    logits = torch.tensor([[1.0, -2.0, 0.5], [-900.0, -901.0, -905.0]])
    usual = ClassPredictions.from_logits(logits, evidence)
    alpha = (logits.exp() if evidence == "exp" else torch.nn.functional.softplus(logits)) + 1
    torch.testing.assert_close(usual.strength, alpha.sum(-1))
    torch.testing.assert_close(usual.vacuity, 3 / alpha.sum(-1))
    bare = ClassPredictions.from_logits(logits, evidence, prior=0.0)
    torch.testing.assert_close(bare.strength, alpha.sum(-1) - 3, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bare.vacuity, usual.vacuity)
    torch.testing.assert_close(bare.probabilities[0], (alpha[0] - 1) / (alpha[0] - 1).sum())
    assert bare.probabilities.isfinite().all() and torch.allclose(bare.probabilities.sum(-1), torch.ones(2))


class Counting(WeakClassifier):
    """Says what it was asked, and fails after `limit` texts."""

    def __init__(self, *args, limit: int = 10**9):
        super().__init__(*args)
        self.asked, self.limit = [], limit

    def predict(self, texts, *rest):
        if len(self.asked) + len(texts) > self.limit:
            raise KeyboardInterrupt
        self.asked += texts
        return super().predict(texts, *rest)


def test_a_killed_run_continues_and_a_second_costs_nothing(tokenizer, tmp_path):
    dataset = Dataset.from_dict({"text": [*rows(10), rows(10)[0]]})  # one text twice

    def attempt(limit=10**9, seeds=(0, 1)):
        members = [Counting(model(s), tokenizer, f"weak{i}", limit=limit) for i, s in enumerate(seeds)]
        try:
            return members, label_classes(WeakEnsemble(members), dataset, output_dir=tmp_path, batch_size=3)
        except KeyboardInterrupt:
            return members, None

    distinct = len(set(dataset["text"]))
    first, none = attempt(limit=6)
    assert none is None and len(first[0].asked) == 6
    second, labelled = attempt()
    assert [len(s.asked) for s in second] == [distinct - 6, distinct]
    assert not set(first[0].asked) & set(second[0].asked)
    third, again = attempt()
    assert [s.asked for s in third] == [[], []]
    assert again["weak_probs"] == labelled["weak_probs"] and again["weak_probs"][-1] == again["weak_probs"][0]
    changed, _ = attempt(seeds=(0, 7))  # other weights: only that supervisor's votes are made anew
    assert [len(s.asked) for s in changed] == [0, distinct]
    fresh = label_classes(
        WeakEnsemble([WeakClassifier(model(s), tokenizer, f"weak{i}") for i, s in enumerate((0, 1))]), dataset
    )
    torch.testing.assert_close(torch.tensor(fresh["weak_probs"]), torch.tensor(labelled["weak_probs"]))


def test_calibration_on_held_out_gold(ensemble, tmp_path):
    held_out = Dataset.from_dict({"text": rows(60, seed=5), "label": torch.randint(3, (60,)).tolist()})
    dataset = Dataset.from_dict({"text": [t for t in rows(20) if t not in set(held_out["text"])]})
    plain = torch.tensor(label_classes(ensemble, dataset)["weak_probs"])
    labelled = torch.tensor(label_classes(ensemble, dataset, calibration=held_out, output_dir=tmp_path)["weak_probs"])
    temperatures = json.loads((tmp_path / "temperatures.json").read_text())
    for i, name in enumerate(ensemble.names):
        expected = (plain[:, i].log() / temperatures[name]).softmax(-1)
        torch.testing.assert_close(labelled[:, i], expected, rtol=1e-4, atol=1e-5)
        assert temperatures[name] > 1.5  # random labels: these sharp models are far too sure


def test_isotonic_calibration_on_held_out_gold(ensemble, tmp_path):
    """Each class against the rest, neighbours that fall pooled step by step; then normalised."""
    held_out = Dataset.from_dict({"text": rows(60, seed=5), "label": torch.randint(3, (60,)).tolist()})
    dataset = Dataset.from_dict({"text": [t for t in rows(20) if t not in set(held_out["text"])]})
    label_classes(ensemble, dataset, calibration=held_out, output_dir=tmp_path)
    labelled = label_classes(ensemble, dataset, held_out, tmp_path, calibration_method="isotonic")
    assert not (tmp_path / "temperatures.json").exists()
    known, asked = (torch.tensor(label_classes(ensemble, d)["weak_probs"]) for d in (held_out, dataset))
    for i in range(len(ensemble.supervisors)):
        columns = [_pooled(known[:, i, k].tolist(), [y == k for y in held_out["label"]]) for k in range(3)]
        raw = np.stack([np.interp(asked[:, i, k].numpy(), *column) for k, column in enumerate(columns)], -1)
        found = np.array(labelled["weak_probs"][:])[:, i]
        np.testing.assert_allclose(found, raw / raw.sum(-1, keepdims=True), atol=1e-6)
    with pytest.raises(ValueError, match="calibration_method='platt' is not one of"):
        label_classes(ensemble, dataset, held_out, calibration_method="platt")


def _pooled(stated: list[float], right: list[bool]) -> tuple[list[float], list[float]]:
    """Pool adjacent violators, step by step."""
    known = sorted(set(stated))
    blocks = []
    for value in known:
        hits = [r for s, r in zip(stated, right, strict=True) if s == value]
        blocks.append([sum(hits), len(hits), 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    floor = 1 / (len(stated) + 2)
    values = [min(max(right / count, floor), 1 - floor) for right, count, width in blocks for _ in range(width)]
    return known, values


@pytest.mark.parametrize("classes", [2, 5])
def test_temperature_by_scipy(classes):
    torch.manual_seed(classes)
    logits = 3 * torch.randn(400, classes, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=logits / 2.5).sample()
    probabilities = logits.softmax(-1)

    def nll(log_inverse: float) -> float:
        scaled = (probabilities.log() * torch.tensor(log_inverse).exp()).log_softmax(-1)
        return float(torch.nn.functional.nll_loss(scaled, labels))

    expected = 1 / torch.tensor(minimize_scalar(nll, bounds=(-4, 4), method="bounded").x).exp()
    assert fit_temperature(probabilities, labels) == pytest.approx(float(expected), rel=1e-3)
    assert fit_temperature(probabilities, labels) == pytest.approx(2.5, rel=0.25)


def test_temperature_at_its_ends():
    sure = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(sure, [0, 1]) == 0.01 and fit_temperature(sure, [1, 0]) == 100.0
    with pytest.raises(ValueError, match="3 labels"):
        fit_temperature(sure, [0, 1, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        fit_temperature(sure, [0, 2])
    assert fit_temperature(torch.full((3, 2), 0.5), [0, 1, 1]) == 1.0  # any would do; 0.01 sharpened all other rows
    for fit in (fit_temperature, fit_isotonic):
        with pytest.raises(ValueError, match="row 1: .*nan"):
            fit(torch.tensor([[0.5, 0.5], [float("nan"), 0.5]]), [0, 1])


def test_bad_input_is_refused_before_any_work(ensemble, tokenizer):
    good = Dataset.from_dict({"text": rows(4)})
    three, two = ensemble.supervisors[0], WeakClassifier(model(0, num_labels=2), tokenizer, "two")
    with pytest.raises(ValueError, match="differ in their number of classes"):
        label_classes(WeakEnsemble([three, two]), good)
    with pytest.raises(ValueError, match="needs a column 'text' or 'prompt'"):
        label_classes(ensemble, Dataset.from_dict({"body": ["a"]}))
    with pytest.raises(ValueError, match="row 1, column 'text' is empty"):
        label_classes(ensemble, Dataset.from_dict({"text": ["a", ""]}))
    with pytest.raises(ValueError, match="gold in a column 'label'"):
        label_classes(ensemble, good, calibration=good)
    leak = Dataset.from_dict({"text": ["wake me", good["text"][2]], "label": [0, 1]})
    with pytest.raises(ValueError, match="row 1, is also to be labelled"):
        label_classes(ensemble, good, calibration=leak)
    with pytest.raises(ValueError, match="row 0: label 3 is not from 0 to 2"):
        label_classes(ensemble, good, calibration=Dataset.from_dict({"text": ["wake me"], "label": [3]}))
    long = " ".join(["up"] * 13)
    with pytest.raises(ValueError, match=r"text 'up.*13 tokens.*reads 12"):
        label_classes(ensemble, Dataset.from_dict({"text": [long]}))
    chat = Dataset.from_list([{"prompt": [{"role": "system", "content": "play"}]}])
    with pytest.raises(
        ValueError, match="text .*play.*: messages, but the tokenizer of supervisor 'weak0' has no chat"
    ):
        label_classes(ensemble, chat)
    tokenizer = copy.deepcopy(ensemble.supervisors[0].tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system role, please') }}"
    refusing = WeakEnsemble([WeakClassifier(ensemble.supervisors[0].model, tokenizer, "w")])
    with pytest.raises(ValueError, match="template of supervisor 'w' refuses these messages: no system role, please"):
        label_classes(refusing, chat)
    assert WeakClassifier(model(0), tokenizer, max_length=5).predict([long]).probabilities.shape == (1, 3)
    unpadded = model(0)
    unpadded.config.pad_token_id = None
    with pytest.raises(ValueError, match="pads with 0, its config says None"):
        WeakClassifier(unpadded, tokenizer)
    with pytest.raises(ValueError, match="1 label"):
        WeakClassifier(model(0, num_labels=1), tokenizer)
    broken = model(0)
    torch.nn.init.constant_(broken.score.weight, float("nan"))
    with pytest.raises(ValueError, match="text 0.*not finite"):
        WeakClassifier(broken, tokenizer).predict(["up"])

    class Other:
        name = "writer"

    with pytest.raises(ValueError, match="does not classify"):
        label_classes(WeakEnsemble([Other()]), good)


def test_a_disk_too_full_for_the_temperatures_is_reported_as_such(ensemble, tmp_path, monkeypatch):
    real = Path.write_text

    def full(self, *arguments, **options):
        if self.name == "temperatures.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LabelStoreError, match="votes cannot be written to .*No space left on device. Everything"):
        label_classes(ensemble, Dataset.from_dict({"text": rows(3)}), output_dir=tmp_path)
    monkeypatch.undo()
    assert len(label_classes(ensemble, Dataset.from_dict({"text": rows(3)}), output_dir=tmp_path)) == 3


def test_several_processes_need_a_folder(ensemble, monkeypatch):
    state = SimpleNamespace(num_processes=2, process_index=1, is_main_process=False)
    monkeypatch.setattr(module, "processes", lambda: state)
    with pytest.raises(ValueError, match="several processes share their work .* give label_classes an output_dir"):
        label_classes(ensemble, Dataset.from_dict({"text": ["play"]}))


def named(seed: int, names: list[str], tokenizer, name: str, **extra) -> WeakClassifier:
    extra |= {"id2label": dict(enumerate(names)), "label2id": {n: k for k, n in enumerate(names)}}
    return WeakClassifier(model(seed, len(names), **extra), tokenizer, name)


def test_classes_in_another_order_are_joined_by_name(tokenizer):
    """The same model with its outputs swapped says the same."""
    one = named(3, ["no", "yes"], tokenizer, "a")
    other = named(3, ["YES", " no "], tokenizer, "b")
    with torch.no_grad():
        other.model.score.weight.copy_(one.model.score.weight.flip(0))
    votes = label_classes(WeakEnsemble([one, other]), Dataset.from_dict({"text": rows(6)}))
    for row in votes:
        assert row["weak_classes"] == ["no", "yes"]
        assert row["weak_probs"][0] == pytest.approx(row["weak_probs"][1], abs=1e-6)
        assert row["weak_probs"][0] == pytest.approx(by_hand(one, row["text"]).tolist(), abs=1e-5)


def test_the_datasets_own_order_wins_and_label_n_is_left_alone(tokenizer):
    one, plain = named(3, ["no", "yes"], tokenizer, "a"), WeakClassifier(model(3, 2), tokenizer, "b")
    dataset = Dataset.from_dict({"text": rows(4), "label": [0, 1, 0, 1]}).cast_column(
        "label", datasets.ClassLabel(names=["yes", "no"])
    )
    for row in label_classes(WeakEnsemble([one, plain]), dataset):
        assert row["weak_classes"] == ["yes", "no"]
        assert row["weak_probs"][0] == pytest.approx(row["weak_probs"][1][::-1], abs=1e-6)


def test_gold_of_the_calibration_set_is_joined_by_name(tokenizer):
    one = named(3, ["no", "yes"], tokenizer, "a")
    texts, held_out = rows(4), rows(20, seed=9)
    gold = [int(by_hand(one, text).argmax()) for text in held_out]
    ids = Dataset.from_dict({"text": held_out, "label": gold})
    swapped = ids.map(lambda row: {"label": 1 - row["label"]}).cast_column(
        "label", datasets.ClassLabel(names=["yes", "no"])
    )
    words = ids.map(
        lambda row: {"label": ["no", "yes"][row["label"]]},
        features=datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("string")}),
    )
    expected = label_classes(WeakEnsemble([one]), Dataset.from_dict({"text": texts}), ids)["weak_probs"][:]
    for calibration in (swapped, words):
        assert (
            label_classes(WeakEnsemble([one]), Dataset.from_dict({"text": texts}), calibration)["weak_probs"][:]
            == expected
        )


@pytest.mark.parametrize(
    "names, message",
    [
        (["no", "maybe"], r"only the first: \['yes'\], only the second: \['maybe'\]|only the first: \['maybe'\]"),
        (["no", "NO "], "names the class 'no' twice"),
    ],
)
def test_conflicting_names_are_refused(tokenizer, names, message):
    members = [named(3, ["no", "yes"], tokenizer, "a"), named(4, names, tokenizer, "b")]
    with pytest.raises(ValueError, match=message):
        label_classes(WeakEnsemble(members), Dataset.from_dict({"text": rows(2)}))


def test_gold_names_that_no_class_has_are_refused(tokenizer):
    calibration = Dataset.from_dict({"text": rows(2, seed=9), "label": ["no", "perhaps"]})
    with pytest.raises(ValueError, match="calibration set, row 1: label 'perhaps' is none of the classes"):
        label_classes(
            WeakEnsemble([named(3, ["no", "yes"], tokenizer, "a")]), Dataset.from_dict({"text": rows(2)}), calibration
        )


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_models_of_another_problem_are_refused(tokenizer, problem):
    with pytest.raises(ValueError, match=f"problem_type='{problem}'"):
        WeakClassifier(model(0, problem_type=problem), tokenizer, "m")


def test_class_names_of_later_are_followed(tiny):
    """They were read when a classifier was made, and votes were pooled in the old order under the new key."""
    tokenizer = tiny.tokenizer("gpt2")
    built = [classifier("gpt2", len(tokenizer), pad_token_id=tokenizer.pad_token_id, seed=seed) for seed in range(2)]
    members = [WeakClassifier(model.eval(), tokenizer, f"c{seed}") for seed, model in enumerate(built)]
    rows = Dataset.from_dict({"text": ["wake me", "play some jazz"]})
    raw = [model.predict(rows["text"][:]).probabilities for model in members]
    members[0].model.config.id2label = {0: "no", 1: "yes"}
    members[1].model.config.id2label = {0: "yes", 1: "no"}
    made = label_classes(WeakEnsemble(members), rows)
    assert made["weak_classes"][0] == ["no", "yes"]
    expected = torch.stack([raw[0], raw[1].flip(-1)], 1)
    assert torch.allclose(torch.tensor(made["weak_probs"][:]), expected, atol=1e-6)
    members[1].model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="problem_type='multi_label_classification'"):
        members[1].predict(rows["text"][:])


@pytest.mark.parametrize("written", [[" No", "YES", "no"], ClassLabel(names=["YES", "no "])])
def test_gold_of_the_calibration_is_compared_as_names_are(tiny, written):
    """Without regard to case and white space, as everywhere; a row without gold (-1) is named."""
    tokenizer = tiny.tokenizer("gpt2")
    names = {"pad_token_id": tokenizer.pad_token_id, "id2label": {0: "no", 1: "yes"}}
    member = WeakClassifier(classifier("gpt2", len(tokenizer), **names).eval(), tokenizer, "c")
    texts, rows = ["a", "b", "c"], Dataset.from_dict({"text": ["wake me"]})
    plain = Dataset.from_dict({"text": texts, "label": [0, 1, 0]})
    gold = Dataset.from_dict({"text": texts, "label": written if isinstance(written, list) else [1, 0, 1]})
    if isinstance(written, ClassLabel):
        gold = gold.cast_column("label", written)
        without = gold.map(lambda row, i: {"label": -1 if i == 1 else 0}, with_indices=True)
        with pytest.raises(ValueError, match="row 1: label -1 is not"):
            label_classes(WeakEnsemble([member]), rows, without)
    expected = label_classes(WeakEnsemble([member]), rows, plain)["weak_probs"][:]
    assert label_classes(WeakEnsemble([member]), rows, gold)["weak_probs"][:] == expected
