"""Ids and prompts that are made where a dataset has none: the same labels as with those that stand there."""

from datasets import Dataset

from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.labelling.prompt_columns import as_prompts
from trl_weaks.labelling.sources.examples import read_examples
from trl_weaks.labelling.verify import verify_labels
from trl_weaks.supervisors.ensemble import WeakEnsemble

PROMPTS = [f"USER: play {word} ASSISTANT:" for word in ("jazz", "some", "nine")]
TALKS = [
    [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
    [{"role": "user", "content": "open"}],
]


def test_missing_and_integer_ids_give_the_labels_of_text_ids(build, tmp_path):
    ensemble, few = WeakEnsemble([build("gpt2", 0, "a"), build("neox", 1, "b")]), {"max_new_tokens": 4}
    text = Dataset.from_dict({"example_id": ["0", "1", "2"], "prompt": PROMPTS})
    wanted = label_completions(ensemble, text, "joint", 2, **few).to_list()
    without = text.remove_columns("example_id")
    assert label_completions(ensemble, without, "joint", 2, tmp_path / "labels", **few).to_list() == wanted
    assert not verify_labels(ensemble, without, tmp_path / "labels", "joint", 2, share=1.0, **few).different
    numbers = without.add_column("example_id", [0, 1, 2])
    assert label_completions(ensemble, numbers, "joint", 2, tmp_path / "labels", **few).to_list() == wanted
    assert wanted[0]["example_id"] == "0"


def test_the_last_turn_of_the_assistant_is_asked_for():
    given = as_prompts(Dataset.from_dict({"messages": TALKS, "topic": ["x", "y"]}))
    assert sorted(given.column_names) == ["example_id", "prompt", "topic"]
    assert given["prompt"][:] == [TALKS[0][:2], TALKS[1]]
    rows = read_examples([{"messages": talk, "topic": "x"} for talk in TALKS])
    assert [row["prompt"] for row in rows.values()] == [TALKS[0][:2], TALKS[1]] and list(rows) == ["0", "1"]
    assert all(set(row) == {"example_id", "prompt", "topic"} for row in rows.values())


def test_what_is_there_stays():
    given = Dataset.from_dict({"example_id": ["b", "a"], "prompt": ["p", "q"], "messages": TALKS})
    assert as_prompts(given).to_list() == given.to_list()
    large = Dataset.from_dict({"example_id": [12345678901234567, 7], "prompt": ["p", "q"]})
    assert as_prompts(large)["example_id"][:] == ["12345678901234567", "7"]
