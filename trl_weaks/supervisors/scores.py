"""What supervisors hand back: a generated candidate, and a scored completion."""

from dataclasses import dataclass

from ..units import logps_of_text


@dataclass(frozen=True)
class Candidate:
    """One completion found by beam search (or sampled).

    Attributes:
        text: the completion, special tokens removed.
        token_ids: the generated ids, the end-of-sequence token included when it was reached.
        logps: log-probability of each of those tokens, nats.
        offsets: [start, end) characters of `text` for each token; the end-of-sequence token is the empty span at the
            end; tokens that share a character (bytes of one letter) share its span.
        finished: whether the end-of-sequence token was reached within `max_new_tokens`.
    """

    text: str
    token_ids: list[int]
    logps: list[float]
    offsets: list[tuple[int, int]]
    finished: bool


@dataclass(frozen=True)
class Scored:
    """A completion read by a supervisor (teacher forcing), the end-of-sequence token included.

    Attributes:
        token_ids: the supervisor's own tokens of the completion.
        logps: log-probability of each of them, nats.
        offsets: [start, end) characters of the completion for each token; end of sequence = empty span at the end.
    """

    token_ids: list[int]
    logps: list[float]
    offsets: list[tuple[int, int]]

    @property
    def mean_logp(self) -> float:
        """Length-normalised log-probability in nats per token, end of sequence included (the term of Eq. 6).

        Tokens that a chat template writes before the text, alike for all texts, are not among them: they would favour
        long ones.
        """
        logps = logps_of_text(self.offsets, self.logps)
        return sum(logps) / len(logps)
