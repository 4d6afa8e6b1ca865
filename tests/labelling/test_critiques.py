"""Critiques and debates before labelling, with scripted models: what they reveal reaches supervisors, not students."""

import doctest
import re

import pytest
from datasets import Dataset

from trl_weaks.labelling import critiques
from trl_weaks.labelling.critiques import asking, with_critiques, with_debate, without_arguments
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.ensemble import WeakEnsemble

SUMS = [(a, b) for a in range(4) for b in range(5)]


def questions(answers=None):
    rows = [{"example_id": f"e{i}", "prompt": f"{a} + {b} =\n"} for i, (a, b) in enumerate(SUMS)]
    rows = [row | {"answer": answers[i]} for i, row in enumerate(rows)] if answers else rows
    return Dataset.from_list(rows)


def solver(prompts):
    """Guesses 3, whatever is asked."""
    return ["3"] * len(prompts)


def revealing(prompts):
    """A critic that knows sums, and says what is right."""
    sums = [re.match(r"(\d) \+ (\d)", prompt) for prompt in prompts]
    return [f"it should be {int(m[1]) + int(m[2])}." for m in sums]


def weak(prompts):
    """A supervisor that cannot add, and copies what it is told."""
    found = [re.search(r"it should be (\d)", prompt) for prompt in prompts]
    return [m[1] if m else "3" for m in found]


def right(dataset):
    return sum(int(said) == a + b for said, (a, b) in zip(weak(dataset["prompt"]), SUMS, strict=True)) / len(SUMS)


def test_the_examples_of_the_docstring():
    found = doctest.testmod(critiques)
    assert found.attempted and not found.failed


def test_a_critique_that_reveals_the_answer_makes_the_labels_right():
    plain = questions()
    made = with_critiques(plain, solver, revealing)
    assert right(plain) < 0.3 and right(made) == 1.0
    assert "Somebody answered: 3" in made["prompt"][0] and made["transcript"][1] == "it should be 1."
    assert made["example_id"][:] == plain["example_id"][:] and made.column_names[:2] == plain.column_names
    assert without_arguments(made).to_list() == plain.to_list()


def test_a_critic_worse_than_the_supervisor_makes_them_wrong():
    lies = with_critiques(questions(), solver, lambda prompts: ["it should be 9."] * len(prompts))
    assert right(lies) == 0.0


def test_a_debate_goes_to_and_fro_and_shows_each_debater_what_was_said():
    heard = []

    def debater(prompts):
        heard.append(list(prompts))
        return revealing(prompts)

    rows = Dataset.from_list([row | {"yes": "Yes", "no": "No"} for row in questions()])
    made = with_debate(rows, ("yes", "no"), (debater, debater), turns=2)
    assert len(heard) == 4 and right(made) == 1.0
    assert "You defend the answer: Yes" in heard[0][0] and "You defend the answer: No" in heard[1][0]
    assert heard[1][3].count("it should be 3") == 1 and heard[3][3].count("it should be 3") == 3
    assert made["transcript"][0].splitlines() == [f"For {side!r}: it should be 0." for side in ("Yes", "No")] * 2
    assert without_arguments(made).column_names == rows.column_names


def test_of_messages_the_last_is_rewritten_and_braces_in_a_question_are_left_alone():
    asked = [[{"role": "system", "content": "Add."}, {"role": "user", "content": "{1} + {x}?"}]]
    rows = Dataset.from_dict({"prompt": asked, "answer": ["5"]})
    (made,) = with_critiques(rows, "answer", lambda prompts: [f"{len(prompts[0])} {{}}"])["prompt"]
    assert made[0] == asked[0][0] and made[1]["role"] == "user"
    assert made[1]["content"].startswith("{1} + {x}?") and "says: 2 {}" in made[1]["content"]


def test_where_the_critic_is_silent_the_prompt_stays_and_a_warning_counts_it(caplog):
    made = with_critiques(questions(), solver, lambda prompts: [" ", *["it should be 1."] * (len(prompts) - 1)])
    assert made["prompt"][0] == made["question_alone"][0] and made["prompt"][1] != made["question_alone"][1]
    assert "1 of 20 prompts stay" in caplog.text


def test_real_models_argue_and_label_and_the_student_sees_the_question(build):
    rows = questions().select(range(4))
    made = with_critiques(rows, asking(build("gpt2", 1, "a"), 4), asking(build("gpt2", 1, "a"), 4, batch_size=3))
    labels = label_completions(WeakEnsemble([build("opt", 1, "b")]), made, max_new_tokens=4)
    assert set(labels["prompt"]) <= set(made["prompt"])
    assert set(without_arguments(labels)["prompt"]) <= set(rows["prompt"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: with_critiques(d.select([]), solver, solver), "no rows"),
        (lambda d: with_critiques(d, "gone", solver), "no column 'gone'"),
        (lambda d: with_critiques(d, solver, solver, column="text"), "no column 'text'"),
        (lambda d: with_critiques(questions([""] * 20), "answer", solver), "row 0: the column 'answer' is empty"),
        (lambda d: with_critiques(d, solver, lambda p: ["x"]), "critic: gave 1 answers to 20 prompts"),
        (lambda d: with_critiques(d, lambda p: [3] * len(p), solver), "answer: gave 20 answers"),
        (lambda d: with_critiques(d, solver, solver, judged="{question}"), "`judged` lacks {critique}"),
        (lambda d: with_critiques(d, solver, solver, criticised="{question}{answer}{x}"), "unknown {x}"),
        (lambda d: with_critiques(with_critiques(d, solver, solver), solver, solver), "already has a column"),
        (lambda d: with_debate(d, ("prompt", "prompt"), (solver, solver)), "row 0: both answers are '0 "),
        (lambda d: with_debate(d, ("prompt", "example_id"), (solver, solver), turns=0), "turns=0"),
        (lambda d: without_arguments(d), "no column 'question_alone'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(questions())
