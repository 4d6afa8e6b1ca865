"""Rows of a report without a trained student: examples in a prompt, and the supervisors' joint answer."""

import pytest

from trl_weaks.study.config import CompletionStudyConfig
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.run import seed_runs
from trl_weaks.study.pipeline.untaught import first_answer, joint_answers, with_shots
from trl_weaks.study.table_config import CompletionTableConfig
from trl_weaks.study.tasks.table import CompletionTable

TINY = dict.fromkeys(
    ("gpt2", "opt", "llama"), {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 64}
)
SHOTS = [{"prompt": "1 + 1 =\n", "completion": "2"}, {"prompt": "2 + 5 =\n", "completion": "7"}]


def turn(role, content):
    return {"role": role, "content": content}


def test_examples_stand_before_a_prompt_of_text():
    assert with_shots("3 + 4 =\n", SHOTS) == "1 + 1 =\n2\n\n2 + 5 =\n7\n\n3 + 4 =\n"
    assert with_shots("3 + 4 =\n", []) == "3 + 4 =\n"


def test_examples_are_turns_of_a_conversation_behind_one_system_message():
    system = turn("system", "Add.")
    shot = {"prompt": [system, turn("user", "1 + 1")], "completion": [turn("assistant", "2")]}
    asked = turn("user", "3 + 4")
    assert with_shots([system, asked], [shot]) == [system, turn("user", "1 + 1"), turn("assistant", "2"), asked]
    assert with_shots([asked], [{**shot, "prompt": [turn("user", "1 + 1")]}]) == [
        turn("user", "1 + 1"),
        turn("assistant", "2"),
        asked,
    ]
    assert with_shots([asked], []) == [asked] and with_shots([system, asked], []) == [system, asked]


def test_an_answer_ends_where_the_model_goes_on_with_an_example_of_its_own():
    assert first_answer("7\n\n5 + 5 =\n10", SHOTS) == "7"
    assert first_answer("7\n8", SHOTS) == "7\n8", "one line may end inside an answer"
    long = [SHOTS[0], {"prompt": "Say.", "completion": "one\n\ntwo"}]
    assert first_answer("a\n\nb", long) == "a\n\nb", "answers that hold the separator are not cut at it"
    assert first_answer("a\n\nb", []) == "a\n\nb", "without examples nothing is cut"


def test_a_prompt_on_which_no_supervisor_said_anything_has_the_empty_answer():
    labels = [{"example_id": "b", "completion": "2"}, {"example_id": "c", "completion": [turn("assistant", "3")]}]
    rows = [{"example_id": name} for name in "abc"]
    assert joint_answers(labels, rows) == ["", "2", "3"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gold", "asked", "test"):
        rows = [f'{{"prompt": "{name} {n} =", "completion": "{n}"}}' for n in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    data = {"train_file": "gold.jsonl", "unlabelled_file": "asked.jsonl", "test_file": "test.jsonl"}
    return data | {"weak_models": ["tiny:gpt2", "tiny:opt"], "tiny_models": TINY, "metric": "exact_match"}


def stages(settings, **more):
    config = CompletionTableConfig(output_dir="run", **settings | more)
    return seed_runs(config, CompletionTable(config), [])[0].stages()


def test_few_shots_that_cannot_be_are_refused_before_any_work(files, monkeypatch):
    monkeypatch.setattr(ModelFactory, "identity", lambda self, name: {"name": name})
    with pytest.raises(ValueError, match="`num_shots=2`: a tiny student that nothing pre-trained reads no examples"):
        stages(files, student_model="tiny:llama", num_shots=2)
    with pytest.raises(ValueError, match="`num_shots=99`: half A has [0-9]+ examples. Ask for fewer"):
        stages(files, student_model="a/model", num_shots=99)
    with pytest.raises(ValueError, match="`num_shots` must be a whole number, at least 0; got -1"):
        CompletionStudyConfig(num_shots=-1)
    names = [stage.name for stage in stages(files, student_model="a/model", num_shots=2)]
    assert "evaluate few_shot" in names and "evaluate joint_answer" in names
    alone = [stage.name for stage in stages(files | {"weak_models": ["tiny:opt"]}, student_model="a/model")]
    assert not {"evaluate few_shot", "evaluate joint_answer"} & set(alone), "one supervisor has no joint answer"
