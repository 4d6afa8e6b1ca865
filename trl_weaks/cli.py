"""The console script `trl-weaks`.

trl-weaks label --dataset prompts.jsonl --supervisors gpt2-large facebook/opt-1.3b --output_dir labels
trl-weaks label verify (the same arguments)
accelerate launch -m trl_weaks.cli label ...
trl-weaks memory --model meta-llama/Llama-2-7b-hf --zero 3 --gpus 4
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .study.memory import add_arguments, table

FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trl-weaks", description="Weak-to-strong training with several supervisors.")
    commands = parser.add_subparsers(dest="command", required=True)
    label = commands.add_parser("label", help="label prompts with several weak supervisors, or verify labels")
    label.add_argument("action", nargs="?", choices=("run", "verify"), default="run", help="verify: make 1%% again")
    add = label.add_argument
    add("--dataset", required=True, help="Hub id, folder saved to disk, or a .json, .jsonl, .csv or .parquet file")
    add("--config", help="configuration of a Hub dataset")
    add("--split", default="train")
    add("--prompt_column", default="prompt")
    add("--id_column", help="unique ids; the row number if not given and there is no column example_id")
    add("--drop_columns", nargs="*", default=[], help="columns that the labels must not carry, e.g. gold completions")
    add("--limit", type=int, help="only the first rows")
    add("--supervisors", nargs="+", required=True, help="model ids or paths, each with an optional @revision")
    add("--names", nargs="+", help="one name for each supervisor; the last part of its path if not given")
    add("--weights", nargs="+", type=float, help="one weight for each supervisor; equal if not given")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--output_dir", required=True, help="labels are kept here; the same command continues a killed run")
    add("--mode", choices=("independent", "joint"), default="independent")
    add("--num_candidates", type=int, default=5)
    add("--max_new_tokens", type=int, default=64)
    add("--batch_size", type=int, default=16, help="prompts per unit of work")
    add("--max_tokens_in_flight", type=int, help="tokens of one batch, beams included: bounds the memory")
    add("--push_to_hub", metavar="REPO", help="upload labels and card to this dataset repository")
    add("--share", type=float, default=0.01, help="verify: share of the prompts to label again")
    add_arguments(commands.add_parser("memory", help="GPU and host memory that training a model needs"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with its message, without a traceback."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "memory":
            print(table(options))
        else:
            verify(options) if options.action == "verify" else label(options)
    except (ValueError, OSError) as error:
        sys.exit(f"trl-weaks: {error}")


def label(options: argparse.Namespace) -> None:
    """`trl-weaks label`: make the labels, print where they are, upload them if asked."""
    from accelerate import PartialState

    from .labelling.label_completions import label_completions

    labels = label_completions(load_ensemble(options), load_prompts(options), **_settings(options))
    if not PartialState().is_main_process:
        return
    print(f"{len(labels)} rows in {Path(options.output_dir) / 'dataset'}; card in {options.output_dir}/README.md")
    if options.push_to_hub:
        from huggingface_hub import DatasetCard

        labels.push_to_hub(options.push_to_hub)
        DatasetCard.load(Path(options.output_dir) / "README.md").push_to_hub(options.push_to_hub)


def verify(options: argparse.Namespace) -> None:
    """`trl-weaks label verify`: exit status 1 if a label is not given again."""
    from .labelling.verify import verify_labels

    report = verify_labels(load_ensemble(options), load_prompts(options), share=options.share, **_settings(options))
    print(f"{report.prompts} prompts labelled again; largest difference {report.worst:.2g} nats per token")
    if report.different:
        sys.exit("\n".join(["trl-weaks: these labels differ:", *report.different]))


def load_prompts(options: argparse.Namespace):
    """The dataset of prompts with the columns `example_id` and `prompt`."""
    from datasets import load_dataset, load_from_disk

    path = Path(options.dataset)
    if path.is_file():
        if path.suffix not in FORMATS:
            raise ValueError(f"--dataset {path}: unknown ending; use one of {', '.join(FORMATS)}.")
        data = load_dataset(FORMATS[path.suffix], data_files={options.split: str(path)}, split=options.split)
    elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        data = load_from_disk(str(path))
        data = data[options.split] if isinstance(data, dict) else data
    else:
        data = load_dataset(options.dataset, options.config, split=options.split)
    data = data.remove_columns([column for column in options.drop_columns if column in data.column_names])
    data = data.select(range(min(len(data), options.limit))) if options.limit else data
    for given, wanted in ((options.prompt_column, "prompt"), (options.id_column, "example_id")):
        if given and given != wanted:
            if given not in data.column_names:
                raise ValueError(f"the dataset has no column {given!r}, only {data.column_names}.")
            data = data.rename_column(given, wanted)
    if "example_id" not in data.column_names:
        return data.add_column("example_id", [str(row) for row in range(len(data))])
    from datasets import Value

    return data.cast_column("example_id", Value("string"))  # ids in JSON and CSV files are often numbers


def load_ensemble(options: argparse.Namespace):
    """The supervisors, each on this process's device.

    A tokenizer without a pad token pads with its end-of-sequence token; padding is masked everywhere.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .labelling.ensemble import WeakEnsemble
    from .labelling.supervisor import MAX_TOKENS, WeakSupervisor

    names = options.names or [None] * len(options.supervisors)
    if len(names) != len(options.supervisors):
        raise ValueError(f"{len(names)} --names for {len(options.supervisors)} --supervisors; give one for each.")
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    supervisors = []
    for given, name in zip(options.supervisors, names, strict=True):
        source, _, revision = given.partition("@")
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision or "main", dtype=getattr(torch, options.dtype), use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        budget = options.max_tokens_in_flight or MAX_TOKENS
        supervisors.append(WeakSupervisor(model.to(device), tokenizer, name, budget))
    return WeakEnsemble(supervisors, options.weights)


def _settings(options: argparse.Namespace) -> dict:
    names = ("mode", "num_candidates", "max_new_tokens", "output_dir", "batch_size")
    return {name: getattr(options, name) for name in names}


if __name__ == "__main__":
    main()
