"""From the stages of a finished run to its report."""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk

from trl_weaks import alignment, columns
from trl_weaks.aggregation.preferences import judge_pairs
from trl_weaks.distributed import processes
from trl_weaks.metrics.agreement import slot_agreement
from trl_weaks.metrics.slu_f1 import slu_f1, slu_f1_counts
from trl_weaks.study.data.prompts import FILLER_LEAD
from trl_weaks.study.data.targets import decode_slots, encode_slots
from trl_weaks.study.environment import describe_environment
from trl_weaks.study.pipeline.models import TINY
from trl_weaks.study.pipeline.reporting import TINY_NOTE, refuse_unfinished, stage_seconds
from trl_weaks.study.report import write_report as write
from trl_weaks.study.slot_filling.config import SlotFillingConfig
from trl_weaks.study.slot_filling.evaluation import read_predictions
from trl_weaks.study.slot_filling.labels import completions_by_supervisor
from trl_weaks.study.slot_filling.methods import PREFERENCE, choose
from trl_weaks.study.slot_filling.pipeline import SlotFillingRun
from trl_weaks.study.slot_filling.sources import Source
from trl_weaks.study.slot_filling.training import PAIRS
from trl_weaks.study.stages import Stage
from trl_weaks.study.story import Story

LABELS = {
    "ceiling": "Ceiling: student on gold labels of half B",
    "strong_on_a": "Student on gold labels of half A",
    "untrained": "Student without supervision",
    "cdpo": "Bayesian multi-weak + auxiliary, then cDPO",
}


def systems(config: SlotFillingConfig, runs: Sequence[SlotFillingRun]) -> list[dict[str, Any]]:
    """Every evaluated system with its per-seed, per-example counts, in the order of the table."""
    chosen = {method.name: method for method in choose(config.methods, config.supervisor_names)}
    found = []
    for name in runs[0].systems:
        counts, unparsable = [], []
        for run in runs:
            test = run.splits.test
            rows = read_predictions(run.systems[name].folder, test)
            predictions = [[tuple(slot) for slot in row["slots"]] for row in rows]
            counts.append(slu_f1_counts(predictions, [list(example.slots) for example in test]))
            unparsable.append([not row["parsed"] for row in rows])
        system = {"name": name, "samples": np.stack(counts), "unparsable": np.array(unparsable)}
        if name in config.supervisor_names:
            system |= {"label": f"Weak supervisor, {name}", "role": "weak"}
        elif name in chosen:
            method = chosen[name]
            system |= {"label": method.label, "role": "method"}
            if method.supervisors:
                system["supervisors"] = list(method.supervisors)
        else:
            role = "ceiling" if name == "ceiling" else "method" if name == "cdpo" else "baseline"
            system |= {"label": LABELS[name], "role": role}
        found.append(system)
    return found


def supervisor_agreement(labels: Dataset) -> dict[str, Any]:
    """How often the supervisors say the same on half B."""
    answers = completions_by_supervisor(labels)
    shared = sorted(set.intersection(*(set(found) for found in answers.values())))
    if len(answers) < 2 or not shared:
        return {}
    return slot_agreement({name: [decode_slots(found[i])[0] for i in shared] for name, found in answers.items()})


def word_confidences(labels: Dataset, gold: dict[str, str]) -> dict[str, tuple[list[float], list[bool]]]:
    """Per supervisor: the confidence of each word it wrote, and whether the gold completion has that word there.

    Words are matched by a longest-common-subsequence alignment of the two completions.
    """
    found: dict[str, tuple[list[float], list[bool]]] = {}
    for row in labels:
        text = row[columns.COMPLETION]
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        words = [text[start:end] for start, end in spans]
        if not words:  # white space alone
            continue
        blocks = SequenceMatcher(
            None, words, gold[row[columns.EXAMPLE_ID]].split(), autojunk=False
        ).get_matching_blocks()
        right = {i for block in blocks for i in range(block.a, block.a + block.size)}
        for name, offsets, logps in zip(
            row[columns.SUPERVISORS], row[columns.OFFSETS], row[columns.LOGPS], strict=True
        ):
            confidences, correct = found.setdefault(name, ([], []))
            units = alignment.transfer_logps([tuple(o) for o in offsets], logps, spans, text=text, unit="word")
            confidences += units.exp().clamp(max=1.0).tolist()
            correct += [i in right for i in range(len(words))]
    return found


def preference_details(run: SlotFillingRun) -> dict[str, Any]:
    """What the preference stage counted, and how often its pairs are right by the gold SLU-F1 of half B."""
    stage = run.systems.get(PREFERENCE)
    if stage is None:
        return {}
    folder = stage.after[0].folder
    gold = {example.id: list(example.slots) for example in run.splits.half_b}

    def judge(row: Mapping[str, Any], text: str) -> float:
        return float(slu_f1([decode_slots(text)[0]], [gold[row[columns.EXAMPLE_ID]]])["slu_f1"])

    counted = json.loads((folder / PAIRS).read_text(encoding="utf-8"))
    judged = judge_pairs(load_from_disk(str(folder / "preferences" / "dataset")), judge)
    return counted | {f"against gold: {name}": value for name, value in judged.items() if name != "pairs"}


def write_report(
    config: SlotFillingConfig, source: Source, runs: Sequence[SlotFillingRun], stages: Sequence[Stage], command: str
) -> None:
    """Write `report.md`, `results.json` and the figures; the first process only.

    Raises:
        ValueError: a system has not been evaluated yet; names the missing stages.
    """
    refuse_unfinished(runs)
    if not processes().is_main_process:
        return
    labels = runs[0].labels("independent")
    lead = FILLER_LEAD[config.prompt]
    gold = {example.id: encode_slots(example.slots, lead) for example in runs[0].splits.half_b}
    write(
        config.output_dir,
        systems(config, runs),
        seeds=config.seeds,
        config=config.snapshot(),
        environment=describe_environment(),
        agreement=supervisor_agreement(labels),
        word_confidences=word_confidences(labels, gold),
        story=Story(
            title="Weak-to-strong slot filling",
            about=about(config, source),
            notes=[TINY_NOTE] if config.student_model.startswith(TINY) else [],
            command=command,
            stage_seconds=stage_seconds(stages),
            preference=preference_details(runs[0]),
        ),
    )


def about(config: SlotFillingConfig, source: Source) -> list[str]:
    """Sentences on the data and the models."""
    sentences = [
        f"Data: {source.description}",
        f"{config.num_gold} gold utterances train the supervisors (half A); the supervisors label {config.num_weak} "
        "others (half B), whose gold labels only the ceiling sees. The test split is the same for every seed.",
        f"Weak supervisors: {', '.join(config.weak_models)}. Student: {config.student_model}.",
        "Agreement and calibration are measured on half B of the first seed.",
    ]
    if config.student_model.startswith(TINY):
        where = (
            "dialogue turns of another ontology" if config.pretrain_dir else "unlabelled sentences of the same task"
        )
        sentences.append(
            f"What should make the student stronger than its supervisors is size and pre-training on {where}, "
            "with words replaced, so that it learns to copy rather than to remember. It saw no label of the task; "
            "whether it is stronger, the ceiling tells."
            + (" The supervisors had less of the same." if config.weak_pretraining else "")
        )
    return sentences
