"""Token log-probabilities as OpenAI-compatible servers return them, placed in the text that they spell."""

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)
Alternative = tuple[str, float]
END = re.compile(r"(\s*(<[^<>]*>|\[[^\[\]]*\]))*")  # marks that end a turn, as tokenizers write them
UNTOLD = -9999.0  # what OpenAI's protocol writes for a log-probability that it does not tell, at most
CLOSE = 1e-4  # a log-probability may end this far above 0 by rounding


class NotTold(ValueError):
    """A chosen token has no log-probability: the server wrote -9999 in its place."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Tokens of a completion.

    Attributes:
        offsets: [start, end) characters of each token; tokens after the text have the empty span at its end.
        logps: log-probability of each, nats, at most 0.
        top: for each token the alternatives that the server gave in its place, the token itself mostly among them,
            most probable first: text and log-probability. Those that are a part of a character, or whose probability
            was not told, are left out, and white space that was stripped from the answer's token is from theirs. None
            where no alternative was given at all.
    """

    offsets: list[list[int]]
    logps: list[float]
    top: list[list[Alternative]] | None = None


def read_logprobs(logprobs: Any, text: str, name: str) -> TokenLogprobs:
    """Place a server's token log-probabilities in the completion.

    Two forms are read: that of chat completions, `{"content": [{"token", "logprob", "bytes"}, ...]}` (or the list
    alone), and that of completions, `{"tokens": [...], "token_logprobs": [...]}`; in both, `top_logprobs` may hold
    alternatives. A token may hold a part of a
    character: its bytes are used where they are given. White space at the ends of the answer may have been stripped
    from `text`, and marks behind it (`<|im_end|>`, `</s>`, `[EOS]`) are read as its end.

    Args:
        logprobs: one of the forms, or its JSON text.
        text: the completion.
        name: what to call it in messages.

    Raises:
        ValueError: another form, values that are no log-probabilities, or tokens that do not spell the text.
        NotTold: a token's log-probability is the protocol's -9999.
    """
    try:
        tokens = _tokens(json.loads(logprobs) if isinstance(logprobs, str) else logprobs, name)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: column 'logprobs' is not JSON ({error}).") from error
    except (TypeError, AttributeError, LookupError) as error:  # inside one of the two forms, anything may be
        raise ValueError(f"{name}: column 'logprobs' is malformed ({error}).") from error
    spelled = b"".join(piece for piece, _, _ in tokens)
    wanted = text.encode(errors="surrogatepass")
    start = spelled.find(wanted) if wanted in spelled else -1
    tail = spelled[start + len(wanted) :].decode(errors="replace").strip()
    if start < 0 or spelled[:start].strip() or not END.fullmatch(tail):
        shown = spelled.decode(errors="replace")
        raise ValueError(
            f"{name}: the tokens of the log-probabilities spell {shown!r}, which is not {text!r}. Give those of the "
            "text alone, and of marks that end it."
        )
    characters = _characters(text)
    offsets, logps, top, place = [], [], [], -start
    for piece, logp, alternatives in tokens:
        begin, place = place, place + len(piece)
        if place <= 0 < len(piece):  # white space that was stripped
            continue
        if logp <= UNTOLD:
            shown = piece.decode(errors="replace")
            raise NotTold(f"{name}: the log-probability of token {shown!r} is {logp}, which says that it is not told.")
        last = characters[min(place, len(wanted)) - 1] + 1  # a token may end inside a character
        offsets.append([len(text)] * 2 if begin >= len(wanted) else [characters[max(begin, 0)], last])
        logps.append(min(logp, 0.0))
        behind = piece[len(wanted) - begin :] if begin < len(wanted) < place else b""
        top.append(_stripped(alternatives, piece[: max(-begin, 0)], behind))
    return TokenLogprobs(offsets, logps, top if any(top) else None)


def warn_untold(answers: int) -> None:
    """Say how many answers count as without log-probabilities, if any does."""
    if answers:
        logger.warning(
            "%d answers have a token whose log-probability is not told (-9999); their log-probabilities are left out.",
            answers,
        )


def _tokens(logprobs: Any, name: str) -> list[tuple[bytes, float, list[Alternative]]]:
    if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
        logprobs = logprobs["content"]
    if isinstance(logprobs, list) and all(isinstance(t, Mapping) and {"token", "logprob"} <= set(t) for t in logprobs):
        triples = [(_piece(t), t["logprob"], t.get("top_logprobs") or []) for t in logprobs]
    elif isinstance(logprobs, Mapping) and {"tokens", "token_logprobs"} <= set(logprobs):
        if len(logprobs["tokens"]) != len(logprobs["token_logprobs"]):
            raise ValueError(f"{name}: {len(logprobs['tokens'])} tokens but {len(logprobs['token_logprobs'])} values.")
        tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
        if len(tops) != len(logprobs["tokens"]):
            raise ValueError(f"{name}: {len(logprobs['tokens'])} tokens but {len(tops)} lists of alternatives.")
        triples = list(zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True))
    else:
        raise ValueError(
            f"{name}: column 'logprobs' is in none of the two forms: {{'content': [{{'token', 'logprob'}}, ...]}} or "
            "{'tokens': [...], 'token_logprobs': [...]}."
        )
    found = []
    for token, logp, top in triples:
        if not isinstance(token, str | bytes):
            raise ValueError(f"{name}: the token {token!r} is no text.")
        if isinstance(logp, bool) or not isinstance(logp, int | float) or not math.isfinite(logp) or logp > CLOSE:
            raise ValueError(f"{name}: token {token!r} has the log-probability {logp!r}; give a finite one <= 0.")
        try:
            piece = token.encode() if isinstance(token, str) else token
        except UnicodeEncodeError:
            raise ValueError(
                f"{name}: column 'logprobs' has the token {token!r}, which holds half of a character; give its bytes "
                "beside it ('bytes')."
            ) from None
        found.append((piece, float(logp), _alternatives(top, token, name)))
    return found


def _piece(token: Mapping[str, Any]) -> Any:
    """The bytes of a token, or its text where they are not given."""
    try:
        return bytes(token["bytes"]) if token.get("bytes") is not None else token["token"]
    except ValueError as error:  # no byte
        raise TypeError(f"the bytes of token {token['token']!r}: {error}") from error


def _alternatives(top: Any, token: str | bytes, name: str) -> list[Alternative]:
    """Texts and log-probabilities, equal texts added up, most probable first."""
    if isinstance(top, Mapping):
        pairs = list(top.items())
    elif isinstance(top or [], list) and all(
        isinstance(t, Mapping) and {"token", "logprob"} <= set(t) for t in top or []
    ):
        pairs = [(_piece(t), t["logprob"]) for t in top or []]
    else:
        raise ValueError(f"{name}: the alternatives of token {token!r} are neither texts nor a list of tokens.")
    known: list[Alternative] = []
    for piece, logp in pairs:
        if isinstance(logp, bool) or not isinstance(logp, int | float) or not logp <= CLOSE:
            raise ValueError(f"{name}: an alternative of token {token!r} has the log-probability {logp!r}.")
        try:
            text = (piece if isinstance(piece, bytes) else piece.encode()).decode()
        except UnicodeError:  # a part of a character
            continue
        if "\N{REPLACEMENT CHARACTER}" not in text and logp > UNTOLD:
            known.append((text, logp))
    return _added(known)


def _stripped(alternatives: list[Alternative], before: bytes, behind: bytes) -> list[Alternative]:
    """The alternatives as they would stand in the answer's text, without what was stripped around it from their token:
    those that do not begin with the same white space would have made another text before them."""
    head, tail = before.decode(errors="replace"), behind.decode(errors="replace")
    tail = "" if tail.strip() else tail  # a mark, which is no part of the text
    if not head and not tail:
        return alternatives
    begun = [(text.removeprefix(head), logp) for text, logp in alternatives if text.startswith(head)]
    cut = [(text.removesuffix(tail), logp) for text, logp in begun if text != tail]
    return _added([(text, logp) for text, logp in cut if text or not head])


def _added(alternatives: list[Alternative]) -> list[Alternative]:
    """Equal texts added up, most probable first."""
    found: dict[str, float] = {}
    for text, logp in alternatives:
        known = found.get(text, -math.inf)
        high, low = max(known, logp), min(known, logp)
        found[text] = min(high + math.log1p(math.exp(low - high)), 0.0)
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))


def _characters(text: str) -> list[int]:
    """The character that each byte of the text's UTF-8 belongs to."""
    return [i for i, character in enumerate(text) for _ in character.encode(errors="surrogatepass")]
