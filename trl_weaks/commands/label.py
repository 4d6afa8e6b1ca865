"""What `trl-weaks label` and `trl-weaks label verify` do with their options."""

import argparse
import os
from pathlib import Path

from .errors import stop
from .label_options import add_options
from .label_servers import asked, check_server_options, is_server, label_with_servers
from .sources import first_line, refuse_missing, refuse_missing_model, refuse_unknown_dataset, refuse_unknown_model

GPU_SHARE = 0.9  # vLLM's own default, shared by all supervisors


def run(options: argparse.Namespace) -> None:
    """`trl-weaks label`; wrong options, files and folders are refused before anything is imported."""
    check_options(options)
    (verify if options.action == "verify" else label)(options)


def run_verify(options: argparse.Namespace) -> None:
    """`trl-weaks verify`, which is `trl-weaks label verify`."""
    options.action = "verify"
    run(options)


def check_options(options: argparse.Namespace) -> None:
    """All that is wrong with the options themselves, and with what they name.

    Raises:
        ValueError: options that contradict each other.
        FileNotFoundError: a path at which there is nothing.
    """
    if options.hub_private_repo and not options.push_to_hub:
        raise ValueError("--hub_private_repo says how to upload; give --push_to_hub too.")
    for name in ("names", "weights"):
        given = getattr(options, name)
        if given and len(given) != len(options.supervisors):
            raise ValueError(f"{len(given)} --{name} for {len(options.supervisors)} --supervisors; one for each.")
    if options.top_p != 1 and options.temperature is None:
        raise ValueError(
            "--top_p narrows sampling, and beams are not sampled; give a temperature too (--temperature)."
        )
    if options.backend == "vllm" and options.max_tokens_in_flight is not None:
        raise ValueError("--max_tokens_in_flight is not for vLLM, which has --gpu_memory_utilization.")
    if (Path(options.output_dir) / "study.json").is_file():
        raise ValueError(f"--output_dir {options.output_dir} holds a study; name a folder of its own for the labels.")
    refuse_missing("--dataset", options.dataset)
    if options.config is not None and Path(options.dataset).is_file():
        raise ValueError(f"--config {options.config}: a file has no configurations; leave it out.")
    check_server_options(options, _defaults())
    for given in options.supervisors:
        if not is_server(given):
            refuse_missing_model("--supervisors", given.partition("@")[0], options.backend != "vllm")


def _defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(["--dataset", "x", "--supervisors", "x", "--output_dir", "x"])


def label(options: argparse.Namespace) -> None:
    """Make the labels, say where they are, upload them if asked."""
    prompts = _inputs(options)
    from ..distributed import processes
    from ..labelling.label_completions import label_completions

    if any(map(is_server, options.supervisors)):
        labels = label_with_servers(options, prompts, asked(options), load_ensemble, _settings(options))
    else:
        labels = label_completions(load_ensemble(options), prompts, **_settings(options))
    if not processes().is_main_process:
        return
    print(f"{len(labels)} rows in {Path(options.output_dir) / 'dataset'}; card in {options.output_dir}/README.md")
    if options.push_to_hub:
        upload(labels, Path(options.output_dir) / "README.md", options.push_to_hub, options.hub_private_repo)
        print(f"uploaded to https://huggingface.co/datasets/{options.push_to_hub}")


def upload(labels, card: Path, repository: str, private: bool | None) -> None:
    """Labels and card (`push_labels`).

    Args:
        private: whether a new repository is; None as the account's or the organisation's default is.

    Raises:
        ValueError: a private repository was asked for, and it exists and is public; nothing is uploaded.
    """
    from ..labelling.storage.push import push_labels

    push_labels(labels, repository, card, private=private)


def verify(options: argparse.Namespace) -> None:
    """Exit status 1 if a label is not given again."""
    prompts = _inputs(options)
    from ..labelling.verify import verify_labels

    report = verify_labels(load_ensemble(options), prompts, share=options.share, **_settings(options))
    print(f"{report.prompts} prompts labelled again; largest difference {report.worst:.2g} nats per token")
    print(f"{report.plainly} of them also without batches, caches and shared prefixes")
    if report.different:
        stop("\n".join(["these labels differ:", *report.different]))


def _inputs(options: argparse.Namespace):
    """The prompts; whether the models are there is asked before their libraries are loaded, which takes seconds."""
    prompts = load_prompts(options)
    for given in options.supervisors:
        if is_server(given):
            continue
        source, _, revision = given.partition("@")
        refuse_unknown_model("--supervisors", source, revision or None)
    return prompts


def load_prompts(options: argparse.Namespace):
    """The dataset of prompts with the columns `example_id` and `prompt`; all that is wrong with its columns comes now,
    before a model is loaded.

    Raises:
        ValueError: a column that is named and not there, or one that labelling cannot carry.
    """
    from ..labelling.prompt_columns import check_columns, with_prompts

    ids, texts = options.id_column or "example_id", options.prompt_column
    data = _read(options, ids, texts)
    if texts in ("prompt", "messages") and "messages" in data.column_names and "prompt" not in data.column_names:
        data, texts = with_prompts(data), "prompt"  # whole conversations
    asked = {"--prompt_column": [texts], "--drop_columns": options.drop_columns}
    asked |= {"--id_column": [options.id_column]} if options.id_column else {}
    for option, names in asked.items():
        for name in names:
            if name not in data.column_names:
                raise ValueError(f"{option}: the dataset has no column {name!r}, only {data.column_names}.")
    used = sorted({texts, ids} & set(options.drop_columns))
    if used:
        raise ValueError(
            f"--drop_columns: {used[0]!r} is the column of the {'prompts' if used[0] == texts else 'ids'}."
        )
    data = data.remove_columns(options.drop_columns)
    data = data.select(range(min(len(data), options.limit or len(data))))
    for given, wanted, option in ((texts, "prompt", "--prompt_column"), (ids, "example_id", "--id_column")):
        if given != wanted and wanted in data.column_names:
            raise ValueError(f"{option} {given}: there is a column {wanted!r} too; add it to --drop_columns.")
        if given != wanted:
            data = data.rename_column(given, wanted)
    if "example_id" not in data.column_names:
        data = data.add_column("example_id", [str(row) for row in range(len(data))])
    try:
        check_columns(data)
    except ValueError as error:
        raise ValueError(f"--dataset {options.dataset}: {error} --drop_columns leaves columns out.") from error
    first = data[0]["prompt"]
    if not isinstance(first, str | list):
        raise ValueError(f"--prompt_column {texts}: row 0 holds {first!r}, where a prompt is text or messages.")
    return data


def _read(options: argparse.Namespace, ids: str, texts: str):
    refuse_unknown_dataset("--dataset", options.dataset)
    from .prompt_files import read_dataset

    try:
        return read_dataset(options.dataset, options.config, options.split, ids, texts)
    except OSError as error:
        raise ValueError(f"--dataset {options.dataset} cannot be read: {first_line(error)}") from error


def load_ensemble(options: argparse.Namespace):
    """The supervisors, each on this process's device.

    A tokenizer without a pad token pads with its end-of-sequence token; padding is masked everywhere.
    """
    from ..supervisors.ensemble import WeakEnsemble

    names = options.names or [None] * len(options.supervisors)
    loaded = [_supervisor(options, *one) for one in zip(options.supervisors, names, strict=True)]
    return WeakEnsemble(loaded, options.weights)


def _supervisor(options: argparse.Namespace, given: str, name: str | None):
    from transformers import AutoTokenizer

    source, _, revision = given.partition("@")
    make = _vllm if options.backend == "vllm" else _transformers
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return make(options, source, revision or None, tokenizer, name)
    except ImportError:  # of vLLM, says what to install
        raise
    except Exception as error:  # whatever a broken checkpoint gives
        raise ValueError(f"--supervisors {given}: cannot be loaded: {first_line(error)}") from error


def _transformers(options: argparse.Namespace, source: str, revision: str | None, tokenizer, name: str | None):
    import torch
    from transformers import AutoModelForCausalLM

    from ..distributed import whole_weights
    from ..inference.padding import MAX_TOKENS
    from ..supervisors.completeness import refuse_incomplete
    from ..supervisors.supervisor import WeakSupervisor

    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    with whole_weights():
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision or "main", dtype=getattr(torch, options.dtype), use_safetensors=True
        )
    refuse_incomplete(model, source, {"revision": revision or "main"})
    budget = MAX_TOKENS if options.max_tokens_in_flight is None else options.max_tokens_in_flight
    return WeakSupervisor(model.to(device), tokenizer, name, budget)


def _vllm(options: argparse.Namespace, source: str, revision: str | None, tokenizer, name: str | None):
    from ..supervisors.vllm import VllmSupervisor

    return VllmSupervisor(
        source,
        tokenizer,
        name,
        revision,
        options.dtype,
        max_candidates=options.num_candidates,
        tensor_parallel_size=options.tensor_parallel_size,
        gpu_memory_utilization=options.gpu_memory_utilization or GPU_SHARE / len(options.supervisors),
    )


def _settings(options: argparse.Namespace) -> dict:
    names = ("mode", "num_candidates", "max_new_tokens", "output_dir", "batch_size", "temperature", "top_p", "seed")
    names += ("unfinished",)
    return {name: getattr(options, name) for name in names}
