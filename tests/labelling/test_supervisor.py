"""Beams against `model.generate` and log-probabilities against one unpadded forward pass, for every shape."""

import pytest
import torch

from trl_weaks.inference.sampling import Sampling
from trl_weaks.supervisors.supervisor import WeakSupervisor

SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2")
PROMPTS = [
    "USER: turn on the light ASSISTANT:",
    "USER: wake me up at nine tomorrow in the kitchen, 你好 🙂 ASSISTANT:",
    "USER: jazz ASSISTANT:",
]


@pytest.mark.parametrize("shape", SHAPES)
def test_beams_are_those_of_generate(build, reference_logps, shape):
    supervisor = build(shape)
    eos = supervisor.tokenizer.eos_token_id
    found = supervisor.generate(PROMPTS, num_candidates=4, max_new_tokens=6)
    for prompt, candidates in zip(PROMPTS, found, strict=True):
        inputs = supervisor.tokenizer(prompt, return_tensors="pt").to("cpu")
        beams = supervisor.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=supervisor.tokenizer.pad_token_id,
            output_scores=True,
            return_dict_in_generate=True,
        )
        new = beams.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        assert [c.token_ids for c in candidates] == [b[: b.index(eos) + 1] if eos in b else b for b in new]
        means = [sum(c.logps) / len(c.logps) for c in candidates]
        assert means == pytest.approx(beams.sequences_scores.tolist(), abs=1e-5)
        for candidate in candidates:
            expected = reference_logps(supervisor, inputs["input_ids"][0].tolist(), candidate.token_ids)
            assert candidate.logps == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_those_of_a_plain_forward(build, reference_logps, shape):
    supervisor = build(shape, seed=1)
    completions = ['{"date": "tomorrow"}', " é🙂", ""]
    for prompt, completion, read in zip(PROMPTS, completions, supervisor.score(PROMPTS, completions), strict=True):
        tok = supervisor.tokenizer
        prompt_ids = tok(prompt)["input_ids"]
        whole = tok(prompt + completion + tok.eos_token)["input_ids"]
        assert whole == prompt_ids + read.token_ids
        assert read.logps == pytest.approx(reference_logps(supervisor, prompt_ids, read.token_ids), abs=1e-4)
        assert read.offsets[-1] == (len(completion), len(completion))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("head", ["", "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; "])
def test_one_by_one_equals_sixteen_together(build, shape, head):
    """Of sixteen prompts of unlike length, a few alone; with something in common to all, and without."""
    supervisor = build(shape)
    prompts = [f"{head}{i * i} {'play jazz ' * (i % 5)}ASSISTANT:" for i in range(16)]
    completions = ['{"date": "tomorrow"}', " é🙂", "", "five pm"] * 4
    together, read = supervisor.generate(prompts, 3, 5), supervisor.score(prompts, completions)
    for i in (0, 4, 9, 15):
        for alone, batched in zip(supervisor.generate(prompts[i : i + 1], 3, 5)[0], together[i], strict=True):
            assert alone.token_ids == batched.token_ids
            assert alone.logps == pytest.approx(batched.logps, abs=1e-4)
        (alone,) = supervisor.score(prompts[i : i + 1], completions[i : i + 1])
        assert alone.token_ids == read[i].token_ids and alone.logps == pytest.approx(read[i].logps, abs=1e-4)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2"])
def test_answers_are_the_candidates_texts(build, shape):
    supervisor = build(shape)
    expected = [[(c.text, c.finished) for c in row] for row in supervisor.generate(PROMPTS, 3, 5)]
    assert supervisor.answer(PROMPTS, 3, 5) == expected and supervisor.answer([]) == []


def test_model_keeps_its_mode(build):
    supervisor = build("gpt2")
    supervisor.model.train()
    first = supervisor.generate(PROMPTS[:1], 2, 4)
    assert supervisor.model.training
    assert first == supervisor.generate(PROMPTS[:1], 2, 4), "dropout must be off while labelling"


def test_bfloat16_is_read_in_float32(build, reference_logps):
    """The log-sum-exp of bfloat16 logits, taken in bfloat16, would be a multiple of 2^-6 here."""
    supervisor = build("gpt2")
    supervisor.model.bfloat16()
    logps = supervisor.score(PROMPTS[:1], ['{"date": "tomorrow"}'])[0].logps
    exact = reference_logps(supervisor, supervisor.tokenizer(PROMPTS[0])["input_ids"], supervisor.score(
        PROMPTS[:1], ['{"date": "tomorrow"}'])[0].token_ids)  # fmt: skip
    assert logps == pytest.approx(exact, abs=1e-4)


def test_empty_lists(build):
    supervisor = build("gpt2")
    assert supervisor.generate([]) == [] and supervisor.score([], []) == []


@pytest.mark.parametrize(
    "prompts, message",
    [
        ([""], "prompt 0: column 'prompt' is empty"),
        (["a", 3], "prompt 1: column 'prompt' holds a int"),
        (["a", [{"role": "user", "content": "b"}]], "prompt 1: column 'prompt' mixes text and messages"),
        ([[{"role": "assistant", "content": "b"}]], "prompt 0: column 'prompt' ends with an assistant message"),
        ([[{"role": "user", "content": "b"}]], "has no chat template"),
        (["a", "b" * 300], "prompt 1: the prompt has 300 tokens .* context holds 256"),
        (["a" * 250], "no room for max_new_tokens=64"),
    ],
)
def test_bad_prompts(build, prompts, message):
    with pytest.raises(ValueError, match=message):
        build("gpt2").generate(prompts)


def test_bad_arguments(build):
    supervisor = build("gpt2")
    with pytest.raises(ValueError, match="num_candidates=0"):
        supervisor.generate(["a"], num_candidates=0)
    with pytest.raises(ValueError, match="1 prompts but 2 completions"):
        supervisor.score(["a"], ["b", "c"])
    with pytest.raises(ValueError, match="no room for the completion"):
        supervisor.score(["a"], ["é" * 300])
    with pytest.raises(ValueError, match="max_tokens_in_flight=-5 must be at least 1"):
        WeakSupervisor(supervisor.model, supervisor.tokenizer, max_tokens_in_flight=-5)
    with pytest.raises(ValueError, match="column 'completion' must be"):
        supervisor.score(["a"], [None])


def test_nan_names_supervisor_and_example(build):
    supervisor = build("gpt2", name="broken")
    with torch.no_grad():
        supervisor.model.lm_head.weight[0, 0] = float("nan")
    message = "prompt 0: supervisor 'broken' gives a log-probability that is not finite"
    with pytest.raises(ValueError, match=message):
        supervisor.score(["a"], ["b"])
    for sampling in (None, Sampling(1.0)):
        with pytest.raises(ValueError, match=message):
            supervisor.answer(["a", "b"], 2, 3, sampling=sampling)


def test_nan_names_the_prompt_that_brings_it_out(build):
    supervisor = build("gpt2", name="broken")
    (rare,) = supervisor.tokenizer("€", add_special_tokens=False)["input_ids"][:1]
    with torch.no_grad():
        supervisor.model.get_input_embeddings().weight[rare] = float("inf")
        supervisor.model.lm_head.weight = torch.nn.Parameter(torch.randn_like(supervisor.model.lm_head.weight))
    names = ["row 7", "row 8", "row 9"]
    with pytest.raises(ValueError, match="row 8: supervisor 'broken'"):
        supervisor.answer(["a", "b €", "c"], 2, 3, names=names)


def test_bad_tokenizers(build):
    supervisor = build("gpt2")
    tokenizer = supervisor.tokenizer
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="has no pad token; set tokenizer.pad_token"):
        WeakSupervisor(supervisor.model, tokenizer)
    tokenizer.pad_token, tokenizer.eos_token = "<pad>", None
    with pytest.raises(ValueError, match="has no eos token"):
        WeakSupervisor(supervisor.model, tokenizer)

    class Slow:
        is_fast = False

        def __len__(self):
            return 10

    with pytest.raises(ValueError, match="is slow"):
        WeakSupervisor(supervisor.model, Slow())
    llama = build("llama")
    with pytest.raises(ValueError, match="embeddings"):
        WeakSupervisor(supervisor.model, llama.tokenizer)


def test_saving_a_model_does_not_make_it_another(build, tmp_path):
    """One of several processes saves; its labels must still count as those of the others' model."""
    from trl_weaks.fingerprint import supervisor_fingerprint

    supervisor = build("llama")
    before = supervisor_fingerprint(supervisor)
    supervisor.model.save_pretrained(tmp_path)
    assert supervisor_fingerprint(supervisor) == before
    with torch.no_grad():
        next(supervisor.model.parameters()).add_(1e-3)
    assert supervisor_fingerprint(supervisor) != before
