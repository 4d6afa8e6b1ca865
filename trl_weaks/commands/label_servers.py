"""`trl-weaks label` where some of the supervisors, or all, are models behind servers.

    answers/   what the servers said, stored one by one as it comes
    local/     the labels of the local models, if there are any
    dataset/   both together: equal completions share a row

Servers answer and give the log-probabilities of their own tokens; they do not read the answers of others. So there is
no joint score, and an answer without log-probabilities is read by the local models, or trains as a hard label.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

SERVERS_ONLY = ("api", "system", "samples", "no_logprobs", "top_logprobs", "concurrency", "requests_per_minute")
SERVERS_ONLY += ("retries", "timeout", "max_total_tokens", "max_cost", "price_in", "price_out", "api_key_env")
MODELS_ONLY = ("backend", "dtype", "tensor_parallel_size", "gpu_memory_utilization", "max_tokens_in_flight")
MODELS_ONLY += ("num_candidates", "batch_size")


def is_server(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def check_server_options(options: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Refuse options of servers where there is none, those of local models where there are only servers, and what
    servers cannot do.

    Args:
        defaults: the options as they are where nothing is given.

    Raises:
        ValueError: names the option.
    """
    servers = [source for source in options.supervisors if is_server(source)]
    for source in servers:
        if "@" in source.partition("#")[0]:
            raise ValueError(
                "--supervisors: an address holds credentials; put the key into the environment variable "
                f"{options.api_key_env} instead, or name another one with --api_key_env."
            )
    idle = SERVERS_ONLY if not servers else MODELS_ONLY if len(servers) == len(options.supervisors) else ()
    for name in idle:
        if getattr(options, name) != getattr(defaults, name):
            who = (
                "servers, and --supervisors names none" if not servers else "local models, and there are only servers"
            )
            raise ValueError(f"--{name} is for {who}.")
    if options.max_cost is not None and not (options.price_in or options.price_out):
        raise ValueError("--max_cost needs the prices, --price_in and --price_out.")
    if servers and options.mode != "independent":
        raise ValueError(
            f"--mode {options.mode}: servers answer, but do not score the answers of others; choose independent."
        )
    if servers and options.action == "verify":
        raise ValueError("verify makes labels again, and servers need not say the same twice; leave the servers out.")


class Asked(NamedTuple):
    """One of the supervisors: where it is, what it is called, its weight, and the server where it is one."""

    source: str
    name: str
    weight: float
    server: Any = None


def asked(options: argparse.Namespace) -> list[Asked]:
    """The supervisors in their order; servers are asked for their model where none is named.

    Raises:
        ValueError: a setting out of range, or two supervisors of one name.
        ServerError: a server was asked for its model and does not answer.
    """
    from ..supervisors.server import ServerSupervisor

    kept = ("api", "system", "samples", "top_p", "seed", "top_logprobs", "concurrency", "requests_per_minute")
    kept += ("retries", "timeout", "price_in", "price_out", "api_key_env")
    settings: dict[str, Any] = {name: getattr(options, name) for name in kept}
    settings |= {"temperature": options.temperature or 0.0, "max_tokens": options.max_new_tokens}
    settings["logprobs"] = not options.no_logprobs
    names = options.names or [None] * len(options.supervisors)
    found = []
    for source, name, weight in zip(options.supervisors, names, options.weights or [1.0] * len(names), strict=True):
        if is_server(source):
            server = ServerSupervisor.from_url(source, name, **settings)
            found.append(Asked(source, server.name, weight, server))
        else:
            found.append(Asked(source, name or PurePath(source.partition("@")[0]).name, weight))
    called = [one.name for one in found]
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise ValueError(f"two supervisors are called {twice[0]!r}; give each its name with --names.")
    return found


def label_with_servers(
    options: argparse.Namespace,
    prompts: Any,
    supervisors: Sequence[Asked],
    load: Callable[[argparse.Namespace], Any],
    settings: dict[str, Any],
) -> Any:
    """Ask the servers, label with the local models, and put both together in `--output_dir`.

    Args:
        load: the ensemble of the local models, which the options it gets name alone; after the servers have answered.
        settings: of `label_completions`.

    Returns:
        The dataset.

    Raises:
        ValueError: messages for an `api` of text.
        ServerError: a server refuses or is gone, or the budget is used up; what was answered is stored.
    """
    from datasets import load_from_disk

    from ..distributed import on_main_process
    from ..labelling.label_completions import label_completions

    if options.api == "completions" and not isinstance(prompts[0]["prompt"], str):
        raise ValueError("--api completions takes text, and the prompts are messages; choose chat.")
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    answers: list[dict] = []
    servers = [one.server for one in supervisors if one.server]
    on_main_process(folder, lambda: answers.extend(_answers(options, prompts, servers)))
    models, ensemble, labels = [one for one in supervisors if not one.server], None, None
    if models:
        sources, names, weights, _ = map(list, zip(*models, strict=True))
        ensemble = load(
            argparse.Namespace(**vars(options) | {"supervisors": sources, "names": names, "weights": weights})
        )
        labels = label_completions(ensemble, prompts, **settings | {"output_dir": folder / "local"})
    on_main_process(folder, lambda: _write(options, prompts, supervisors, answers, ensemble, labels))
    return load_from_disk(str(folder / "dataset"))


def _answers(options: argparse.Namespace, prompts: Any, servers: Sequence[Any]) -> list[dict]:
    from ..labelling.sources.ask_servers import ask_servers
    from ..supervisors.server import ServerError, was_cut

    try:
        answers = ask_servers(servers, prompts, options.output_dir, options.max_total_tokens, options.max_cost)
    except ServerError as error:  # the budget's names are those of the options
        said = str(error).replace("max_tokens=", "--max_total_tokens ").replace("max_cost=", "--max_cost ")
        raise ServerError(said) from None
    cut = [row for row in answers if was_cut(row["finish_reason"])]
    if cut:
        done = {"no_eos": "teach no end", "keep": "are trained as whole answers", "drop": "are left out"}
        logger.warning(
            "%d of %d answers of servers were cut at --max_new_tokens and %s (--unfinished).",
            *(len(cut), len(answers), done[options.unfinished]),
        )
    if options.unfinished == "drop":
        return [row for row in answers if not was_cut(row["finish_reason"])]
    return [row | {"finish_reason": None} for row in answers] if options.unfinished == "keep" else answers


def _write(
    options: argparse.Namespace,
    prompts: Any,
    supervisors: Sequence[Asked],
    answers: list[dict],
    ensemble: Any,
    labels: Any,
) -> None:
    """The dataset and its card; in the card no address and no path of this machine."""
    from ..files import replaced_folder, writing
    from ..labelling.sources.from_completions import labels_from_completions
    from ..labelling.storage.card import model_of, write_answers_card
    from ..labelling.storage.export import save

    if not answers and labels is None:
        raise ValueError("every answer was cut at --max_new_tokens; raise it, or choose --unfinished no_eos or keep.")
    folder, readers = Path(options.output_dir), ensemble.supervisors if ensemble else None
    heard = {row["supervisor"] for row in answers if row["completion"]}
    heard |= {name for row in (labels["weak_supervisors"] if labels else ()) for name in row}
    weights = {one.name: one.weight for one in supervisors if one.name in heard}
    made = labels_from_completions(prompts, answers, scorers=readers, weights=weights or None, labels=labels)
    with writing("the dataset", folder), replaced_folder(folder / "dataset") as new:
        save(made, new)
    models = {reader.name: model_of(reader) for reader in readers or ()}
    models |= {o.name: f"{PurePath(o.server.model).name}, behind a server" for o in supervisors if o.server}
    total = sum(one.weight for one in supervisors)
    sources = {one.name: (one.weight / total, models[one.name]) for one in supervisors}
    shown = {"api": options.api, "system message": "yes" if options.system else "no", "samples": options.samples}
    shown |= {"temperature": options.temperature or 0.0, "top_p": options.top_p, "seed": options.seed}
    shown |= {"max_new_tokens": options.max_new_tokens, "unfinished": options.unfinished}
    write_answers_card(folder / "README.md", made, sources, shown)
