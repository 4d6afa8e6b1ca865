"""Where tokens would merge over the boundary of prompt and completion, the completion's own text is scored."""

import pytest
import torch
from datasets import Dataset
from small_supervisors import model_of
from tiny_tokenizers import byte_level, metaspace
from tokenizers import normalizers, pre_tokenizers

from trl_weaks.labelling import run as module
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.plain_check import plain_logps
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.reading.text import Encoder
from trl_weaks.supervisors.supervisor import WeakSupervisor

CORPUS = ["Answer: Paris is the city Paris Paris", "Answer: Rome"] * 3


def tokenizer(kind):
    if kind == "byte_level":
        return byte_level(CORPUS, "</s>", vocabulary=300)
    if kind == "spaced byte_level":
        made = byte_level(CORPUS, "</s>", vocabulary=300)
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        return made
    made = metaspace(CORPUS, 400)
    if kind == "normalised":  # as Llama's older files say it: two spaces before a text that begins with one
        made.backend_tokenizer.pre_tokenizer = None
        made.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    return made


def supervisor(kind, name="s"):
    made = tokenizer(kind)
    return WeakSupervisor(model_of("gpt2", len(made)), made, name)


@pytest.mark.parametrize("kind", ["byte_level", "spaced byte_level", "metaspace", "normalised"])
def test_the_text_that_is_scored_is_the_completion(kind):
    one = supervisor(kind)
    assert one.encoder.begins_with_space() == (kind != "byte_level")
    for prompt in ("Answer:", "Answer: ", "Answer: Par"):
        (read,) = one.encode([prompt], ["p"])
        before = one.tokenizer.decode(read.ids, skip_special_tokens=True)
        for text in ("Paris", " Paris", "is the city", "  Rome Paris"):
            (score,) = one.score([prompt], [text])
            assert one.tokenizer.decode([*read.ids, *score.token_ids[:-1]], skip_special_tokens=True) == before + text
            assert score.offsets[0][0] == 0 and score.offsets[-2][1] == len(text) == score.offsets[-1][0]
            with torch.no_grad():
                logits = one.model(torch.tensor([[*read.ids, *score.token_ids]])).logits[0].double()
            logps = logits.log_softmax(-1)[len(read.ids) - 1 : -1].gather(-1, torch.tensor(score.token_ids)[:, None])
            assert score.logps == pytest.approx(logps[:, 0].tolist(), abs=1e-4)
            assert plain_logps(one, prompt, text, "p") == pytest.approx(score.logps, abs=1e-4)


def test_scores_of_texts_that_had_a_space_too_many_are_made_again_and_no_others(tmp_path, monkeypatch):
    one = supervisor("metaspace")
    prompts = ["Answer: ", "Answer:", "Paris is ", "Rome", "the city"]
    data = Dataset.from_dict({"prompt": prompts})
    said = {"Answer: ": "Paris", "Answer:": " Rome", "Paris is ": " the city", "Rome": " is Paris", "the city": "Rome"}
    monkeypatch.setattr(one, "answer", lambda asked, *_, **__: [[(said[prompt], True)] for prompt in asked])
    settings = dict(mode="independent", num_candidates=1, max_new_tokens=4, output_dir=tmp_path, batch_size=1)

    def alone(self, prompt, text):
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], found["offset_mapping"], False

    with monkeypatch.context() as earlier:
        earlier.setattr(Encoder, "_apart", alone)
        earlier.setattr(module, "_begins_with_space", lambda supervisor: False)
        before = label_completions(WeakEnsemble([one]), data, **settings)[:]
    scored, own = [], one.score_fitting
    monkeypatch.setattr(one, "score_fitting", lambda asked, *rest: scored.extend(asked) or own(asked, *rest))
    after = label_completions(WeakEnsemble([one]), data, **settings)[:]
    changed = [p for p, a, b in zip(prompts, before["weak_logps"], after["weak_logps"], strict=True) if a != b]
    assert set(scored) == set(changed) and "Answer: " in changed and "Answer:" not in changed
    scored.clear()
    assert label_completions(WeakEnsemble([one]), data, **settings)[:] == after and not scored
