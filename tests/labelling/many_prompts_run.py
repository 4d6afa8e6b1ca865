"""Label many prompts with supervisors that answer at once: `python many_prompts_run.py FOLDER PROMPTS`.

Prints the memory held before labelling, the peak, both in bytes, and the rows of the dataset. Pages of mapped files,
which the system takes back when it needs them, do not count.
"""

import copy
import sys
import time
from pathlib import Path
from threading import Thread


class Watch(Thread):
    """Looks at the memory of this process a hundred times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.peak = memory()
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, memory())
            time.sleep(0.01)


def memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def main(folder: Path, count: int) -> None:
    from datasets import Dataset, load_dataset
    from small_supervisors import model_of, tokenizer_of

    from trl_weaks.labelling.label_completions import label_completions
    from trl_weaks.supervisors.ensemble import WeakEnsemble
    from trl_weaks.supervisors.scores import Scored
    from trl_weaks.supervisors.supervisor import WeakSupervisor

    class Quick(WeakSupervisor):
        """Reads prompts with its tokenizer as ever, but answers without its model."""

        def answer(self, prompts, *args, **kwargs):
            return [[(f"{self.name} {prompt[:30]}", True)] * 5 for prompt in prompts]

        def score_fitting(self, prompts, completions, names=None):
            return [Scored([1] * 9, [-0.25] * 9, [(i, i + 1) for i in range(8)] + [(8, 8)]) for _ in completions]

    tokenizer = tokenizer_of("gpt2")
    model = model_of("gpt2", len(tokenizer))
    ensemble = WeakEnsemble([Quick(copy.deepcopy(model), tokenizer, name) for name in "ab"])
    folder.mkdir(parents=True)
    with (folder / "prompts.jsonl").open("w") as file:
        for i in range(count):
            file.write(f'{{"example_id": "example {i}", "prompt": "USER: question number {i} ASSISTANT:"}}\n')
    file, cache = str(folder / "prompts.jsonl"), str(folder / "cache")
    label_completions(ensemble, Dataset.from_dict({"example_id": ["x"], "prompt": ["warm up"]}), max_new_tokens=4)
    data = load_dataset("json", data_files=file, split="train", cache_dir=cache)
    watch = Watch()
    labels = label_completions(ensemble, data, "joint", 5, folder / "out", 4, batch_size=500)
    print(watch.before, watch.peak, len(labels))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
