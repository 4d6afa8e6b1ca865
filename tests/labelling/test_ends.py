"""Every end token that the checkpoint or its tokenizer names ends an answer: in search, draws, reading and labels."""

import math

import pytest
from datasets import Dataset

from trl_weaks.inference.beam_search import _until
from trl_weaks.inference.sampling import Sampling
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.reading.ends import end_ids
from trl_weaks.supervisors.supervisor import WeakSupervisor

SHAPES = ("gpt2", "opt", "neox", "llama")
PROMPT = "USER: play some ASSISTANT:"


def test_jazz_and_rubbish(build):
    """ "jazz<eot> rubbish<eos>" is the answer "jazz", finished: the encoder's own decoding of generated ids."""
    supervisor = build("gpt2", seed=4)
    tokenizer = supervisor.tokenizer
    eos, eot = tokenizer.eos_token_id, 300
    supervisor.model.generation_config.eos_token_id = [eos, eot]
    again = WeakSupervisor(supervisor.model, tokenizer, "again")
    jazz, rubbish = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" jazz", " rubbish"))
    cut = _until([*jazz, eot, *rubbish, eos], set(again.encoder.ends(chat=False)))
    (prompt,) = again.encode([PROMPT], ["p"])
    assert again.encoder.closes(cut, chat=False)
    assert again.encoder.decode(prompt, cut, finished=True) == " jazz"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("drawn", [False, True])
def test_the_second_end_ends_an_answer(build, shape, drawn):
    """A token that the model says anyway becomes an end: draws are those of before, cut; beams hold none inside."""
    supervisor = build(shape, seed=4)
    sampling = Sampling(1.0, seed=1) if drawn else None
    eos = supervisor.tokenizer.eos_token_id
    (before,) = supervisor.generate([PROMPT], 4, 12, sampling=sampling)
    other = next(token for token in before[0].token_ids[2:] if token != eos)
    supervisor.model.generation_config.eos_token_id = [eos, other]
    again = WeakSupervisor(supervisor.model, supervisor.tokenizer, supervisor.name)
    (rows,) = again.generate([PROMPT], 4, 12, sampling=sampling)
    for candidate in rows:
        inside = [t in (eos, other) for t in candidate.token_ids]
        assert not any(inside[:-1]) and candidate.finished == inside[-1]
        assert candidate.finished or len(candidate.token_ids) == 12
    assert any(c.token_ids[-1] == other for c in rows)
    if drawn:
        assert [c.token_ids for c in rows] == [_until(c.token_ids, {eos, other}) for c in before]


def test_ids_of_all_places_are_taken_and_ordinary_tokens_are_not(build):
    supervisor = build("gpt2")
    tokenizer, config = supervisor.tokenizer, supervisor.model.config
    settings = supervisor.model.generation_config
    eos, rows = tokenizer.eos_token_id, len(tokenizer)
    settings.eos_token_id, config.eos_token_id = [eos, 50], eos
    assert end_ids(settings, config, tokenizer, "s", rows) == [eos, 50]
    settings.eos_token_id = 50  # a single ordinary token: a class's default, not this tokenizer's end
    assert end_ids(settings, config, tokenizer, "s", rows) == [eos]
    settings.eos_token_id = [eos, rows + 5]  # cannot be generated
    assert end_ids(settings, config, tokenizer, "s", rows) == [eos]
    settings.eos_token_id, config.eos_token_id = None, [51, eos]
    assert end_ids(settings, config, tokenizer, "s", rows) == [eos, 51]


def test_an_ordinary_single_token_is_told(build, caplog):
    supervisor = build("gpt2")
    supervisor.model.generation_config.eos_token_id = 50
    WeakSupervisor(supervisor.model, supervisor.tokenizer, "s")
    assert "eos_token_id is 50" in caplog.text


def test_labels_end_at_the_second_end_and_are_read_with_the_tokenizers_own(build):
    supervisor = build("gpt2", seed=4)
    eos = supervisor.tokenizer.eos_token_id
    (before,) = supervisor.generate([PROMPT], 1, 12)
    other = next(token for token in before[0].token_ids[2:] if token != eos)
    supervisor.model.generation_config.eos_token_id = [eos, other]
    again = WeakSupervisor(supervisor.model, supervisor.tokenizer, supervisor.name)
    data = Dataset.from_list([{"example_id": "a", "prompt": PROMPT}])
    (row,) = label_completions(WeakEnsemble([again]), data, max_new_tokens=12, num_candidates=1)
    (answer,) = again.answer([PROMPT], 1, 12)
    assert answer[0] == (row["completion"], True)
    (scored,) = again.score([PROMPT], [row["completion"]])
    assert math.fsum(row["weak_logps"][0]) == pytest.approx(math.fsum(scored.logps), abs=1e-4)
    assert scored.token_ids[-1] == eos
