"""`trl-weaks label --supervisors http://...`: servers alone, and together with local models."""

import json
import math
from pathlib import Path

import pytest
from datasets import load_dataset, load_from_disk

pytest.importorskip("openai")
from scripted_server import BROKEN, SECRET, chat

from trl_weaks.cli import main

ROWS = [{"example_id": f"e{i}", "prompt": f"play {w}", "number": i} for i, w in enumerate(("jazz", "rock", "pop"))]


@pytest.fixture
def label(tmp_path):
    """Runs `trl-weaks label` on three prompts in a folder of their own; gives the dataset."""
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, ROWS)))

    def run(*arguments: str):
        fixed = ["--dataset", str(tmp_path / "prompts.jsonl"), "--output_dir", str(tmp_path / "out")]
        main(["label", *fixed, "--max_new_tokens", "4", *arguments])
        return load_from_disk(str(tmp_path / "out" / "dataset"))

    return run


@pytest.fixture
def local(build, tmp_path):
    supervisor = build("gpt2")
    supervisor.model.save_pretrained(tmp_path / "small")
    supervisor.tokenizer.save_pretrained(tmp_path / "small")
    return str(tmp_path / "small")


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_servers_alone(serve, label, tmp_path, capsys):
    one, two = serve(models=["acme/big"]), serve(lambda body, count: (200, chat("rock", tokens=())))
    labels = label("--supervisors", one.url, f"{two.url}#other/small", "--weights", "3", "1", "--temperature", "0.5")
    assert labels["example_id"][:] == ["e0", "e0", "e1", "e1", "e2", "e2"] and labels["number"][:] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert labels["completion"][:2] == ["jazz", "rock"]
    assert labels["weak_supervisors"][:2] == [["big"], ["small"]] and labels["weak_weights"][:2] == [[0.75], [0.25]]
    assert labels["confidence_source"][:2] == [["logprobs"], [None]]
    assert math.fsum(labels[0]["weak_logps"][0]) == pytest.approx(-0.3)
    (path, _, key), (_, body, _) = one.requests[:2]
    assert path == "/v1/models" and key == f"Bearer {SECRET}"
    assert (body["model"], body["temperature"], body["max_tokens"], body["logprobs"]) == ("acme/big", 0.5, 4, True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| big | 0.75 | big, behind a server | 3 | logprobs (3) |" in card
    assert "| small | 0.25 | small, behind a server | 3 | none: a hard label (3) |" in card
    said = files(tmp_path / "out") + "".join(capsys.readouterr()).encode()
    assert SECRET.encode() not in said and b"127.0.0.1" not in said, "neither the key nor an address is written"


def test_every_option_reaches_the_request(serve, label, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-other")
    server = serve(lambda body, count: (200, chat("a" if body["seed"] % 2 else "b", tokens=())))
    options = ["--system", "Be brief.", "--samples", "3", "--temperature", "0.7", "--top_p", "0.9", "--seed", "10"]
    options += ["--no_logprobs", "--api_key_env", "MY_KEY", "--concurrency", "1", "--names", "api"]
    labels = label("--supervisors", f"{server.url}#m", *options)
    assert labels["weak_supervisors"][:] == [["api"]] * 3 and labels["confidence_source"][:] == [["samples"]] * 3
    _, body, key = server.requests[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."} and key == "Bearer sk-other"
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 10) and "logprobs" not in body
    assert len(server.requests) == 9
    label("--supervisors", f"{server.url}#m", *options)
    assert len(server.requests) == 9, "what is stored is not asked again"
    label("--supervisors", f"{server.url}#m", *options, "--top_p", "0.8")
    assert len(server.requests) == 18, "another setting is"


def test_completions_and_alternatives(serve, label):
    logprobs = {"tokens": ["ja", "zz"], "token_logprobs": [-1, -2], "top_logprobs": None, "text_offset": [0, 2]}
    choice = {"index": 0, "finish_reason": "stop", "text": "jazz", "logprobs": logprobs}
    made = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    server = serve(lambda body, count: (200, made))
    labels = label("--supervisors", f"{server.url}#m", "--api", "completions", "--top_logprobs", "4")
    assert server.requests[0][:1] == ("/v1/completions",) and server.requests[0][1]["logprobs"] == 4
    assert math.fsum(labels[0]["weak_logps"][0]) == -3


def test_local_models_and_servers_share_rows_and_weights(serve, label, local, tmp_path):
    """The local model says what it says alone; equal answers share a row; what has no confidence is re-scored."""
    few = ("--num_candidates", "2", "--unfinished", "keep")
    alone = {row["example_id"]: row for row in label("--supervisors", local, *few)}
    said = alone["e0"]["completion"]
    server = serve(lambda body, count: (200, chat(said if "jazz" in body["messages"][-1]["content"] else "pop", ())))
    labels = label("--supervisors", local, f"{server.url}#m", "--weights", "1", "3", *few)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"answers", "local", "dataset", "README.md"}
    rows = {example: [row for row in labels if row["example_id"] == example] for example in ("e0", "e1", "e2")}
    assert [sorted(row["weak_supervisors"] for row in rows[e]) for e in ("e1", "e2")] == [[["m"], ["small"]]] * 2
    (shared,) = rows["e0"]
    assert shared["completion"] == said and shared["weak_weights"] == [0.75, 0.25]
    assert shared["confidence_source"] == ["rescored", "logprobs"]
    assert shared["weak_logps"][1] == pytest.approx(alone["e0"]["weak_logps"][0], abs=1e-6)
    assert math.fsum(shared["weak_logps"][0]) == pytest.approx(math.fsum(shared["weak_logps"][1]), abs=1e-4)
    for example in ("e1", "e2"):
        ours = next(row for row in rows[example] if row["weak_supervisors"] == ["small"])
        assert ours["completion"] == alone[example]["completion"] and ours["weak_weights"] == [0.25]
    loaded = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == labels.to_list(), "as the help says, and without the local model's own rows"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| small | 0.25 | gpt2 (local) |" in card and "| m | 0.75 | m, behind a server | 3 | rescored (3) |" in card


@pytest.mark.parametrize("kind", BROKEN)
def test_a_server_that_breaks_ends_with_one_line_and_the_same_command_goes_on(
    serve, label, tmp_path, capfd, caplog, kind
):
    """The second of three prompts gets no answer, until the server is mended."""
    broken = True
    server = serve(lambda body, n: BROKEN[kind] if broken and "rock" in str(body["messages"]) else (200, chat()))
    arguments = ("--supervisors", f"{server.url}#m", "--concurrency", "1", "--retries", "1")
    with pytest.raises(SystemExit, match=r"^trl-weaks: error: .*'m': http.* failed 2 times, .*stored") as ended:
        label(*arguments)
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "out" / "dataset").exists() and server.seen == {"play jazz": 1, "play rock": 2}
    broken = False
    assert label(*arguments)["completion"][:] == ["jazz"] * 3
    assert server.seen == {"play jazz": 1, "play rock": 3, "play pop": 1}
    said = str(ended.value) + "".join(capfd.readouterr()) + caplog.text
    assert SECRET not in said and SECRET.encode() not in files(tmp_path / "out")


UNLISTED = {kind: (answer, "does not say .* name the model, http:.*#model") for kind, answer in BROKEN.items()}
UNLISTED |= {
    "there is no list": ((404, b""), r"does not say which models it has \(status 404\).*#model"),
    "the key is refused": ((401, {"error": {"message": f"bad key {SECRET}"}}), r"bad key \*\*\*; set OPENAI_API_KEY"),
}


@pytest.mark.parametrize("kind", UNLISTED)
def test_a_server_that_does_not_say_its_models(serve, label, capfd, kind):
    listing, message = UNLISTED[kind]
    server = serve(listing=listing)
    with pytest.raises(SystemExit, match=f"^trl-weaks: error: http://127.0.0.1.* {message}") as ended:
        label("--supervisors", server.url)
    assert {path for path, _, _ in server.requests} == {"/v1/models"} and "\n" not in str(ended.value)
    assert SECRET not in str(ended.value) + "".join(capfd.readouterr())


def test_a_server_that_dies_between_local_models_loses_nothing(serve, label, local, tmp_path):
    """Servers are asked before the local models are loaded: the run ends early, and what two servers said is kept."""
    alive = True
    whole, dies = serve(), serve(lambda body, n: (200, chat("rock", ())) if alive else "gone")
    arguments = ("--supervisors", local, f"{whole.url}#whole", f"{dies.url}#dies", "--retries", "0")
    alive = False
    with pytest.raises(SystemExit, match="'dies': http.* failed 1 times, last with APIConnectionError"):
        label(*arguments)
    assert len(whole.requests) == 3 and not (tmp_path / "out" / "local").exists()
    alive = True
    labels = label(*arguments)
    assert len(whole.requests) == 3 and {n for names in labels["weak_supervisors"] for n in names} >= {"whole", "dies"}


@pytest.mark.parametrize("unfinished, finished", [("no_eos", [False] * 3), ("keep", [True] * 3), ("drop", None)])
def test_answers_that_were_cut(serve, label, caplog, unfinished, finished):
    server = serve(lambda body, count: (200, chat(finish="length")))
    arguments = ("--supervisors", f"{server.url}#m", "--unfinished", unfinished)
    if finished is None:
        with pytest.raises(SystemExit, match="every answer was cut at --max_new_tokens"):
            label(*arguments)
    else:
        assert label(*arguments)["weak_finished"][:] == finished
    assert "3 of 3 answers of servers were cut at --max_new_tokens" in caplog.text


def test_a_budget_stops_and_the_same_command_goes_on(serve, label):
    server = serve()
    arguments = ("--supervisors", f"{server.url}#m", "--concurrency", "1", "--price_in", "1")
    with pytest.raises(SystemExit, match=r"--max_total_tokens 15 is used up \(20\)"):
        label(*arguments, "--max_total_tokens", "15")
    with pytest.raises(SystemExit, match=r"--max_cost 1e-06 is used up"):
        label(*arguments, "--max_cost", "1e-6")
    assert len(label(*arguments)) == 3 and len(server.requests) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["http://me:word@host/v1#m"],
            "--supervisors: an address holds credentials; put the key into .* OPENAI_API_KEY",
        ),
        (["{url}#m", "--mode", "joint"], "--mode joint: servers answer, but do not score"),
        (["{url}#m", "--dtype", "bfloat16"], "--dtype is for local models, and there are only servers"),
        (["{url}#m", "--batch_size", "3"], "--batch_size is for local models"),
        (["{url}#m", "--samples", "3"], "3 samples at temperature 0"),
        (["{url}#m", "--api", "completions", "--system", "x"], "a system message needs"),
        (["{url}#m", "--top_logprobs", "21"], "top_logprobs=21"),
        (["{url}#m", "{url}#m"], "two supervisors are called 'm'; give each its name with --names"),
        (["{local}", "--samples", "3"], "--samples is for servers, and --supervisors names none"),
        (["{local}", "--max_cost", "3"], "--max_cost is for servers"),
        (["{two}"], r"has the models \['a', 'b'\]; choose one, http://.*#model"),
        (["{gone}"], "does not say which models it has .* start it, check the address, or name the model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused_before_anything_is_asked(serve, label, tmp_path, arguments, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch(), (tmp_path / "model" / "model.safetensors").touch()
    server, two, gone = serve(), serve(models=("a", "b")), serve()
    gone.http.server_close()
    words = {"url": server.url, "local": tmp_path / "model", "two": two.url, "gone": gone.url}
    with pytest.raises(SystemExit, match=message) as ended:
        label("--supervisors", *(part.format(**words) for part in arguments))
    assert server.requests == [] and "word" not in str(ended.value)


def test_servers_are_not_verified(serve, label, tmp_path):
    server = serve()
    label("--supervisors", f"{server.url}#m")
    with pytest.raises(SystemExit, match="servers need not say the same twice"):
        main(["label", "verify", "--dataset", str(tmp_path / "prompts.jsonl"), "--output_dir", str(tmp_path / "out"),
              "--supervisors", f"{server.url}#m"])  # fmt: skip


def test_messages_need_the_chat_form(serve, label, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "hi"}]}]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    server = serve()
    changed = ("--dataset", str(tmp_path / "chat.jsonl"), "--supervisors", f"{server.url}#m")
    with pytest.raises(SystemExit, match="--api completions takes text, and the prompts are messages; choose chat"):
        label(*changed, "--api", "completions")
    assert label(*changed)["completion"][:] == [[{"role": "assistant", "content": "jazz"}]]
