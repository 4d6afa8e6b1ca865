"""Where only the text of an answer is used, it is not scored: forward passes, counted."""

import ast
import re
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path

import pytest
from datasets import Dataset

import trl_weaks
from trl_weaks.labelling.preferences import build_preferences
from trl_weaks.study.pipeline.predictions import predict_completions, read_confidences
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


def test_evaluation_decodes_and_reads_the_best_answers_once(student, tmp_path):
    """Behind examples nothing is read: such an answer ends where it would go on with an example of its own."""
    rows = [{"example_id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)]
    shots = [{"prompt": PROMPTS[0], "completion": "ok"}]
    for name, given in (("shown", shots), ("plain", ())):
        (tmp_path / name).mkdir()
        with passes(student) as seen:
            predict_completions(student, rows, tmp_path / name, 2, NEW_TOKENS, len(rows), given)
        decoded = max(i for i, length in enumerate(seen) if length == 1) + 1
        assert only_decoded(seen[:decoded]), seen
        assert len(seen[decoded:]) == (2 if name == "plain" else 0), "what the prompts share, and once the rest"
    assert read_confidences(tmp_path / "shown", [row["example_id"] for row in rows]) is None


def test_what_evaluation_keeps_of_an_answer_is_what_scoring_it_alone_gives(student, tmp_path):
    rows = [{"example_id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)]
    predict_completions(student, rows, tmp_path, 2, NEW_TOKENS, 3)
    kept = read_confidences(tmp_path, [row["example_id"] for row in rows])
    for row, found, (best, _) in zip(rows, kept, student.answer(PROMPTS, 2, NEW_TOKENS), strict=True):
        (read,), (text, finished) = student.score([row["prompt"]], [best[0]]), best
        logps = read.logps if finished else read.logps[:-1]
        assert found["mean_logp"] == pytest.approx(sum(logps) / len(logps), abs=1e-5)
        words = [match.span() for match in re.finditer(r"\S+", text)]
        tokens = list(zip(read.offsets[:-1], read.logps[:-1], strict=True))
        expected = [sum(p for (a, b), p in tokens if a < end and start < b) for start, end in words]
        assert words and found["word_logps"] == pytest.approx(expected, abs=1e-4)


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
