"""A pair's score is its own: alone, beside a longer one, and after a longer one. Every shape that we can build."""

import pytest
import torch
from tiny import any_architecture, classifier

from trl_weaks.inference.as_found import inference
from trl_weaks.inference.padding import leading_of_one_length, one_length_only
from trl_weaks.inference.scoring import plain_logps
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.supervisor import WeakSupervisor

FAMILIES = (
    "bloom", "codegen", "cohere", "ctrl", "falcon", "gemma3_text", "glm", "gpt2", "gpt_bigcode", "gpt_neox", "gptj",
    "granite", "jamba", "llama", "mamba", "mistral", "mixtral", "mpt", "olmo2", "opt", "persimmon", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "rwkv", "smollm3", "stablelm", "starcoder2", "trocr", "xglm",
)  # fmt: skip
LONG = tuple(i % 40 + 3 for i in range(90))
PAIRS = [((5, 6, 7, 8, 9), (10, 11, 12)), (LONG, (4, 5, 6, 7)), ((30, 31), (32, 33, 34))]
ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
    "longrope": {
        **{"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4, "rope_theta": 100.0},
        "original_max_position_embeddings": 40,
    },
}


def by_itself(model, pair):
    """Softmax in float64, no padding, and no other row before it."""
    prompt, completion = pair
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0].double().log_softmax(-1)
    return [logps[len(prompt) - 1 + t, token].item() for t, token in enumerate(completion)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_score_does_not_depend_on_the_batch(kind):
    model = any_architecture(kind).eval()
    expected = [by_itself(model, pair) for pair in PAIRS]
    with inference(model):
        together = plain_logps(model, PAIRS, 0, 10**6, bool)
        alone = one_length_only(model)
    for one, other in zip(together, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert alone == (kind in ("jamba", "mamba", "rwkv", "trocr")), "batches of one length, and only where need be"


@pytest.mark.parametrize("rope", ROPES)
def test_positions_that_depend_on_the_longest_row(rope):
    """Issue 19, item 12: up to 0.28 nats; with "dynamic", what was read before counted too."""
    limit = {"max_position_embeddings": 40} if rope == "dynamic" else {}

    def fresh():
        return any_architecture("llama", noise=0.3, rope_parameters=ROPES[rope], **limit).eval()

    pairs = [*PAIRS, (LONG[:60], (1, 2))]
    expected = [by_itself(fresh(), pair) for pair in pairs]
    wrong = [by_itself(model, pair) for model in [fresh()] for pair in sorted(pairs, key=lambda p: -len(p[0]))]
    model = fresh()
    with inference(model):
        assert one_length_only(model) and leading_of_one_length(model, [9, 9, 8]) == 2
        for order in (pairs, pairs[::-1], pairs[1:] + pairs[:1]):
            found = dict(zip(order, plain_logps(model, order, 0, 10**6, bool), strict=True))
            for pair, value in zip(pairs, expected, strict=True):
                assert found[pair] == pytest.approx(value, abs=1e-4)
    if rope == "dynamic":
        by_length = [value for _, value in sorted(zip(pairs, expected, strict=True), key=lambda p: -len(p[0][0]))]
        assert any(a != pytest.approx(b, abs=1e-3) for a, b in zip(wrong, by_length, strict=True)), "history matters"


@pytest.mark.parametrize("rope", ROPES)
def test_supervisors_and_classifiers_of_such_models(tiny, rope):
    """Beams, draws, scores and votes, one by one and together, short ones after long ones."""
    tokenizer = tiny.tokenizer("llama")
    model = tiny.model("llama", len(tokenizer), seed=2, rope_parameters=ROPES[rope])
    one = WeakSupervisor(model, tokenizer, "s")
    prompts = ["USER: jazz ASSISTANT:", "USER: " + "wake me up at nine " * 5 + "ASSISTANT:", "USER: five ASSISTANT:"]
    answers = [" nine", " jazz", " five pm"]
    assert len(one.encode(prompts, prompts)[1].ids) > 40 > len(one.encode(prompts, prompts)[0].ids) + 9
    together, beams = one.score(prompts, answers), one.generate(prompts, 2, 5)
    for i in (1, 0, 2):
        (alone,), (found,) = one.score(prompts[i : i + 1], answers[i : i + 1]), one.generate(prompts[i : i + 1], 2, 5)
        assert alone.logps == pytest.approx(together[i].logps, abs=1e-4)
        assert [c.token_ids for c in found] == [c.token_ids for c in beams[i]]
    sizes = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "positions": 256}
    own = {"pad_token_id": tokenizer.pad_token_id, "rope_parameters": ROPES[rope]}
    judge = WeakClassifier(classifier("llama", len(tokenizer), 3, seed=1, **sizes, **own).eval(), tokenizer, "c")
    votes = judge.predict(prompts).probabilities
    for i in (1, 0, 2):
        assert torch.allclose(judge.predict(prompts[i : i + 1]).probabilities[0], votes[i], atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "data2vec-text"])
def test_models_whose_positions_begin_elsewhere_are_refused(kind, tiny):
    """They begin behind the padding's id; told to begin at 0, as generation does, they are off by up to nats."""
    tokenizer = tiny.tokenizer("gpt2")
    model = any_architecture(kind, vocab_size=len(tokenizer), is_decoder=True, pad_token_id=1).eval()
    one = WeakSupervisor(model, tokenizer, "s")
    for asked in (lambda: one.score(["USER: jazz"], [" nine"]), lambda: one.generate(["USER: jazz"], 2, 3)):
        with pytest.raises(ValueError, match=f"\\({kind}\\) begins its positions elsewhere than at 0"):
            asked()
