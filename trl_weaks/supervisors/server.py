"""A weak supervisor behind an OpenAI-compatible endpoint: vLLM, llama.cpp, SGLang, or a hosted model."""

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from .reading.messages import Prompt

logger = logging.getLogger(__name__)
LONGEST_WAIT = 60.0  # seconds between two tries, unless the server asks for more. *ours*
LONGEST_ASKED = 600.0  # of a wait that the server asks for; what is longer ends the run. *ours*
TOP_LOGPROBS = 20  # what the protocol allows


# Reasons, of whatever protocol, in small letters: of an answer that its author ended, and those others that are known.
# Where there is no reason, "none" as text, the answer counts as ended.
ENDED = frozenset(
    "none stop eos eos_token end_turn stop_sequence complete completed finish endoftext tool_calls tool_call tool_use "
    "function_call".split()
)
CUT = frozenset(
    "length max_tokens max_output_tokens model_length model_context_window_exceeded incomplete content_filter "
    "content_filtered safety recitation blocklist prohibited_content spii refusal abort error error_toxic error_limit "
    "insufficient_system_resource cancelled".split()
)


def was_cut(finish_reason: str | None) -> bool:
    """Whether an answer ended before its author did, so that its end must not be taught: for every reason but the
    known ones of an end. A warning names each one that is in neither list, once."""
    reason = str(finish_reason).lower()
    if reason not in ENDED and reason not in CUT:
        _warn_unknown(reason)
    return reason not in ENDED


@cache
def _warn_unknown(reason: str) -> None:
    logger.warning("the finish_reason %r is not known; such answers count as cut, and teach no end.", reason)


class ServerError(ConnectionError):
    """The server cannot be used: it refuses the request, is gone, or answers nonsense; says what to do."""


@dataclass(frozen=True)
class ServerAnswer:
    """One answer.

    Attributes:
        text: None where the server gave none (a refusal, a tool call).
        finish_reason: `"length"`, or another that is none of [`ENDED`], for an answer that was cut.
        logprobs: token log-probabilities in the server's form, see `labelling.sources.token_logprobs`.
        tokens: of prompt and answer together, as the server counts them.
        cost: of this request, in the unit of the prices.
    """

    text: str | None
    finish_reason: str | None
    logprobs: Any
    tokens: int
    cost: float


@dataclass
class ServerSupervisor:
    """One model behind an OpenAI-compatible endpoint, asked with retries, a rate limit and a budget's counts.

    The key is read from the environment when a request is made; it is in no attribute, log, card or store.

    Args:
        base_url: with the version path, e.g. `http://localhost:8000/v1`; without credentials.
        model: the name the server knows it by.
        name: what to call the supervisor; the model's name by default.
        api: `"chat"` (messages; a text prompt becomes one user message) or `"completions"` (text alone).
        system: a system message before every prompt; chat only.
        temperature: of the answers. With several samples it must not be 0.
        top_p: sample from the most probable tokens that together have this probability; 1 for all.
        samples: answers to each prompt; several measure the confidence where there are no log-probabilities.
        max_tokens: of an answer. *paper*
        logprobs: ask for token log-probabilities; a server that has none answers without.
        top_logprobs: alternatives of each token to ask for and store, 0 to 20.
        seed: of the samples; a server may ignore it.
        api_key_env: the environment variable that holds the key; servers without keys need none.
        concurrency: requests at once. `requests_per_minute`: None for no limit.
        retries: further tries after 408, 409, 429, 5xx, a broken connection or an answer that cannot be read, with
            waits that double, or as the server asks, up to ten minutes. *ours*
        timeout: seconds until a request counts as broken.
        price_in, price_out: for a million tokens, in any currency.

    Raises:
        ValueError: a setting out of range, or credentials in the URL.
    """

    base_url: str
    model: str
    name: str | None = None
    api: str = "chat"
    system: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    max_tokens: int = 64
    logprobs: bool = True
    top_logprobs: int = 0
    seed: int = 0
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    requests_per_minute: float | None = None
    retries: int = 5
    timeout: float = 120.0
    price_in: float = 0.0
    price_out: float = 0.0
    _turn: "_Turn" = field(init=False, repr=False)

    def __post_init__(self):
        self.name = self.name or self.model
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"supervisor {self.name!r}: {parts.hostname!r} is no http(s) address.")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                f"supervisor {self.name!r}: base_url holds credentials or a query; put the key into the environment "
                f"variable {self.api_key_env} instead."
            )
        limits = {"samples": (1, 1000), "max_tokens": (1, 10**6), "top_logprobs": (0, TOP_LOGPROBS)}
        limits |= {"concurrency": (1, 1000), "retries": (0, 100), "temperature": (0, 10), "top_p": (1e-6, 1)}
        for setting, (low, high) in limits.items():
            if not low <= getattr(self, setting) <= high:
                raise ValueError(
                    f"supervisor {self.name!r}: {setting}={getattr(self, setting)} is not {low} to {high}."
                )
        if self.api not in ("chat", "completions"):
            raise ValueError(f"supervisor {self.name!r}: api={self.api!r} is not 'chat' or 'completions'.")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"supervisor {self.name!r}: {self.samples} samples at temperature 0 are one; set it above."
            )
        if self.system is not None and self.api != "chat":
            raise ValueError(f"supervisor {self.name!r}: a system message needs api='chat'.")
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise ValueError(f"supervisor {self.name!r}: requests_per_minute must be above 0.")
        self._turn = _Turn(60 / self.requests_per_minute if self.requests_per_minute else 0.0)

    @classmethod
    def from_url(cls, url: str, name: str | None = None, **settings: Any) -> "ServerSupervisor":
        """A supervisor by one address, `http://localhost:8000/v1#model`; its name is the last part of the model's.

        Without `#model` the server is asked what it serves, which must then be one model.

        Args:
            settings: as for the class.

        Raises:
            ValueError: as the class; or the server has several models.
            ServerError: it was asked, and refused the key or did not say.
        """
        base_url, _, model = url.partition("#")
        server = cls(base_url, model or "?", name, **settings)
        if not model:
            server.model = server._only_model()
        server.name = name or PurePath(server.model).name
        return server

    def _only_model(self) -> str:
        openai = _openai()
        try:
            models = [model.id for model in self._client.models.list(extra_headers=self._key())]
            reason = "its list is empty, or none"
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ServerError(self._refused(error)) from None  # the request holds the key
        except (openai.APIError, AttributeError, TypeError, ValueError) as error:
            models, reason = (
                [],
                f"status {error.status_code}" if hasattr(error, "status_code") else type(error).__name__,
            )
        if not models:
            raise ServerError(
                f"{self.base_url} does not say which models it has ({reason}): start it, check the address, or name "
                f"the model, {self.base_url}#model."
            )
        if len(models) > 1:
            raise ValueError(f"{self.base_url} has the models {models}; choose one, {self.base_url}#model.")
        return models[0]

    def identity(self) -> dict[str, Any]:
        """What decides an answer, for the key under which it is stored."""
        kept = ("base_url", "model", "api", "system", "temperature", "max_tokens", "logprobs", "top_logprobs", "seed")
        narrowed = {"top_p": self.top_p} if self.top_p != 1 else {}
        return {name: getattr(self, name) for name in kept} | narrowed

    def answer(self, prompt: Prompt, sample: int = 0) -> ServerAnswer:
        """The server's answer to one prompt, with retries; may be called from several threads.

        Raises:
            ServerError: the request is refused (401, 404, a setting it does not know), or every try failed.
        """
        openai = _openai()
        for attempt in range(self.retries + 1):
            self._turn.take()
            wait = min(2.0**attempt, LONGEST_WAIT)
            try:
                return self._read(self._request(prompt, sample))
            except openai.APIStatusError as error:
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise ServerError(
                        f"supervisor {self.name!r}: {self._refused(error)}"
                    ) from None  # it holds the key
                wait, reason = self._asked_wait(error, wait), f"status {error.status_code}"
            except openai.APIConnectionError as error:  # a time-out is one of them
                reason = f"{type(error).__name__}"
            except (openai.APIError, ValueError) as error:  # no JSON, no UTF-8, another shape
                reason = f"an answer that cannot be read ({error})"
            if attempt < self.retries:
                time.sleep(wait)
        raise ServerError(
            f"supervisor {self.name!r}: {self.base_url} failed {self.retries + 1} times, last with "
            f"{self._without_key(reason)}. Answers so far are stored: run the same command again when the server is "
            "back."
        )

    def _asked_wait(self, error: Any, otherwise: float) -> float:
        """Seconds until the next try: what the server asks for, where that is a number."""
        try:
            asked = float(error.response.headers.get("retry-after", ""))
        except ValueError:  # none, or a date
            return otherwise
        if not 0 <= asked <= LONGEST_ASKED:
            raise ServerError(
                f"supervisor {self.name!r}: {self.base_url} answers with status {error.status_code} and asks to wait "
                f"{asked:g} seconds. Answers so far are stored: run the same command again then."
            ) from None
        return asked

    def _request(self, prompt: Prompt, sample: int) -> Any:
        client = self._client
        common = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        common |= {"extra_headers": self._key(), "seed": self.seed + sample}
        common |= {"top_p": self.top_p} if self.top_p != 1 else {}
        if self.api == "completions":
            if not isinstance(prompt, str):
                raise ServerError(f"supervisor {self.name!r}: api='completions' takes text, not messages; use chat.")
            return client.completions.create(
                prompt=prompt, **common, **({"logprobs": max(1, self.top_logprobs)} if self.logprobs else {})
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.system is not None:
            messages = [{"role": "system", "content": self.system}, *messages]
        if self.logprobs:
            common |= {"logprobs": True} | ({"top_logprobs": self.top_logprobs} if self.top_logprobs else {})
        return client.chat.completions.create(messages=messages, **common)

    @cached_property
    def _client(self) -> Any:
        return _openai().OpenAI(base_url=self.base_url, api_key="none", max_retries=0, timeout=self.timeout)

    def _key(self) -> dict[str, str]:
        """The header with the key, for one request: the client does not hold it."""
        return {"Authorization": f"Bearer {os.environ.get(self.api_key_env) or 'none'}"}

    def _read(self, response: Any) -> ServerAnswer:
        try:
            answer = self._parts(response)
            (answer.text or "").encode()
        except _Unreadable:
            raise
        except UnicodeEncodeError:
            raise _Unreadable("its text is no Unicode") from None
        except (AttributeError, TypeError, ValueError, LookupError, OverflowError) as error:
            raise _Unreadable(f"it is not of the protocol's shape, {type(error).__name__}") from error
        return answer

    def _parts(self, response: Any) -> ServerAnswer:
        choices = getattr(response, "choices", None)
        if not choices:
            raise _Unreadable("it has no choices")
        choice = choices[0]
        text = choice.text if self.api == "completions" else choice.message.content
        if text is not None and not isinstance(text, str):
            raise _Unreadable(f"its text is a {type(text).__name__}")
        logprobs = getattr(choice, "logprobs", None)
        logprobs = logprobs.model_dump(warnings=False) if hasattr(logprobs, "model_dump") else logprobs
        usage = getattr(response, "usage", None)
        asked, made = (int(getattr(usage, n, None) or 0) for n in ("prompt_tokens", "completion_tokens"))
        cost = (asked * self.price_in + made * self.price_out) / 1e6
        return ServerAnswer(text, getattr(choice, "finish_reason", None), logprobs, asked + made, cost)

    def _refused(self, error: Any) -> str:
        detail = str(getattr(error, "message", error)).splitlines()[0][:300]
        hint = {401: f"set {self.api_key_env}", 403: f"check {self.api_key_env}", 404: "check base_url and model"}
        remedy = hint.get(error.status_code, "check the settings that it names")
        said = f"{error.status_code}: {self._without_key(detail)}"
        return f"{self.base_url} refuses with {said}; {remedy}."

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.api_key_env)
        return text.replace(key, "***") if key else text


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError("servers are asked with openai's client: pip install 'trl-weaks[servers]'") from error
    return openai


class _Unreadable(ValueError):
    """An answer of another shape than the protocol's."""


class _Turn:
    """Lets one request start every so many seconds, whatever thread asks."""

    def __init__(self, seconds: float):
        self._seconds, self._next, self._lock = seconds, 0.0, threading.Lock()

    def take(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._seconds
        time.sleep(start - now)
