"""`trl-weaks preflight`: which supervisors suit a student, measured before anything is trained.

For classes the student stands for the best it could be without moving its body: a linear head on its states, fitted in
closed form to a supervisor's probabilities on these prompts. Heads of that kind are a convex class, as the bound asks;
with no more prompts than states are wide, the head fits nearly anything and misfits are small for every supervisor.
"""

import argparse
import json
import math
from pathlib import Path

from ..markdown import table
from .sources import refuse_missing, refuse_missing_model, refuse_unknown_model

COLUMNS = {
    "supervisor": "supervisor",
    "kernel_score": "kernel score",
    "misfit": "misfit",
    "reverse_kl_misfit": "reverse-KL misfit (nats)",
    "vacuity": "mean vacuity",
    "accuracy": "accuracy",
    "weak_error": "squared error",
    "student_error_bound": "bound of the student's",
    "reverse_gap": "reverse gap (nats per answer)",
    "word_distance": "word distance to the student",
}
NOTES = {
    "kernel_score": "Kernel score: what the student sees and the supervisor does not; lower is better.",
    "misfit": "Misfits: of a ridge-regression head on the student's states, fitted to the supervisor's probabilities.",
    "student_error_bound": "Bound: squared error less misfit, for such a head; rows are ranked by it.",
    "reverse_gap": "Reverse gap: log-probability of the untrained student's own answers, less the supervisor's.",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--supervisors", nargs="+", required=True, help="folders or Hub ids: all classifiers, or all language models")
    add("--student", required=True, help="folder or Hub id of the student, untrained")
    add("--prompts", required=True, help="a .jsonl, .json, .csv or .parquet file of at least two prompts")
    add("--prompt_column", default="prompt", help="of the prompts (prompt)")
    add("--gold", type=Path, help="for classifiers: a file with example_id and label, a label for every prompt")
    add(
        "--limit",
        type=int,
        default=1000,
        help="most prompts, from the first on; time grows with its cube (1000: ours)",
    )
    add("--max_new_tokens", type=int, default=32, help="of a language model's answer (32: ours)")
    add("-o", "--output", type=Path, help="also write the rows to this .json file")


def run(options: argparse.Namespace) -> None:
    """Print the ranked table; write it where a file is named.

    Raises:
        ValueError: supervisors of two kinds, gold that does not fit, or prompts that cannot be used.
        FileNotFoundError: a path at which there is nothing.
    """
    check_options(options)
    prompts, ids = _prompts(options)
    from ..supervisors.loading import classifies

    kinds = {given: classifies(given) for given in options.supervisors}
    if len(set(kinds.values())) > 1:
        odd = next(given for given, kind in kinds.items() if kind != kinds[options.supervisors[0]])
        raise ValueError(f"--supervisors: {options.supervisors[0]} and {odd} are a classifier and a language model.")
    if kinds[options.supervisors[0]]:
        rows = _of_classifiers(options, prompts, ids)
    else:
        if options.gold:
            raise ValueError("--gold: answers of language models are ranked without gold; leave it out.")
        rows = _of_language_models(options, prompts, ids)
    rows.sort(key=lambda row: row.get("student_error_bound", row["kernel_score"]))
    print(markdown(rows))
    width = rows[0]["student_width"]
    if len(prompts) <= width:
        print(
            f"Few prompts: {len(prompts)} for states of width {width}; a head fits nearly anything, compare with care."
        )
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        found = {"student": options.student, "prompts": len(prompts), "pairs": rows}
        options.output.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_options(options: argparse.Namespace) -> None:
    """All that is wrong with the options themselves, and with what they name; nothing is loaded for it."""
    if options.limit < 2:
        raise ValueError(f"--limit {options.limit}: kernels compare examples; take at least two.")
    if options.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens {options.max_new_tokens} must be at least 1.")
    if len(set(options.supervisors)) < len(options.supervisors):
        raise ValueError("--supervisors: one is named twice.")
    if options.output and options.output.suffix != ".json":
        raise ValueError(f"-o {options.output}: write a .json file.")
    refuse_missing("--prompts", options.prompts)
    if options.gold:
        refuse_missing("--gold", str(options.gold))
    named = [*(("--supervisors", given) for given in options.supervisors), ("--student", options.student)]
    for option, given in named:
        refuse_missing_model(option, given, weights=True)
    for option, given in named:
        refuse_unknown_model(option, given)


def markdown(rows: list[dict]) -> str:
    """The table, best first, with what its columns mean."""
    shown = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [[row.get(name, "") for name in shown] for row in rows]
    told = [[f"{c:.4f}" if isinstance(c, float) else c for c in row] for row in cells]
    return "\n".join(
        [table([COLUMNS[name] for name in shown], told), "", *(text for name, text in NOTES.items() if name in shown)]
    )


def _prompts(options: argparse.Namespace) -> tuple[list, list[str]]:
    from .prompt_files import read_dataset

    data = read_dataset(options.prompts, None, "train", "example_id", options.prompt_column)
    if options.prompt_column not in data.column_names:
        raise ValueError(f"--prompt_column: there is no column {options.prompt_column!r}, only {data.column_names}.")
    data = data.select(range(min(len(data), options.limit)))
    if len(data) < 2:
        raise ValueError(
            f"--prompts {options.prompts}: {len(data)} prompt; kernels compare examples, give two or more."
        )
    for row, prompt in enumerate(data[options.prompt_column]):
        if not isinstance(prompt, str | list) or not prompt:
            raise ValueError(
                f"--prompts {options.prompts}, row {row}: {prompt!r}, where a prompt is text or messages."
            )
    ids = data["example_id"] if "example_id" in data.column_names else map(str, range(len(data)))
    return list(data[options.prompt_column]), list(ids)


def _gold(options: argparse.Namespace, ids: list[str], classes: list):
    import numpy as np

    from ..labelling.sources.tables import as_id, read_table
    from ..supervisors.class_names import class_id

    rows = read_table(options.gold, "--gold", ("example_id", "label"), ())
    labels = {as_id(row["example_id"], "--gold", i, "example_id"): row["label"] for i, row in enumerate(rows)}
    if len(labels) < len(rows):
        raise ValueError(f"--gold {options.gold}: an example_id is there twice.")
    missing = [example for example in ids if example not in labels]
    if missing:
        raise ValueError(f"--gold {options.gold}: {len(missing)} prompts have no label, such as {missing[0]!r}.")
    return np.eye(len(classes))[[class_id(labels[example], classes, example) for example in ids]]


def _of_classifiers(options: argparse.Namespace, prompts: list, ids: list[str]) -> list[dict]:
    from ..supervisors.classifier import WeakClassifier

    weak = [WeakClassifier.from_pretrained(given, name=given) for given in options.supervisors]
    for one in weak[1:]:
        if (one.num_classes, one.class_names) != (weak[0].num_classes, weak[0].class_names):
            raise ValueError(
                f"--supervisors: {one.name} has the classes {one.class_names or one.num_classes}, "
                f"{weak[0].name} {weak[0].class_names or weak[0].num_classes}."
            )
    gold = None
    if options.gold:
        gold = _gold(options, ids, weak[0].class_names or list(range(weak[0].num_classes)))
    student = _student(options.student, weak[0].num_classes)
    states = student.hidden_states(prompts, ids)
    return [_class_row(one, prompts, ids, states, gold) for one in weak]


def _student(path: str, classes: int):
    """A classifier, or a decoder with a new linear head, which its states do not depend on."""
    from transformers import AutoConfig

    from ..supervisors.classifier import WeakClassifier
    from ..supervisors.loading import classifies

    if classifies(path):
        return WeakClassifier.from_pretrained(path, name=path)
    architectures = AutoConfig.from_pretrained(path).architectures or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise ValueError(
            f"--student {path} is a {' or '.join(architectures) or 'model of no named architecture'}: what its "
            "classification head reads would be drawn at random. Give a classifier or a causal language model."
        )
    return WeakClassifier.from_pretrained(path, name=path, num_labels=classes)


def _kernel_score(student, weak, name: str) -> float:
    from ..metrics import kernel_score

    try:
        return kernel_score(student.numpy(), weak.numpy())
    except ValueError as error:
        raise ValueError(f"--student and --supervisors {name}: {error}") from error


def _class_row(weak, prompts: list, ids: list[str], student_states, gold) -> dict:
    from ..metrics import misfit, misfit_bound, principal_kernel, reverse_kl_misfit
    from ..metrics.agreement import right

    predicted = weak.predict(prompts, ids)
    taught = predicted.probabilities.double().numpy()
    taught = taught / taught.sum(1, keepdims=True)
    score = _kernel_score(student_states, weak.hidden_states(prompts, ids), weak.name)
    mean = taught.mean(0)
    learnt = mean + principal_kernel(student_states) @ (taught - mean)
    within = learnt.clip(min=0.0)
    row = {
        "supervisor": weak.name,
        "student_width": student_states.shape[1],
        "kernel_score": score,
        "misfit": misfit(learnt, taught),
        "reverse_kl_misfit": reverse_kl_misfit(within / within.sum(1, keepdims=True), taught),
    }
    if predicted.vacuity is not None:
        row["vacuity"] = float(predicted.vacuity.double().mean())
    if gold is not None:
        row["accuracy"] = float(right(taught, gold.argmax(1)).mean())
        row["weak_error"] = misfit(taught, gold)
        row["student_error_bound"] = misfit_bound(row["weak_error"], row["misfit"])
    return row


def _of_language_models(options: argparse.Namespace, prompts: list, ids: list[str]) -> list[dict]:
    from ..metrics import pairwise_word_distance
    from ..supervisors.supervisor import WeakSupervisor
    from ..units import logps_of_text

    student = WeakSupervisor.from_pretrained(options.student, name=options.student)
    own = [found[0][0] for found in student.answer(prompts, 1, options.max_new_tokens, ids)]
    by_student = [sum(logps_of_text(read.offsets, read.logps)) for read in student.score(prompts, own, ids)]
    rows = []
    for given in options.supervisors:
        weak = WeakSupervisor.from_pretrained(given, name=given)
        answers = [found[0][0] for found in weak.answer(prompts, 1, options.max_new_tokens, ids)]
        by_weak = [sum(logps_of_text(read.offsets, read.logps)) for read in weak.score(prompts, own, ids)]
        states = [model.hidden_states(prompts, answers, ids) for model in (student, weak)]
        rows.append(
            {
                "supervisor": given,
                "student_width": states[0].shape[1],
                "kernel_score": _kernel_score(*states, given),
                "reverse_gap": math.fsum(s - w for s, w in zip(by_student, by_weak, strict=True)) / len(prompts),
                "word_distance": pairwise_word_distance([answers, own])[0][1],
            }
        )
    return rows
