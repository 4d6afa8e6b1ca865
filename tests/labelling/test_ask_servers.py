"""A server on the loopback that answers as recorded: retries, nonsense, death, budgets, keys, and what is kept."""

import math
import threading

import pytest

pytest.importorskip("openai")

from scripted_server import BROKEN, SECRET, chat, choice

import trl_weaks.labelling.sources.ask_servers as ask_module
from trl_weaks.labelling.sources.ask_servers import ask_servers
from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.supervisors.server import ServerError, ServerSupervisor

EXAMPLES = [{"example_id": f"e{i}", "prompt": f"prompt {i}"} for i in range(6)]


def test_answers_become_labels_with_their_log_probabilities(serve):
    server = serve()
    supervisor = ServerSupervisor(server.url, "m", name="api", system="Be brief.", top_logprobs=2)
    labels = labels_from_completions(EXAMPLES, ask_servers([supervisor], EXAMPLES))
    assert labels["example_id"][:] == [e["example_id"] for e in EXAMPLES]
    assert labels[0]["confidence_source"] == ["logprobs"]
    assert math.fsum(labels[0]["weak_logps"][0]) == pytest.approx(-0.3)
    path, body, key = server.requests[0]
    assert path == "/v1/chat/completions" and key == f"Bearer {SECRET}"
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (0.0, 64, True, 2)


def test_the_completions_form(serve):
    choice = {"index": 0, "finish_reason": "length", "text": " jazz"}
    choice["logprobs"] = {
        "tokens": [" ja", "zz"],
        "token_logprobs": [-1, -2],
        "top_logprobs": None,
        "text_offset": [0, 3],
    }
    made = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    server = serve(lambda body, count: (200, made))
    rows = ask_servers([ServerSupervisor(server.url, "m", api="completions")], EXAMPLES[:1])
    assert server.requests[0][0] == "/v1/completions" and server.requests[0][1]["prompt"] == "prompt 0"
    (row,) = labels_from_completions(EXAMPLES[:1], rows)
    assert math.fsum(row["weak_logps"][0]) == -3 and row["weak_finished"] is False


def test_as_many_requests_are_under_way_as_concurrency_says(serve):
    """Each answer waits for two others: with fewer under way none would come, and a fourth at once would be seen."""
    together, under_way, most = threading.Barrier(3, timeout=20), set(), []

    def reply(body, count):
        under_way.add(threading.get_ident())
        most.append(len(under_way))
        together.wait()
        under_way.discard(threading.get_ident())
        return 200, chat()

    assert len(ask_servers([ServerSupervisor(serve(reply).url, "m", concurrency=3, retries=0)], EXAMPLES)) == 6
    assert max(most) == 3


def test_samples_measure_what_has_no_log_probabilities(serve):
    server = serve(lambda body, count: (200, chat("jazz" if body["seed"] % 4 else "rock", tokens=())))
    supervisor = ServerSupervisor(server.url, "m", samples=4, temperature=1.0, logprobs=False)
    (row,) = labels_from_completions(EXAMPLES[:1], ask_servers([supervisor], EXAMPLES[:1]))
    assert (row["completion"], row["confidence_source"]) == ("jazz", ["samples"])
    assert math.exp(math.fsum(row["weak_logps"][0])) == pytest.approx(0.75)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_may_pass_is_tried_again(serve, kind, monkeypatch):
    waits = []
    server = serve(lambda body, count: BROKEN[kind] if count < 3 else (200, chat()))
    supervisor = ServerSupervisor(server.url, "m")
    monkeypatch.setattr("trl_weaks.supervisors.server.time.sleep", lambda s: waits.append(round(s)))
    assert [row["completion"] for row in ask_servers([supervisor], EXAMPLES[:1])] == ["jazz"]
    assert server.seen["prompt 0"] == 3
    assert [w for w in waits if w] == ([7, 7] if kind == "busy" else [1, 2])


@pytest.mark.parametrize("kind", BROKEN)
def test_a_server_that_stays_broken_is_named_and_loses_nothing(serve, kind, tmp_path):
    broken = True
    server = serve(
        lambda body, count: BROKEN[kind] if broken and "3" in body["messages"][-1]["content"] else (200, chat())
    )
    supervisor = ServerSupervisor(server.url, "m", concurrency=2, retries=1)
    with pytest.raises(ServerError, match="'m': http.* failed 2 times, last with .*stored") as raised:
        ask_servers([supervisor], EXAMPLES, tmp_path)
    assert SECRET not in str(raised.value)
    asked = sum(server.seen.values())
    broken = False
    rows = ask_servers([supervisor], EXAMPLES, tmp_path)
    assert [row["completion"] for row in rows] == ["jazz"] * 6
    assert all(server.seen[f"prompt {i}"] == 1 for i in range(3))
    assert sum(server.seen.values()) < asked + 6


def test_a_server_that_says_nothing_is_asked_again(serve):
    server = serve(lambda body, count: "silent" if count == 1 else (200, chat()))
    (row,) = ask_servers([ServerSupervisor(server.url, "m", timeout=1.0)], EXAMPLES[:1])
    assert row["completion"] == "jazz" and server.seen["prompt 0"] >= 2


def test_a_server_that_dies_in_the_middle_loses_nothing(serve, tmp_path):
    answered, alive = [], 3
    server = serve(lambda body, count: answered.append(body) or ((200, chat()) if len(answered) <= alive else "gone"))
    supervisor = ServerSupervisor(server.url, "m", concurrency=1, retries=1)
    with pytest.raises(ServerError, match="failed 2 times, last with APIConnectionError"):
        ask_servers([supervisor], EXAMPLES, tmp_path)
    assert len(answered) == 5, "three answers and two tries"
    alive = 99
    assert len(ask_servers([supervisor], EXAMPLES, tmp_path)) == 6 and len(answered) == 8
    assert [server.seen[f"prompt {i}"] for i in range(6)] == [1, 1, 1, 3, 1, 1]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), None])
def test_what_is_under_way_when_a_run_is_stopped_is_kept(serve, tmp_path, monkeypatch, end):
    """Answers that were asked for are paid for: by Ctrl-C, or by a fault that is not the server's."""
    real, calls = ask_module.wait, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    server = serve()
    supervisor = ServerSupervisor(server.url, "m", concurrency=2)
    if end is None:
        fault = RuntimeError("a fault of ours")
        answer = supervisor.answer
        supervisor.answer = lambda prompt, sample: (_ for _ in ()).throw(fault) if "2" in prompt else answer(prompt)
    else:
        monkeypatch.setattr(ask_module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt if end else RuntimeError):
        ask_servers([supervisor], EXAMPLES, tmp_path)
    asked = sum(server.seen.values())
    assert 2 <= asked < 6
    again = ServerSupervisor(server.url, "m")
    monkeypatch.setattr(ask_module, "wait", real)
    assert len(ask_servers([again], EXAMPLES, tmp_path)) == 6
    assert sum(server.seen.values()) == 6, "nothing is asked twice"


def test_a_wait_of_a_day_ends_the_run(serve, tmp_path):
    server = serve(lambda body, count: (429, {}, {"retry-after": "86400"}))
    with pytest.raises(ServerError, match="status 429 and asks to wait 86400 seconds. Answers so far are stored"):
        ask_servers([ServerSupervisor(server.url, "m", concurrency=1)], EXAMPLES, tmp_path)
    assert len(server.requests) == 1


ODD = {
    "a value above 0": [("jazz", 0.5)],
    "no number": [("jazz", math.nan)],
    "no value": [("jazz", None)],
    "too few tokens": [("ja", -1)],
    "tokens of another text": [("ro", -1), ("ck", -1)],
    "no text": [(None, -1)],
    "bad alternatives": [("jazz", -1, [("jazz", math.nan)])],
}
SHAPES = {
    "text": "jazz",
    "a number": 3,
    "a list of texts": {"content": ["ja", "zz"]},
    "bytes that are text": {"content": [{"token": "jazz", "logprob": -1, "bytes": "jazz"}]},
    "bytes beyond 255": {"content": [{"token": "jazz", "logprob": -1, "bytes": [300]}]},
    "tokens that are none": {"tokens": None, "token_logprobs": None},
    "fewer values than tokens": {"tokens": ["ja", "zz"], "token_logprobs": [-1]},
}


@pytest.mark.parametrize("kind", [*ODD, *SHAPES])
def test_log_probabilities_that_mean_nothing_are_left_out_and_counted(serve, kind, caplog):
    """The answer is kept, as a hard label: its text is what the server said."""
    made = chat("jazz", tokens=ODD[kind]) if kind in ODD else choice(logprobs=SHAPES[kind])
    server = serve(lambda body, count: (200, made))
    rows = ask_servers([ServerSupervisor(server.url, "m", retries=0)], EXAMPLES[:2])
    assert "2 answers have log-probabilities that do not spell their text; left out." in caplog.text
    labels = labels_from_completions(EXAMPLES[:2], rows)
    assert labels["completion"][:] == ["jazz"] * 2 and labels["confidence_source"][:] == [[None]] * 2


def test_a_missing_reason_and_missing_usage_are_no_fault(serve):
    made = chat()
    del made["usage"], made["choices"][0]["finish_reason"]
    server = serve(lambda body, count: (200, made))
    (row,) = ask_servers([ServerSupervisor(server.url, "m")], EXAMPLES[:1])
    assert row["completion"] == "jazz" and row["finish_reason"] is None


def test_a_budget_that_cannot_be_kept_is_refused(serve, tmp_path):
    made = chat()
    del made["usage"]
    server = serve(lambda body, count: (200, made))
    supervisor = ServerSupervisor(server.url, "m", concurrency=1)
    with pytest.raises(ServerError, match="does not say how many tokens an answer took, so no budget can be kept"):
        ask_servers([supervisor], EXAMPLES, tmp_path, max_tokens=1000)
    assert len(server.requests) == 1
    assert len(ask_servers([supervisor], EXAMPLES, tmp_path)) == 6 and len(server.requests) == 6
    with pytest.raises(ValueError, match="max_cost=1 needs the servers' prices"):
        ask_servers([supervisor], EXAMPLES, tmp_path, max_cost=1)


def test_a_server_that_is_gone(serve, tmp_path):
    server = serve()
    supervisor = ServerSupervisor(server.url, "m", retries=1)
    ask_servers([supervisor], EXAMPLES[:3], tmp_path)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ServerError, match="APIConnectionError"):
        ask_servers([supervisor], EXAMPLES, tmp_path)
    assert len(ask_servers([supervisor], EXAMPLES[:3], tmp_path)) == 3  # nothing is asked again
    server.http = serve().http


@pytest.mark.parametrize(
    "status, remedy",
    [(401, "set OPENAI_API_KEY"), (403, "check OPENAI_API_KEY"), (404, "check base_url"), (400, "settings")],
)
def test_a_refusal_ends_at_once_and_never_shows_the_key(serve, status, remedy, tmp_path, caplog):
    server = serve(lambda body, count: (status, {"error": {"message": f"bad key {SECRET}"}}))
    supervisor = ServerSupervisor(server.url, "m", concurrency=1)
    with pytest.raises(ServerError, match=remedy) as raised:
        ask_servers([supervisor], EXAMPLES, tmp_path)
    assert len(server.requests) == 1
    assert SECRET not in str(raised.value) and SECRET not in repr(supervisor) and SECRET not in caplog.text
    assert SECRET not in str(vars(supervisor)) and SECRET not in str(vars(supervisor._client))
    assert raised.value.__cause__ is None


def test_the_key_is_in_no_file(serve, tmp_path):
    ask_servers([ServerSupervisor(serve().url, "m")], EXAMPLES, tmp_path)
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_another_setting_prompt_or_model_is_asked_again(serve, tmp_path):
    server = serve()
    ask_servers([ServerSupervisor(server.url, "m")], EXAMPLES[:1], tmp_path)
    for change in ({"temperature": 0.5}, {"max_tokens": 5}, {"system": "x"}, {"top_logprobs": 1}, {"seed": 1}):
        before = len(server.requests)
        ask_servers([ServerSupervisor(server.url, "m", **change)], EXAMPLES[:1], tmp_path)
        assert len(server.requests) == before + 1, change
    before = len(server.requests)
    ask_servers([ServerSupervisor(server.url, "m")], [{"example_id": "e0", "prompt": "other"}], tmp_path)
    ask_servers([ServerSupervisor(server.url, "other", name="m")], EXAMPLES[:1], tmp_path)
    assert len(server.requests) == before + 2


def test_a_budget_stops_and_a_larger_one_goes_on(serve, tmp_path):
    server = serve()
    supervisor = ServerSupervisor(server.url, "m", concurrency=1, price_in=1.0, price_out=10.0)
    with pytest.raises(ServerError, match=r"max_tokens=25 is used up \(30\)"):
        ask_servers([supervisor], EXAMPLES, tmp_path, max_tokens=25)
    assert len(server.requests) == 3
    with pytest.raises(ServerError, match="max_cost"):  # 37 millionths an answer, earlier ones counted
        ask_servers([supervisor], EXAMPLES, tmp_path, max_cost=4 * 37e-6)
    assert len(server.requests) == 4
    assert len(ask_servers([supervisor], EXAMPLES, tmp_path, max_tokens=1000)) == 6


def test_refusals_tool_calls_and_unspelled_log_probabilities_are_counted(serve, caplog):
    replies = {
        "prompt 0": chat(None, tokens=()),
        "prompt 1": chat(None, tokens=(), tool_calls=[]),
        "prompt 2": chat("jazz", tokens=(("ro", -1), ("ck", -1))),
    }
    server = serve(lambda body, count: (200, replies.get(body["messages"][-1]["content"], chat())))
    rows = ask_servers([ServerSupervisor(server.url, "m")], EXAMPLES[:4])
    assert (
        "2 of 4 answers hold no text" in caplog.text and "1 answers have log-probabilities that do not" in caplog.text
    )
    labels = labels_from_completions(EXAMPLES[:4], rows)
    assert labels["example_id"][:] == ["e2", "e3"]
    assert labels["confidence_source"][:] == [[None], ["logprobs"]]


def test_requests_start_at_the_rate_asked_for(serve, monkeypatch):
    waits = []
    monkeypatch.setattr("trl_weaks.supervisors.server.time.sleep", waits.append)
    monkeypatch.setattr("trl_weaks.supervisors.server.time.monotonic", lambda: 100.0)
    server = serve()
    ask_servers([ServerSupervisor(server.url, "m", requests_per_minute=30, concurrency=1)], EXAMPLES[:4])
    assert waits == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"base_url": "http://user:pw@host/v1"}, "holds credentials"),
        ({"base_url": "http://host/v1?key=1"}, "holds credentials"),
        ({"base_url": "ftp://host"}, "no http"),
        ({"api": "responses"}, "api='responses'"),
        ({"samples": 3}, "3 samples at temperature 0 are one"),
        ({"samples": 0}, "samples=0"),
        ({"top_logprobs": 21}, "top_logprobs=21"),
        ({"temperature": -1}, "temperature=-1"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"api": "completions", "system": "x"}, "a system message needs"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ServerSupervisor(**{"base_url": "http://localhost:1/v1", "model": "m"} | settings)


def test_two_servers_of_one_name_or_none():
    one = ServerSupervisor("http://localhost:1/v1", "m")
    with pytest.raises(ValueError, match="two servers are called 'm'"):
        ask_servers([one, one], EXAMPLES)
    with pytest.raises(ValueError, match="there is no server"):
        ask_servers([], EXAMPLES)


def test_messages_need_the_chat_form(serve):
    examples = [{"example_id": "1", "prompt": [{"role": "user", "content": "hi"}]}]
    with pytest.raises(ServerError, match="takes text, not messages"):
        ask_servers([ServerSupervisor(serve().url, "m", api="completions")], examples)
