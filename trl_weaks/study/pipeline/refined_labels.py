"""Iterative label refinement in a study: two half students answer each other's prompts, and the committee judges."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset
from peft import LoraConfig

from trl_weaks.columns import EXAMPLE_ID, PROMPT
from trl_weaks.distributed import processes
from trl_weaks.labelling.refinement import SHARE, cross_halves, proposals, refined
from trl_weaks.study.config import CompletionStudyConfig
from trl_weaks.study.files import json_bytes, read_json_lines, write_atomically
from trl_weaks.study.methods import Method
from trl_weaks.study.pipeline.models import Loaded, ModelFactory
from trl_weaks.study.pipeline.students import completions as training
from trl_weaks.study.stages import Stage
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

REFINED = "refined"  # the labels' name, as methods give it
FROM = "joint"  # the labels that are refined: one a prompt
ANSWERS, COUNTED = "answers.jsonl", "refinement.json"
HALVES = ("first", "second")


class OfText(Protocol):
    """What refinement needs of the run of a completion task."""

    config: CompletionStudyConfig
    factory: ModelFactory
    seed: int

    @property
    def root(self) -> Path: ...

    @property
    def lora(self) -> LoraConfig | None: ...

    def labels(self, mode: str) -> Dataset: ...


@dataclass(frozen=True)
class Refinement:
    """One seed's stages.

    Args:
        run: of the completion task.
        spec: what all of them depend on.
        method: the half students train as it will, with all labels of their half; the first that names these labels.
        student: makes an untrained one.
        ensemble: the committee, from the stages of the supervisors.
    """

    run: OfText
    spec: Mapping[str, Any]
    method: Method
    student: Callable[[], Loaded]
    ensemble: Callable[[Sequence[Stage]], WeakEnsemble]

    def stages(self, labels: Stage, weak: Sequence[Stage], base: tuple[Stage, ...]) -> dict[str, Stage]:
        """A stage for each half, and the one that judges, by name of the labels."""
        c, root = self.run.config, self.run.root / f"labels-{REFINED}"
        spec = dict(self.spec) | {"from": FROM, "beams": c.eval_beams, "method": self.method.spec()}
        spec["training"] = self.method.over(c.student_training or {})
        halves = {
            f"{REFINED}, {name} half": Stage(
                f"student on the {name} half of the labels",
                root / name,
                spec | {"half": number},
                partial(self.answer_other_half, number),
                (labels, *base),
            )
            for number, name in enumerate(HALVES)
        }
        folders = [half.folder for half in halves.values()]
        action = partial(self.judge, folders, weak)
        after = (*halves.values(), labels, *weak)
        judged = Stage("refined labels", root / "judged", dict(self.spec) | {"share": SHARE}, action, after)
        return halves | {REFINED: judged}

    def answer_other_half(self, number: int, folder: Path) -> None:
        """Train on one half, as the method would on all, and answer the prompts of the other."""
        run, c = self.run, self.run.config
        halves = cross_halves(run.labels(FROM), run.seed)
        own, other = halves[number], halves[1 - number]
        settings = dict(c.student_training or {})
        training.train_on_weak(self.student(), own, self.method, settings, folder, run.seed, run.lora)
        model = WeakSupervisor(*run.factory.trained(folder), name=folder.name)
        answers: list[tuple[str, bool]] = []
        prompts = other[PROMPT][:]
        for start in range(0, len(prompts), c.generation_batch_size):
            batch = prompts[start : start + c.generation_batch_size]
            found = model.answer(batch, num_candidates=c.eval_beams, max_new_tokens=c.max_new_tokens)
            answers += [candidates[0] for candidates in found]
        if processes().is_main_process:
            lines = [
                json.dumps({"id": example, "text": text, "finished": finished}, ensure_ascii=False) + "\n"
                for example, (text, finished) in zip(other[EXAMPLE_ID][:], answers, strict=True)
            ]
            write_atomically(folder / ANSWERS, "".join(lines).encode())

    def judge(self, halves: Sequence[Path], weak: Sequence[Stage], folder: Path) -> None:
        """The committee reads the answers, and replaces the labels to which it clearly prefers them."""
        if not processes().is_main_process:
            return
        labels, ensemble = self.run.labels(FROM), self.ensemble(weak)
        said: dict[str, Mapping[str, Any]] = {}
        for half in halves:
            said |= {row["id"]: row for row in read_json_lines(half / ANSWERS)}
        ids = labels[EXAMPLE_ID][:]
        answers = [(said[example]["text"], said[example]["finished"]) for example in ids]
        proposed = proposals(ensemble, ids, labels[PROMPT][:], answers)
        weights = dict(zip(ensemble.names, ensemble.weights, strict=True))
        found, counted = refined(labels, proposed, weights)
        found.save_to_disk(str(folder / REFINED))
        write_atomically(folder / COUNTED, json_bytes(counted))


def refined_folder(root: Path) -> Path:
    """Where the judged labels of a seed lie, for `load_from_disk`."""
    return root / f"labels-{REFINED}" / "judged" / REFINED
