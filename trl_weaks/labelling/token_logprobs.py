"""Token log-probabilities as OpenAI-compatible servers return them, placed in the text that they spell."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CLOSE = 1e-4  # a log-probability may end this far above 0 by rounding


@dataclass(frozen=True)
class TokenLogprobs:
    """Tokens of a completion.

    Attributes:
        offsets: [start, end) characters of each token; tokens after the text have the empty span at its end.
        logps: log-probability of each, nats, at most 0.
    """

    offsets: list[list[int]]
    logps: list[float]


def read_logprobs(logprobs: Any, text: str, name: str) -> TokenLogprobs:
    """Place a server's token log-probabilities in the completion.

    Two forms are read: that of chat completions, `{"content": [{"token", "logprob", "bytes"}, ...]}` (or the list
    alone), and that of completions, `{"tokens": [...], "token_logprobs": [...]}`. A token may hold a part of a
    character: its bytes are used where they are given. White space at the ends of the answer may have been stripped
    from `text`, and tokens behind it (an end of turn) are read as its end.

    Args:
        logprobs: one of the forms, or its JSON text.
        text: the completion.
        name: what to call it in messages.

    Raises:
        ValueError: another form, values that are no log-probabilities, or tokens that do not spell the text.
    """
    tokens = _tokens(json.loads(logprobs) if isinstance(logprobs, str) else logprobs, name)
    spelled = b"".join(piece for piece, _ in tokens)
    wanted = text.encode()
    start = spelled.find(wanted) if wanted in spelled else -1
    if start < 0 or spelled[:start].strip():
        shown = spelled.decode(errors="replace")
        raise ValueError(f"{name}: the tokens of the log-probabilities spell {shown!r}, which is not {text!r}.")
    characters = _characters(text)
    offsets, logps, place = [], [], -start
    for piece, logp in tokens:
        begin, place = place, place + len(piece)
        if place <= 0 < len(piece):  # white space that was stripped
            continue
        last = characters[min(place, len(wanted)) - 1] + 1  # a token may end inside a character
        offsets.append([len(text)] * 2 if begin >= len(wanted) else [characters[max(begin, 0)], last])
        logps.append(min(logp, 0.0))
    return TokenLogprobs(offsets, logps)


def _tokens(logprobs: Any, name: str) -> list[tuple[bytes, float]]:
    if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
        logprobs = logprobs["content"]
    if isinstance(logprobs, list) and all(isinstance(t, Mapping) and {"token", "logprob"} <= set(t) for t in logprobs):
        pairs = [(bytes(t["bytes"]) if t.get("bytes") is not None else t["token"], t["logprob"]) for t in logprobs]
    elif isinstance(logprobs, Mapping) and {"tokens", "token_logprobs"} <= set(logprobs):
        if len(logprobs["tokens"]) != len(logprobs["token_logprobs"]):
            raise ValueError(f"{name}: {len(logprobs['tokens'])} tokens but {len(logprobs['token_logprobs'])} values.")
        pairs = list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
    else:
        raise ValueError(
            f"{name}: column 'logprobs' is in none of the two forms: {{'content': [{{'token', 'logprob'}}, ...]}} or "
            "{'tokens': [...], 'token_logprobs': [...]}."
        )
    found = []
    for token, logp in pairs:
        if not isinstance(token, str | bytes):
            raise ValueError(f"{name}: the token {token!r} is no text.")
        if isinstance(logp, bool) or not isinstance(logp, int | float) or not math.isfinite(logp) or logp > CLOSE:
            raise ValueError(f"{name}: token {token!r} has the log-probability {logp!r}; give a finite one <= 0.")
        found.append((token.encode() if isinstance(token, str) else token, float(logp)))
    return found


def _characters(text: str) -> list[int]:
    """The character that each byte of the text's UTF-8 belongs to."""
    return [i for i, character in enumerate(text) for _ in character.encode()]
