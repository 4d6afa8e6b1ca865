"""A classifier's vote is its text's own: alone and beside longer ones, where padding changes a model too."""

import pytest
import torch
from datasets import Dataset
from tiny import any_architecture, classifier
from tiny_tokenizers import byte_level, word_level
from transformers import AutoModelForSequenceClassification

from trl_weaks.fingerprint import digest, supervisor_fingerprint
from trl_weaks.labelling.label_classes import STAGE, label_classes
from trl_weaks.labelling.storage.store import StoredLabels
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble

WORDS = [f"w{i}" for i in range(60)]
TEXTS = ["w1 w2 w3 w4 w5 w6 w7 w8 w9", "w3 w4", "w40 w41 w42 w43", "w5 w6"]
OWN = {"mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16}}
MATTERS = ("convbert", "fnet", "mobilebert", "nystromformer", "yoso")


def judge(kind):
    model = any_architecture(
        kind, noise=0.3, auto=AutoModelForSequenceClassification, num_labels=3, **OWN.get(kind, {})
    )
    return WeakClassifier(model, word_level(WORDS, eos="</s>"), kind)


def by_itself(one, text):
    """Softmax in float64 of one row without any padding."""
    ids = torch.tensor([one.tokenizer.convert_tokens_to_ids(text.split())])
    with torch.no_grad():
        return one.model.eval()(ids, attention_mask=torch.ones_like(ids)).logits[0].double().softmax(-1)


@pytest.mark.parametrize("kind", [*MATTERS, "bert", "roberta", "gpt2", "deberta-v2"])
def test_a_vote_does_not_depend_on_the_texts_beside_it(kind):
    one = judge(kind)
    expected = torch.stack([by_itself(one, text) for text in TEXTS])
    together, states = one.predict_with_states(TEXTS)
    assert torch.allclose(one.predict(TEXTS).probabilities.double(), expected, atol=1e-5)
    assert torch.allclose(together.probabilities.double(), expected, atol=1e-5)
    alone = torch.cat([one.hidden_states([text]) for text in TEXTS])
    assert torch.allclose(states, alone, atol=1e-5) and torch.allclose(one.hidden_states(TEXTS), alone, atol=1e-5)
    assert one.padding_matters == (kind in MATTERS), "texts of one length, and only where need be"


def test_a_model_is_asked_once():
    one, passes = judge("bert"), []
    one.predict(TEXTS)
    with torch.no_grad():
        one.model.bert.embeddings.word_embeddings.weight.mul_(1.0)  # training it further does not ask again
    handle = one.model.register_forward_hook(lambda *_: passes.append(1))
    one.predict(TEXTS)
    handle.remove()
    assert len(passes) == 1 + 2, "a hook might change the answer"
    passes.clear()
    own, one.model.forward = one.model.forward, lambda **given: passes.append(1) or own(**given)
    for _ in range(3):
        one.hidden_states(TEXTS), one.predict_with_states(TEXTS)
    assert len(passes) == 6 + 2


@pytest.mark.parametrize("kind", ["convbert", "bert"])
def test_votes_that_padding_changed_are_made_again_and_no_others(kind, tmp_path):
    one = judge(kind)
    made = label_classes(WeakEnsemble([one]), Dataset.from_dict({"text": TEXTS}), output_dir=tmp_path)
    assert torch.allclose(torch.tensor(made["weak_probs"])[:, 0], one.predict(TEXTS).probabilities)
    earlier = digest(supervisor_fingerprint(one), None, None)
    keys = {record["config"] for record, _ in StoredLabels(tmp_path / "labels").records() if record["stage"] == STAGE}
    assert (keys == {earlier}) == (kind == "bert")


def test_states_are_those_that_the_head_reads_where_the_text_ends_in_the_padding_token():
    tokenizer = byte_level(["hello wake me up"], "</s>")
    tokenizer.pad_token = "</s>"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    one = WeakClassifier(classifier("gpt2", len(tokenizer), noise=0.3, pad_token_id=tokenizer.pad_token_id), tokenizer)
    chats = [[{"role": "user", "content": text}] for text in ("hello", "wake me up, hello")]
    found, states = one.predict_with_states(chats)
    with torch.no_grad():
        again = one.model.score(states).softmax(-1)
    assert torch.allclose(again, found.probabilities, atol=1e-5)
