"""Answers of models behind servers, stored one by one, so that whatever stops a run loses nothing."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ... import columns
from ...fingerprint import digest
from ...supervisors.server import ServerAnswer, ServerError, ServerSupervisor
from ..storage.store import LabelStore
from .examples import read_prompts
from .tables import Table
from .token_logprobs import NotTold, read_logprobs, warn_untold

logger = logging.getLogger(__name__)
Key = tuple[str, str, int]  # supervisor, example, sample


def ask_servers(
    servers: Sequence[ServerSupervisor],
    examples: Table,
    output_dir: str | Path | None = None,
    max_tokens: int | None = None,
    max_cost: float | None = None,
) -> list[dict[str, Any]]:
    """The answers of every server to every prompt, as rows that `labels_from_completions` reads.

    Args:
        servers: with names of their own.
        examples: `example_id` and `prompt` (text or messages).
        output_dir: every answer is stored in its folder `answers` as soon as it is there; the same call asks only what
            is missing. None keeps nothing.
        max_tokens: stop before more tokens than these are used, over all servers and earlier runs of the folder.
        max_cost: stop before more than this is spent, by the servers' prices.

    Returns:
        Rows of `example_id`, `supervisor`, `completion` (None where a server gave none), `finish_reason` and
        `logprobs`; log-probabilities that do not spell their answer are left out, and counted in a warning.

    Raises:
        ValueError: bad examples, two servers of one name, or a cost that no prices add up to, before any request.
        ServerError: a server refuses or is gone, or the budget is used up, or cannot be kept since the server does
            not say what it used. What was answered is stored.
    """
    prompts = read_prompts(examples)
    names = [server.name for server in servers]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not servers:
        raise ValueError(f"two servers are called {twice[0]!r}; give each a name." if twice else "there is no server.")
    if max_cost is not None and not any(server.price_in or server.price_out for server in servers):
        raise ValueError(f"max_cost={max_cost} needs the servers' prices: price_in and price_out.")
    with tempfile.TemporaryDirectory() as temporary:
        store = LabelStore(Path(output_dir or temporary) / "answers")
        try:
            found, budget = _stored(store, servers, prompts), _Budget(max_tokens, max_cost)
            for record in found.values():
                budget.add(record["supervisor"], record["tokens"], record["cost"])
            _ask(servers, prompts, store, found, budget)
        finally:
            store.close()
    return _rows(servers, prompts, found)


def _stored(store: LabelStore, servers: Sequence[ServerSupervisor], prompts: dict[str, dict]) -> dict[Key, dict]:
    """Answers of earlier runs to the same prompts under the same settings."""
    identities = {server.name: server for server in servers}
    found = {}
    for record, _ in store.records():
        server, row = identities.get(record["supervisor"]), prompts.get(record["example_id"])
        if server and row and record["config"] == _config(server, row) and record["sample"] < server.samples:
            found[record["supervisor"], record["example_id"], record["sample"]] = record
    return found


def _config(server: ServerSupervisor, row: dict[str, Any]) -> str:
    return digest("server", server.identity(), row[columns.PROMPT])


def _ask(
    servers: Sequence[ServerSupervisor],
    prompts: dict[str, dict],
    store: LabelStore,
    found: dict[Key, dict],
    budget: "_Budget",
) -> None:
    total = sum(server.samples for server in servers) * len(prompts)
    with tqdm(total=total, initial=len(found), desc="asking", unit="answer") as shown:
        for server in servers:
            samples = ((example, sample) for example in prompts for sample in range(server.samples))
            todo = [key for key in samples if (server.name, *key) not in found]

            def keep(example: str, sample: int, answer: ServerAnswer, server: ServerSupervisor = server) -> None:
                record = {"supervisor": server.name, "example_id": example, "sample": sample}
                record |= {"config": _config(server, prompts[example]), **vars(answer)}
                store.append([record])
                found[server.name, example, sample] = record
                shown.update()
                budget.add(server.name, answer.tokens, answer.cost)

            _ask_one(server, prompts, todo, keep, budget)


def _ask_one(
    server: ServerSupervisor,
    prompts: dict[str, dict],
    todo: Sequence[tuple[str, int]],
    keep: Callable[[str, int, ServerAnswer], None],
    budget: "_Budget",
) -> None:
    """Ask one server, a few requests at once; when something stops it, what is under way is still waited for."""
    waiting = iter(todo)
    running: dict[Future, tuple[str, int]] = {}
    stopped: BaseException | None = None
    with ThreadPoolExecutor(server.concurrency) as pool:
        while True:
            while stopped is None and len(running) < server.concurrency:
                try:
                    if (key := next(waiting, None)) is None:
                        break
                    budget.check()
                    running[pool.submit(server.answer, prompts[key[0]][columns.PROMPT], key[1])] = key
                except ServerError as error:
                    stopped = error
            if not running:
                break
            try:
                done = wait(running, return_when=FIRST_COMPLETED).done
            except KeyboardInterrupt as error:  # what is under way is paid for
                stopped, done = stopped or error, ()
            for future in done:
                key = running.pop(future)
                try:
                    keep(*key, future.result())
                except Exception as error:  # of the server, or of the disk
                    stopped = stopped or error
    if stopped is not None:
        raise stopped


def _rows(servers: Sequence[ServerSupervisor], prompts: dict[str, dict], found: dict[Key, dict]) -> list[dict]:
    rows, unspelled, untold = [], 0, 0
    for server in servers:
        for example in prompts:
            for sample in range(server.samples):
                record = found[server.name, example, sample]
                row = {columns.EXAMPLE_ID: example, "supervisor": server.name, columns.COMPLETION: record["text"]}
                row |= {"finish_reason": record["finish_reason"], "logprobs": record["logprobs"]}
                if row["logprobs"] is not None and record["text"]:
                    try:
                        read_logprobs(row["logprobs"], record["text"], server.name)
                    except NotTold:
                        untold, row["logprobs"] = untold + 1, None
                    except ValueError:
                        unspelled, row["logprobs"] = unspelled + 1, None
                rows.append(row)
    if unspelled:
        logger.warning("%d answers have log-probabilities that do not spell their text; left out.", unspelled)
    warn_untold(untold)
    silent = sum(row[columns.COMPLETION] is None for row in rows)
    if silent:
        logger.warning("%d of %d answers hold no text (refusals, tool calls).", silent, len(rows))
    return rows


class _Budget:
    """What may be used, and what was."""

    def __init__(self, tokens: int | None, cost: float | None):
        self._most, self._used = (tokens, cost), [0, 0.0]

    def add(self, name: str, tokens: int, cost: float) -> None:
        if not tokens and any(most is not None for most in self._most):
            raise ServerError(
                f"supervisor {name!r}: the server does not say how many tokens an answer took, so no budget can be "
                "kept; leave max_tokens and max_cost out. Answers so far are stored."
            )
        self._used[0] += tokens
        self._used[1] += cost

    def check(self) -> None:
        for name, most, used in zip(("max_tokens", "max_cost"), self._most, self._used, strict=True):
            if most is not None and used >= most:
                raise ServerError(
                    f"{name}={most} is used up ({used:g}). Answers so far are stored: raise it and run again, or "
                    "label what is there."
                )
