"""A checkpoint's generation settings: each is followed, without effect, or refused by name; none is changed."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import classifier
from transformers import AddedToken, GenerationConfig

from trl_weaks.inference.generation_settings import ASKED, HONOURED, REFUSED, WITHOUT_EFFECT
from trl_weaks.inference.sampling import Sampling
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

SHAPES = ("gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2")
HEAD = "USER: turn on the light in the kitchen, wake me up at nine, play some jazz; hello "
PROMPTS = [HEAD + tail + " ASSISTANT:" for tail in ("you", "jazz at five jazz", "")]
KEYS = ["a", "b", "c"]
DRAWS = Sampling(0.9, seed=2)


def test_every_field_of_the_class_has_one_rule():
    """A field that a later `transformers` adds has none, and must be given one."""
    rules = [*HONOURED, *ASKED, *WITHOUT_EFFECT, *REFUSED]
    assert len(rules) == len(set(rules))
    assert set(rules) == {name for name in vars(GenerationConfig()) if not name.startswith("_")}


def search_by_hand(model, prompt, beams, length, ends, rule, penalty=1.0, eager=False):
    """Beam search in plain Python: a full forward pass for every beam and token, in float64."""
    running, finished = [(0.0, [])], []
    for step in range(1, length + 1):
        grown = []
        for total, new in running:
            logps = rule(next_logits(model, prompt + new).log_softmax(-1), prompt, new)
            grown += [(total + value, [*new, v]) for v, value in enumerate(logps.tolist()) if value > -math.inf]
        best = sorted(grown, key=lambda beam: -beam[0])[: (1 + len(ends)) * beams]
        stopped = [new[-1] in ends or step == length for _, new in best]
        finished += [(t / step**penalty, new) for (t, new), s in zip(best[:beams], stopped, strict=False) if s]
        finished = sorted(finished, key=lambda beam: -beam[0])[:beams]
        running = [beam for beam, s in zip(best, stopped, strict=True) if not s][:beams]
        if not running or len(finished) == beams and (eager or running[0][0] / step**penalty <= finished[-1][0]):
            break
    return [new for _, new in finished]


def draw_by_hand(supervisor, prompt, key, number, length, ends, rule):
    stream, new = np.random.Generator(np.random.Philox(key=DRAWS.stream(supervisor.name, key, number))), []
    while len(new) < length and not (new and new[-1] in ends):
        logits = rule(next_logits(supervisor.model, prompt + new), prompt, new) / DRAWS.temperature
        noise = torch.from_numpy(stream.standard_exponential(len(logits), dtype=np.float32)).double()
        new.append(int((logits - noise.log()).argmax()))
    return new


def next_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()


def everything(supervisor, prompts=PROMPTS, keys=KEYS, beams=3, length=6):
    searched = supervisor.generate(prompts, beams, length)
    drawn = supervisor.generate(prompts, 2, length, sampling=DRAWS, keys=keys)
    return [[[c.token_ids for c in row] for row in rows] for rows in (searched, drawn)]


def by_hand(supervisor, rule, beams=3, length=6, **search):
    ends = set(supervisor.encoder.ends(chat=False))
    ids = [supervisor.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    searched = [search_by_hand(supervisor.model, p, beams, length, ends, rule, **search) for p in ids]
    drawn = [
        [draw_by_hand(supervisor, p, key, k, length, ends, rule) for k in range(2)]
        for p, key in zip(ids, KEYS, strict=True)
    ]
    return [searched, drawn]


def unchanged(logits, prompt, new):
    return logits


@pytest.fixture
def supervisor(build):
    return build("gpt2", 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_cache_the_answers_are_the_same(build, shape):
    """With `use_cache=False` the keys of a prompt were kept and its tokens read again on top of them."""
    supervisor = build(shape, 3)
    expected = by_hand(supervisor, unchanged)
    supervisor.model.generation_config.use_cache = False
    assert everything(supervisor) == expected
    assert supervisor.model.generation_config.use_cache is False
    supervisor.model.config.use_cache = False
    assert everything(supervisor) == expected


VALUES = {
    "cache_implementation": "static", "cache_config": {"nbits": 2}, "max_cache_len": 8, "prefill_chunk_size": 2,
    "continuous_batching_config": {}, "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 1, "num_assistant_tokens": 3, "assistant_early_exit": 1,
    "assistant_lookbehind": 1, "target_lookbehind": 1,
    "assistant_ensemble_weight": 0.5, "prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 2, "use_cache": False,
    "transformers_version": "1", "decoder_start_token_id": 5, "speculation_type": "mtp", "temperature": 0.1,
    "top_k": 1, "top_p": 0.01, "min_p": 0.9, "top_h": 0.1, "typical_p": 0.1, "epsilon_cutoff": 0.9, "eta_cutoff": 0.9,
    "max_length": 3, "max_new_tokens": 2, "num_beams": 7, "num_return_sequences": 7, "pad_token_id": 9,
    "bos_token_id": 9,
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in (*WITHOUT_EFFECT, *ASKED) if n != "eos_token_id"])
def test_settings_without_effect_have_none(supervisor, name):
    expected = everything(supervisor)
    setattr(supervisor.model.generation_config, name, VALUES.get(name, True))
    own, before = supervisor.model.generation_config, copy.deepcopy(vars(supervisor.model.generation_config))
    assert everything(supervisor) == expected
    assert supervisor.model.generation_config is own and vars(own) == before


def test_bad_weights_are_named_whatever_is_set(supervisor):
    with torch.no_grad():
        supervisor.model.lm_head.weight[0, 0] = float("nan")
    supervisor.model.generation_config.remove_invalid_values = True
    with pytest.raises(ValueError, match="not finite"):
        supervisor.answer(PROMPTS, 2, 3)
    assert supervisor.model.generation_config.remove_invalid_values is True


def never(tokens, when=lambda prompt, new: True):
    def rule(logits, prompt, new):
        changed = logits.clone()
        if when(prompt, new):
            changed[list(tokens)] = -math.inf
        return changed

    return rule


def penalised(logits, prompt, new):
    changed = logits.clone()
    for token in {*prompt, *new}:
        changed[token] = logits[token] * 1.5 if logits[token] < 0 else logits[token] / 1.5
    return changed


def no_pair_twice(logits, prompt, new):
    ids = prompt + new
    return never({b for a, b in zip(ids, ids[1:], strict=False) if a == ids[-1]})(logits, prompt, new)


def biased(logits, prompt, new):
    """+4 for token 132 after token 159, +3 for 180 anywhere."""
    changed = logits.clone()
    changed[180] += 3.0
    if (prompt + new)[-1] == 159:
        changed[132] += 4.0
    return changed


def longer_ends_less(logits, prompt, new):
    """From the third token on the end gains |its value| (1.3^n - 1)."""
    changed = logits.clone()
    if len(new) > 2:
        changed[1] = logits[1] + abs(logits[1]) * (1.3 ** (len(new) - 2) - 1)
    return changed


def normalised(logits, prompt, new):
    return never({5, 6, 7})(logits, prompt, new).log_softmax(-1)


FOLLOWED = {  # settings of the checkpoint, the rule in plain Python, arguments of the search
    "length_penalty": ({"length_penalty": -2.0}, unchanged, {"penalty": -2.0}),
    "early_stopping": ({"early_stopping": True}, unchanged, {"eager": True}),
    "min_new_tokens": ({"min_new_tokens": 6}, never({1}, lambda p, n: len(n) < 6), {}),
    "min_length": ({"min_length": 56}, never({1}, lambda p, n: len(p) + len(n) < 56), {}),
    "repetition_penalty": ({"repetition_penalty": 1.5}, penalised, {}),
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": 2}, no_pair_twice, {}),
    "bad_words_ids": (
        {"bad_words_ids": [[132], [159, 180]]},
        lambda x, p, n: never({132, *([180] if (p + n)[-1] == 159 else [])})(x, p, n),
        {},
    ),
    "sequence_bias": ({"sequence_bias": [[[180], 3.0], [[159, 132], 4.0]]}, biased, {}),
    "renormalize_logits": ({"renormalize_logits": True, "suppress_tokens": [5, 6, 7]}, normalised, {}),
    "exponential_decay_length_penalty": ({"exponential_decay_length_penalty": (2, 1.3)}, longer_ends_less, {}),
    "suppress_tokens": ({"suppress_tokens": [1, 132]}, never({1, 132}), {}),
    "begin_suppress_tokens": ({"begin_suppress_tokens": [1, 159]}, never({1, 159}, lambda p, n: not n), {}),
    "forced_bos_token_id": ({"forced_bos_token_id": 50}, unchanged, {}),  # of a prompt of one token only
}


CHANGES = FOLLOWED.keys() - {"forced_bos_token_id"}


def test_every_setting_that_is_followed_is_tried():
    assert FOLLOWED.keys() == HONOURED.keys()


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_settings_that_are_followed_give_what_plain_loops_give(build, shape, name):
    """Behind a shared prefix, with prompts of unlike length: neither prefix nor padding is looked at."""
    supervisor, (values, rule, search) = build(shape, 3), FOLLOWED[name]
    end = supervisor.tokenizer.eos_token_id
    with torch.no_grad():  # answers that end early, and words that come again
        supervisor.model.get_output_embeddings().weight[end] = (
            supervisor.model.get_output_embeddings().weight[180] * 1.02
        )
    if end != 1:  # the rules above speak of GPT-2's
        swap = {1: end}
        values = {
            k: [swap.get(v, v) for v in x] if k.endswith("tokens") and isinstance(x, list) else x
            for k, x in values.items()
        }
        plain, rule = rule, lambda x, p, n: exchanged(plain(exchanged(x, end), p, n), end)
    for key, value in values.items():
        setattr(supervisor.model.generation_config, key, value)
    before = copy.deepcopy(vars(supervisor.model.generation_config))
    found = everything(supervisor)
    assert found == by_hand(supervisor, rule, **search)
    assert shape != "gpt2" or (found != by_hand(supervisor, unchanged)) == (name in CHANGES), "the case is real"
    assert vars(supervisor.model.generation_config) == before


def exchanged(logits, end):
    changed = logits.clone()
    changed[[1, end]] = logits[[end, 1]]
    return changed


def test_a_prompt_of_one_token_begins_as_forced(supervisor):
    supervisor.model.generation_config.forced_bos_token_id = 50
    found = supervisor.generate(["a", "a b c"], 2, 3)
    assert all(c.token_ids[0] == 50 for c in found[0]) and any(c.token_ids[0] != 50 for c in found[1])


WRONG = {
    "max_time": 5.0, "stop_strings": ["jazz"], "token_healing": True, "guidance_scale": 2.0,
    "watermarking_config": {"bias": 2.0}, "forced_eos_token_id": 1, "encoder_repetition_penalty": 1.2,
    "encoder_no_repeat_ngram_size": 2, "penalty_alpha": 0.6, "dola_layers": "low", "num_beam_groups": 2,
    "diversity_penalty": 0.5, "constraints": ["x"], "force_words_ids": [[5]],
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_not_followed_are_refused_before_work(supervisor, name):
    data = Dataset.from_list([{"example_id": "a", "prompt": PROMPTS[0]}])
    setattr(supervisor.model.generation_config, name, WRONG[name])
    read = supervisor.score(PROMPTS[:1], ["jazz"])
    supervisor.model.forward = supervisor.encoder.prompts = None  # no work
    message = (
        f"supervisor 'gpt2-3': its checkpoint sets generation_config.{name}=.* Set model.generation_config.{name} ="
    )
    for ask in (
        lambda: supervisor.answer(PROMPTS, 2, 3),
        lambda: supervisor.answer(PROMPTS, 2, 3, sampling=DRAWS),
        lambda: label_completions(WeakEnsemble([supervisor]), data, max_new_tokens=3),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    assert read[0].logps, "reading needs no generation settings"


@pytest.mark.parametrize("name, value", [("repetition_penalty", 1.3), ("max_time", 2.0), ("suppress_tokens", [4])])
def test_settings_in_the_models_configuration_are_refused(supervisor, name, value):
    setattr(supervisor.model.config, name, value)
    with pytest.raises(ValueError, match=f"model.config.{name}=.* move it to model.generation_config.{name}"):
        supervisor.answer(PROMPTS, 2, 3)


def test_more_tokens_than_are_asked_for_are_refused(supervisor):
    supervisor.model.generation_config.min_new_tokens = 9
    with pytest.raises(ValueError, match="min_new_tokens=9 is more than max_new_tokens=3"):
        supervisor.answer(PROMPTS, 2, 3)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma2"])
def test_what_a_model_returns_besides_does_not_matter(build, shape):
    supervisor = build(shape, 3)
    expected = everything(supervisor), supervisor.score(PROMPTS, ["jazz", "five pm", "é"])
    other = build(shape, 3)
    other.model.config.output_hidden_states = True
    assert (everything(other), other.score(PROMPTS, ["jazz", "five pm", "é"])) == expected


@pytest.mark.parametrize(
    "name, shape", [("return_dict", "gpt2"), ("return_dict", "llama"), ("output_attentions", "gemma2")]
)
def test_what_our_passes_do_not_read_is_not_asked_for(build, name, shape):
    supervisor, other = build(shape, 3), build(shape, 3)
    expected = everything(supervisor), supervisor.score(PROMPTS, ["jazz", "five pm", "é"])
    setattr(other.model.config, name, name != "return_dict")
    assert (everything(other), other.score(PROMPTS, ["jazz", "five pm", "é"])) == expected
    assert getattr(other.model.config, name) is (name != "return_dict")


EOT = "<|eot|>"


def with_two_ends(build, shape, where="generation_config"):
    """A supervisor whose checkpoint names two ends in that place, both of them likely tokens."""
    made = build(shape, 3)
    model, tokenizer = made.model, made.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [EOT]})
    model.resize_token_embeddings(len(tokenizer))
    eos, eot = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(EOT)
    with torch.no_grad():
        rows = model.get_output_embeddings().weight
        rows[eot], rows[eos] = rows[180] * 1.02, rows[132] * 0.98
    holder = model.generation_config if where == "generation_config" else model.config
    holder.eos_token_id = [eos, eot]
    return WeakSupervisor(model, tokenizer, made.name), eos, eot


@pytest.mark.parametrize("shape", SHAPES)
def test_every_end_of_a_checkpoint_ends_an_answer(build, shape):
    supervisor, eos, eot = with_two_ends(build, shape)
    found = everything(supervisor)
    assert supervisor.encoder.ends(chat=False) == [eos, eot] and found == by_hand(supervisor, unchanged)
    for prompt, rows in zip(PROMPTS, supervisor.generate(PROMPTS, 3, 6), strict=True):
        for candidate in rows:
            ended = candidate.token_ids[-1] in (eos, eot)
            assert candidate.finished == ended and EOT not in candidate.text
            assert not {eos, eot} & set(candidate.token_ids[:-1]), "nothing after an end"
            assert len(candidate.offsets) == len(candidate.token_ids)
            assert not ended or candidate.offsets[-1] == (len(candidate.text),) * 2
        assert [(c.text, c.finished) for c in rows] == supervisor.answer([prompt], 3, 6)[0]


def test_both_ends_are_met(build):
    supervisor, eos, eot = with_two_ends(build, "gpt2")
    last = {row[-1] for rows in everything(supervisor, beams=12) for candidates in rows for row in candidates}
    assert {eos, eot} <= last


def test_a_text_after_an_end_is_no_part_of_the_answer(build):
    supervisor, eos, eot = with_two_ends(build, "gpt2")
    (prompt,) = supervisor.encoder.prompts(PROMPTS[:1])
    jazz, rubbish = (supervisor.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" jazz", " rubbish"))
    assert supervisor.encoder.decode(prompt, [*jazz, eot], finished=True) == " jazz"
    assert supervisor.encoder.closes([*jazz, eot], chat=False) and not supervisor.encoder.closes(jazz, chat=False)
    assert supervisor.encoder.offsets(prompt, [*jazz, eot], " jazz", True)[-1] == (5, 5)
    (read,) = supervisor.score(PROMPTS[:1], [" jazz"])
    assert read.token_ids == [*jazz, eos], "a text is closed with the tokenizer's own end"
    spelt = [supervisor.tokenizer.convert_tokens_to_ids(c) for c in EOT]
    assert supervisor.encoder.decode(prompt, [*jazz, *spelt, *rubbish], finished=False) == " jazz"


def test_a_chat_ends_with_its_templates_mark_and_with_the_checkpoints(build):
    """The mark is a special token without a role, as `added_tokens` of many tokenizers are."""
    supervisor, eos, eot = with_two_ends(build, "gpt2")
    supervisor.tokenizer.add_tokens([AddedToken("<turn>", special=True)])
    supervisor.model.resize_token_embeddings(len(supervisor.tokenizer))
    supervisor.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<turn>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    fresh = WeakSupervisor(supervisor.model, supervisor.tokenizer, "x")
    (read,) = fresh.score([[{"role": "user", "content": "play"}]], ["jazz"])
    turn = supervisor.tokenizer.convert_tokens_to_ids("<turn>")
    assert read.token_ids[-1] == turn and fresh.encoder.ends(chat=True) == [turn, eos, eot]


@pytest.mark.parametrize("where", ["generation_config", "config"])
def test_ends_are_found_wherever_they_stand(build, where, caplog):
    supervisor, eos, eot = with_two_ends(build, "gpt2", where)
    assert supervisor.encoder.ends(chat=False) == [eos, eot]
    supervisor.model.generation_config.eos_token_id = supervisor.model.config.eos_token_id = eot
    assert WeakSupervisor(supervisor.model, supervisor.tokenizer, "x").encoder.ends(chat=False) == [eos, eot]
    supervisor.model.generation_config.eos_token_id, supervisor.model.config.eos_token_id = 40, 10**6
    assert WeakSupervisor(supervisor.model, supervisor.tokenizer, "x").encoder.ends(chat=False) == [eos]
    assert "'x': generation_config.eos_token_id is 40" in caplog.text


def test_special_tokens_read_letter_by_letter_are_refused(build):
    supervisor = build("gpt2")
    supervisor.tokenizer.split_special_tokens = True
    with pytest.raises(ValueError, match="supervisor 'x': the tokenizer has split_special_tokens=True"):
        WeakSupervisor(supervisor.model, supervisor.tokenizer, "x")
    model = classifier("gpt2", len(supervisor.tokenizer), width=8, pad_token_id=0)
    with pytest.raises(ValueError, match="supervisor 'y': the tokenizer has split_special_tokens=True"):
        WeakClassifier(model, supervisor.tokenizer, "y")
