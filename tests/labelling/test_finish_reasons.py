"""Which reasons, of whatever protocol, say that an answer ended; every other one teaches no end."""

import pytest

from trl_weaks.supervisors import server

# OpenAI; Hugging Face; Anthropic; Cohere; Gemini; Mistral; Bedrock's Titan
ENDS = (
    "stop",
    "tool_calls",
    "function_call",
    "eos_token",
    "stop_sequence",
    "end_turn",
    "tool_use",
    "COMPLETE",
    "STOP",
)
ENDS += ("STOP_SEQUENCE", "FINISH", "eos", None)
CUTS = ("length", "content_filter", "abort", "max_tokens", "model_context_window_exceeded", "refusal", "MAX_TOKENS")
CUTS += ("ERROR", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "model_length", "error", "CONTENT_FILTERED")
CUTS += ("insufficient_system_resource",)


@pytest.mark.parametrize("reason", [*ENDS, *CUTS])
def test_known_reasons(reason, caplog):
    assert server.was_cut(reason) == (reason in CUTS)
    assert not caplog.text


def test_an_unknown_reason_counts_as_cut_and_is_named_once(caplog):
    server._warn_unknown.cache_clear()
    assert server.was_cut("Eclipse") and server.was_cut("eclipse") and server.was_cut("flood")
    assert [record.args for record in caplog.records] == [("eclipse",), ("flood",)]
    assert "the finish_reason 'eclipse' is not known; such answers count as cut" in caplog.text
