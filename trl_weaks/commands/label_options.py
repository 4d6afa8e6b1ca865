"""The options of `trl-weaks label`, as a stranger reads them."""

import argparse

from ..aggregation.answers.completions import COMPLETION_AGGREGATORS

DESCRIPTION = """\
Label prompts with several weak supervisors: every model answers every prompt, every model reads every answer, and the
result is a dataset that a stock TRL SFTTrainer trains on and WeakSupervisionTrainer reads with all confidences.

  trl-weaks label --dataset prompts.jsonl --supervisors gpt2 facebook/opt-125m --output_dir labels
  accelerate launch --num_processes 2 -m trl_weaks.cli label ...       the same arguments; the processes share the work
  torchrun --nproc_per_node 2 -m trl_weaks.cli label ...               the same without GPUs (accelerate starts one)
  trl-weaks label verify ...                                           the same arguments; label a random 1 % again
  trl-weaks label --supervisors gpt2 http://localhost:8000/v1#model    local models and models behind servers together

A line of prompts.jsonl is {"example_id": "1", "prompt": "USER: wake me at nine ASSISTANT:"}; a prompt may also be a
list of messages. A killed run goes on with the same command. Where a default comes from stands in brackets: the paper
is arXiv 2406.03199."""

EPILOG = """\
In --output_dir: labels/ (append-only, with checksums), dataset/ (Arrow and Parquet: datasets.load_from_disk of it, or
load_dataset of --output_dir), and README.md, the dataset card. Memory: the models, a batch of --max_tokens_in_flight
and, for each model, shared prefixes of at most as many tokens again (or the longest one); 100 bytes a prompt. With
servers: their answers are in answers/, and the labels of local models beside them in local/; confidence_source says
where each confidence comes from."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of `trl-weaks label` and `trl-weaks label verify`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    text = "run (the default) makes labels; verify makes a share of kept labels again, compares, and looks for gaps"
    parser.add_argument("action", nargs="?", choices=("run", "verify"), default="run", help=text)
    _add_prompts(parser.add_argument_group("prompts").add_argument)
    _add_supervisors(parser.add_argument_group("supervisors").add_argument)
    _add_servers(parser.add_argument_group("servers (OpenAI-compatible)").add_argument)
    _add_answers(parser.add_argument_group("answers").add_argument)
    _add_work(parser.add_argument_group("work and output").add_argument)


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """The same for `trl-weaks verify`."""
    add_options(parser)
    parser.description = "Make a share of the labels again and compare; the arguments are those that made them."


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


_at_least_one.__name__ = "number"  # argparse says "invalid number value: 'x'"


def _add_prompts(add) -> None:
    add("--dataset", required=True, help="Hub id, folder saved to disk, or a .json, .jsonl, .csv or .parquet file")
    add("--config", help="configuration of a Hub dataset")
    add("--split", default="train", help="split of the dataset (train)")
    add(
        "--prompt_column",
        default="prompt",
        help="text, lists of messages, or whole conversations in messages (prompt)",
    )
    add("--id_column", help="unique ids (example_id; the row number where there is no such column)")
    add("--drop_columns", nargs="*", default=[], help="columns not to carry into the labels, e.g. gold completions")
    add("--limit", type=_at_least_one, help="only the first rows")


def _add_supervisors(add) -> None:
    sources = "Hub ids or folders, each with an optional @revision; or servers, http://host:8000/v1#model"
    add("--supervisors", nargs="+", required=True, help=sources)
    add("--names", nargs="+", help="one name for each supervisor (the last part of its path)")
    add("--weights", nargs="+", type=float, help="one weight for each supervisor (equal: ours)")
    types = ("float32", "bfloat16", "float16")
    add("--dtype", choices=types, default="float32", help="of the weights (float32: ours)")
    add("--backend", choices=("transformers", "vllm"), default="transformers", help="vllm: GPUs, installed apart")
    add("--tensor_parallel_size", type=_at_least_one, default=1, help="vllm: GPUs that share each model (1)")
    share = "vllm: share of the GPU for each model (0.9 over the number of supervisors: ours)"
    add("--gpu_memory_utilization", type=float, help=share)


def _add_servers(add) -> None:
    add("--api", choices=("chat", "completions"), default="chat", help="chat: a text prompt becomes a message (chat)")
    add("--system", help="a system message before every prompt; chat only")
    add(
        "--samples",
        type=_at_least_one,
        default=1,
        help="answers to each prompt; with --no_logprobs their shares are confidences (1)",
    )
    add("--no_logprobs", action="store_true", help="do not ask for log-probabilities")
    add("--top_logprobs", type=int, default=0, help="alternatives of each token to ask for, at most 20 (0)")
    add("--concurrency", type=_at_least_one, default=8, help="requests at once to each server (8: ours)")
    add("--requests_per_minute", type=float, help="to each server (no limit)")
    add("--retries", type=int, default=5, help="of a request that failed, with waits that double (5: ours)")
    add("--timeout", type=float, default=120.0, help="seconds until a request counts as failed (120: ours)")
    add("--max_total_tokens", type=_at_least_one, help="stop when so many are used, of prompts and answers together")
    add("--max_cost", type=float, help="stop when so much is spent, by the prices given")
    add("--price_in", type=float, default=0.0, help="of a million tokens of prompts (0)")
    add("--price_out", type=float, default=0.0, help="of a million tokens of answers (0)")
    key = "environment variable that holds the key, which is written nowhere (OPENAI_API_KEY)"
    add("--api_key_env", default="OPENAI_API_KEY", help=key)


def _add_answers(add) -> None:
    modes = (
        "independent: each supervisor's best answer; joint: the one all score highest; mbr: the one nearest to all; "
    )
    modes += "rover: the one nearest to a vote on each word (independent: ours)"
    add("--mode", choices=COMPLETION_AGGREGATORS.choices, default="independent", help=modes)
    add(
        "--num_candidates",
        type=_at_least_one,
        default=5,
        help="beams, or draws in joint mode, of each supervisor (5: paper)",
    )
    add("--max_new_tokens", type=_at_least_one, default=64, help="of an answer (64: paper)")
    cut = "answers cut at --max_new_tokens: teach no end there, keep them as whole, or drop them (no_eos: ours)"
    add("--unfinished", choices=("no_eos", "keep", "drop"), default="no_eos", help=cut)
    add("--temperature", type=float, help="sample at this temperature instead of searching beams (beams: paper)")
    add("--top_p", type=float, default=1.0, help="sample from this share of the probability only (1, all: ours)")
    add("--seed", type=int, default=0, help="of the draws, and of what verify chooses (0)")


def _add_work(add) -> None:
    add(
        "--output_dir",
        required=True,
        help="labels are kept here; the same command continues a killed run, another one replaces dataset/",
    )
    add(
        "--batch_size",
        type=_at_least_one,
        default=16,
        help="prompts per unit of work, the most that a kill loses (16: ours)",
    )
    budget = "tokens of one batch, beams included, which bounds the memory; not for vllm (16384: ours)"
    add("--max_tokens_in_flight", type=_at_least_one, help=budget)
    add("--push_to_hub", metavar="REPO", help="upload labels and card to this dataset repository")
    private = "with --push_to_hub: make the repository private (the account's default: Hugging Face)"
    add("--hub_private_repo", action="store_true", default=None, help=private)
    add("--share", type=float, default=0.01, help="verify: share of the prompts to label again (0.01: ours)")
