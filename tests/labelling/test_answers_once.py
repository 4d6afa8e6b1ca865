"""Where only the text of an answer is used, it is not scored: forward passes, counted."""

import ast
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path

import pytest
from datasets import Dataset

import trl_weaks
from trl_weaks.labelling.preferences import build_preferences
from trl_weaks.study.pipeline.predictions import predict_completions
from trl_weaks.supervisors.ensemble import WeakEnsemble

PROMPTS = [f"USER: wake me up at {word} ASSISTANT:" for word in ("nine", "noon", "five pm", "seven")]
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def student(build):
    return build("llama", seed=5, name="student")


@contextmanager
def passes(supervisor):
    """Tokens a row of the batches that a supervisor's model reads, one number a pass."""
    seen = []
    hook = supervisor.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        supervisor.answer(PROMPTS, 1, 1)  # a model with another hook is tried again
        seen.clear()
        yield seen
    finally:
        hook.remove()


def only_decoded(seen):
    """Prompts were read, then one token a pass; nothing was read after that."""
    decoding = list(dropwhile(lambda length: length > 1, seen))
    return set(decoding) == {1} and len(decoding) <= NEW_TOKENS


def test_generate_scores_what_it_decoded(student):
    """So that the counts below can tell the two apart."""
    with passes(student) as seen:
        student.generate(PROMPTS, 2, NEW_TOKENS)
    assert not only_decoded(seen)


def test_evaluation_decodes_only(student, tmp_path):
    rows = [{"example_id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)]
    with passes(student) as seen:
        predict_completions(student, rows, tmp_path, 2, NEW_TOKENS, len(rows))
    assert only_decoded(seen), seen


def test_preferences_do_not_score_the_student(student, build):
    ensemble = WeakEnsemble([build("gpt2", 1), build("opt", 2)])
    rows = Dataset.from_dict({"prompt": PROMPTS})
    with passes(student) as seen:
        build_preferences(student, ensemble, rows, 3, max_new_tokens=NEW_TOKENS, batch_size=len(PROMPTS))
    assert only_decoded(seen), seen


def test_no_other_part_of_the_package_scores_answers_whose_text_it_takes():
    """`generate` of a supervisor is for users; the package calls `answer`, and `score` where it needs scores."""
    models_own = {"inference/beam_search.py", "labelling/plain_check.py", "supervisors/vllm.py"}  # not a supervisor's
    package, found = Path(trl_weaks.__file__).parent, set()
    for path in package.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(isinstance(call, ast.Attribute) and call.attr == "generate" for call in calls):
            found.add(path.relative_to(package).as_posix())
    assert found == models_own
