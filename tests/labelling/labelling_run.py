"""A labelling run in a process of its own: `python labelling_run.py FOLDER PROMPTS`, or the same under torchrun."""

import sys


def main(folder: str, count: int) -> None:
    import torch
    from datasets import Dataset
    from small_supervisors import model_of, tokenizer_of

    from trl_weaks.labelling.label_completions import label_completions
    from trl_weaks.supervisors.ensemble import WeakEnsemble
    from trl_weaks.supervisors.supervisor import WeakSupervisor

    torch.set_num_threads(1)
    supervisors = []
    for seed, shape in enumerate(("gpt2", "opt", "llama")):
        tokenizer = tokenizer_of(shape)
        supervisors.append(WeakSupervisor(model_of(shape, len(tokenizer), seed), tokenizer, shape))
    texts = [
        f"USER: turn on the light in the kitchen, please, number {i}{' now' * (i % 5)} ASSISTANT:"
        for i in range(count)
    ]
    data = Dataset.from_dict({"example_id": [f"e{i}" for i in range(count)], "prompt": texts})
    label_completions(WeakEnsemble(supervisors), data, "joint", 3, folder, 6, batch_size=2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
