"""Prompts with a critique or a debate in them, for supervisors that label better what somebody has argued about.

Critique, after arXiv 2605.27483 (abstract read), two calls of a strong model an example: it answers, then criticises
the answer; the supervisor is asked the question with both before it. The paper finds that this recovers most of a
debate and that rebuttals add nothing, provided that the critic tells right from wrong better than the supervisor does,
and that the supervisor takes the critique as a claim to check. So the default words tell it to.

Debate, after arXiv 2501.13124 (digest read): two debaters argue for two answers, in turns (*paper*: 3; more hurt), and
the transcript goes into the prompt. The paper trains four supervisors on gold with transcripts and reports PGR,
against fine-tuning with the auxiliary loss, of SciQ 41.2 -> 76.5, CosmosQA 17.4 -> 56.5, HH 35.0 -> 70.0.

The words of all templates are *ours*. The supervisors should be fine-tuned on prompts of the same form. Students are
trained on the questions alone: `without_arguments` puts them back.

    >>> from datasets import Dataset
    >>> given = Dataset.from_dict({"example_id": ["a"], "prompt": ["2 + 2?"], "answer": ["5"]})
    >>> made = with_critiques(given, "answer", lambda prompts: ["It is 4."], judged="{question} {critique}")
    >>> made["prompt"][0], without_arguments(made)["prompt"][0]
    ('2 + 2? It is 4.', '2 + 2?')
"""

import logging
from collections.abc import Callable, Sequence
from string import Formatter

from datasets import Dataset

from .. import columns
from ..supervisors.reading.messages import Prompt
from ..supervisors.supervisor import WeakSupervisor

logger = logging.getLogger(__name__)
Ask = Callable[[Sequence[Prompt]], Sequence[str]]  # prompts -> one text each

QUESTION, TRANSCRIPT = "question_alone", "transcript"  # columns that the builders add
CRITICISE = "{question}\n\nSomebody answered: {answer}\n\nIs that right? Name the errors, or say that there are none."
JUDGE = (
    "{question}\n\nSomebody answered: {answer}\n\nA critic, who may be wrong, says: {critique}\n\nCheck both, and "
    "answer the question.\n"
)
ARGUE = (
    "{question}\n\nYou defend the answer: {answer}\nYour opponent defends: {other}\n\nSo far:\n{transcript}\n\n"
    "Give your strongest argument, briefly."
)
DECIDE = "{question}\n\nTwo debaters argue, one of whom is wrong:\n{transcript}\n\nAnswer the question.\n"
TURNS = 3  # *paper*


def asking(model: WeakSupervisor, max_new_tokens: int = 128, batch_size: int = 16) -> Ask:
    """A model as what the builders ask: its best answer to each prompt (128 tokens, 16 at once: *ours*)."""

    def ask(prompts: Sequence[Prompt]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            found += [c[0][0] for c in model.answer(batch, num_candidates=1, max_new_tokens=max_new_tokens)]
        return found

    return ask


def with_critiques(
    dataset: Dataset,
    answer: str | Ask,
    critic: Ask,
    column: str = columns.PROMPT,
    criticised: str = CRITICISE,
    judged: str = JUDGE,
) -> Dataset:
    """The dataset with an answer and its critique in every prompt, to be labelled instead of it.

    Args:
        answer: the column that holds the answers, or what gives them: asked the question as it stands.
        critic: asked `criticised` of every example. See [`asking`] for a model.
        column: `prompt` (text or messages) or `text`, of classes. In messages the last one is rewritten.
        criticised: template with `{question}` and `{answer}`.
        judged: template with `{question}` and `{critique}`, and `{answer}` where it is to be seen.

    Returns:
        The rows in their order, with the columns `question_alone` (what [`without_arguments`] puts back) and
        `transcript` (the critique). Where the critique is empty the prompt stays as it was, with a warning.

    Raises:
        ValueError: before anything is asked: no rows, a missing or taken column, an empty prompt, a template without
            its fields. After it: not one text for each prompt.
    """
    _check(dataset, column, answer if isinstance(answer, str) else None)
    _check_template("criticised", criticised, {"question", "answer"}, {"question", "answer"})
    _check_template("judged", judged, {"question", "critique"}, {"question", "critique", "answer"})
    prompts = dataset[column][:]
    answers = dataset[answer][:] if isinstance(answer, str) else _asked("answer", answer, prompts)
    pairs = list(zip(prompts, answers, strict=True))
    told = _asked("critic", critic, [_filled(p, criticised, answer=a) for p, a in pairs])
    made = [
        _filled(p, judged, answer=a, critique=text) if text else p for (p, a), text in zip(pairs, told, strict=True)
    ]
    return _built(dataset, column, made, told)


def with_debate(
    dataset: Dataset,
    answers: tuple[str, str],
    debaters: tuple[Ask, Ask],
    column: str = columns.PROMPT,
    turns: int = TURNS,
    argued: str = ARGUE,
    judged: str = DECIDE,
) -> Dataset:
    """The dataset with a debate about two answers in every prompt, to be labelled instead of it.

    Args:
        answers: the columns of the two answers; `debaters` defend them in this order. For a yes or no, columns of
            "yes" and "no".
        turns: of each debater, at least 1.
        argued: template with `{question}`, `{answer}`, and where wanted `{other}` and `{transcript}`.
        judged: template with `{question}` and `{transcript}`.

    Returns, raises:
        As [`with_critiques`]; besides, fewer than one turn, or answers that are the same (row named).
    """
    for name in answers:
        _check(dataset, column, name)
    if turns < 1:
        raise ValueError(f"turns={turns}: a debate has at least one.")
    _check_template("argued", argued, {"question", "answer"}, {"question", "answer", "other", "transcript"})
    _check_template("judged", judged, {"question", "transcript"}, {"question", "transcript"})
    prompts, sides = dataset[column][:], [dataset[name][:] for name in answers]
    for row, (first, second) in enumerate(zip(*sides, strict=True)):
        if first == second:
            raise ValueError(f"row {row}: both answers are {first!r}; there is nothing to debate.")
    said: list[list[str]] = [[] for _ in prompts]
    for turn in range(turns):
        for side, debater in enumerate(debaters):
            asked = [
                _filled(p, argued, answer=a, other=b, transcript="\n".join(lines))
                for p, a, b, lines in zip(prompts, sides[side], sides[1 - side], said, strict=True)
            ]
            texts = _asked(f"debater {side + 1}, turn {turn + 1}", debater, asked)
            for lines, answer, text in zip(said, sides[side], texts, strict=True):
                lines += [f"For {answer!r}: {text}"] if text else []
    told = ["\n".join(lines) for lines in said]
    made = [_filled(p, judged, transcript=text) if text else p for p, text in zip(prompts, told, strict=True)]
    return _built(dataset, column, made, told)


def without_arguments(labels: Dataset, column: str = columns.PROMPT) -> Dataset:
    """Labels of such prompts with the questions alone, as a student is to be trained.

    Raises:
        ValueError: the labels have no column `question_alone`.
    """
    if QUESTION not in labels.column_names:
        raise ValueError(f"the labels have no column {QUESTION!r}; they were not made of prompts with arguments.")
    order = [name for name in labels.column_names if name not in (QUESTION, TRANSCRIPT)]
    bare = labels.remove_columns([name for name in (column, TRANSCRIPT) if name in labels.column_names])
    return bare.rename_column(QUESTION, column).select_columns(order)


def _check(dataset: Dataset, column: str, answer: str | None) -> None:
    if not len(dataset):
        raise ValueError("the dataset has no rows.")
    for name in [column] if answer is None else [column, answer]:
        if name not in dataset.column_names:
            raise ValueError(f"there is no column {name!r}; there are {dataset.column_names}.")
        for row, value in enumerate(dataset[name]):
            if not value:
                raise ValueError(f"row {row}: the column {name!r} is empty; drop the row.")
    for name in (QUESTION, TRANSCRIPT):
        if name in dataset.column_names:
            raise ValueError(f"the dataset already has a column {name!r}, which is written here; rename or remove it.")


def _check_template(name: str, template: str, needed: set[str], known: set[str]) -> None:
    fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    for problem, missing in (("lacks", needed - fields), ("has an unknown", fields - known)):
        if missing:
            raise ValueError(f"`{name}` {problem} {{{min(missing)}}}; a literal brace is written twice.")


def _asked(who: str, ask: Ask, prompts: Sequence[Prompt]) -> list[str]:
    found = list(ask(prompts))
    if len(found) != len(prompts) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"{who}: gave {len(found)} answers to {len(prompts)} prompts; give one text for each.")
    return [text.strip() for text in found]


def _filled(prompt: Prompt, template: str, **values: str) -> Prompt:
    if isinstance(prompt, str):
        return template.format(question=prompt.strip(), **values)
    asked = template.format(question=prompt[-1]["content"].strip(), **values)
    return [*prompt[:-1], {**prompt[-1], "content": asked}]


def _built(dataset: Dataset, column: str, prompts: list[Prompt], transcripts: list[str]) -> Dataset:
    silent = sum(not text for text in transcripts)
    if silent:
        logger.warning("%d of %d prompts stay as they were: nothing was argued about them.", silent, len(prompts))
    order = dataset.column_names
    made = dataset.rename_column(column, QUESTION).add_column(TRANSCRIPT, transcripts)
    made = made.add_column(column, prompts, feature=dataset.features[column])
    return made.select_columns([*order, QUESTION, TRANSCRIPT])
