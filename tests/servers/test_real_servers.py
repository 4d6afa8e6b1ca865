"""Real servers on the loopback against the local model with the same float32 weights: `make test-servers`.

What a server says of its tokens, placed in the words of its answer, is what the local model says of these words.
"""

import math
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from trl_weaks.alignment import unit_logps
from trl_weaks.labelling.ask_servers import ask_servers
from trl_weaks.labelling.from_completions import labels_from_completions
from trl_weaks.supervisors.server import ServerSupervisor
from trl_weaks.supervisors.supervisor import WeakSupervisor
from trl_weaks.units import assign_units

pytestmark = pytest.mark.servers
BUILD = Path(os.environ.get("SERVERS", "build/servers")).absolute()
WEIGHTS = BUILD / "smollm2.gguf"
CLOSE = 1e-4  # nats of a word
EXAMPLES = [
    {"example_id": "1", "prompt": "The capital of France is"},
    {"example_id": "2", "prompt": "Three colours of the rainbow are"},
    {"example_id": "3", "prompt": "Question: what is 2 + 2?\nAnswer:"},
]


@pytest.fixture(scope="module")
def local():
    """The same weights in transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUILD, gguf_file=WEIGHTS.name)
    model = AutoModelForCausalLM.from_pretrained(BUILD, gguf_file=WEIGHTS.name, dtype=torch.float32)
    return WeakSupervisor(model, tokenizer, "local")


def started(command: list[str], log: Path, patience: float, **environment: str):
    """Start a server that gets `--port`, yield its address once it answers, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as written:
        running = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    try:
        url, until = f"http://127.0.0.1:{port}/v1", time.monotonic() + patience
        while not _answers(f"{url}/models"):
            assert running.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.3)
        yield url
    finally:
        running.terminate()
        running.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    """llama.cpp through llama-cpp-python; the cache of keys and values in float32 (type 0) as well."""
    options = ["--n_ctx", "512", "--n_threads", "1", "--n_threads_batch", "1", "--type_k", "0", "--type_v", "0"]
    command = [str(BUILD / "bin" / "python"), "-m", "llama_cpp.server", "--model", str(WEIGHTS), *options]
    yield from started([*command, "--model_alias", "smollm2"], tmp_path_factory.mktemp("llama") / "log", 120)


def words(text: str, offsets, logps) -> list[float]:
    """log P of each word of a text, the end of sequence left out."""
    inside = [(span, p) for span, p in zip(offsets, logps, strict=True) if span[0] < len(text)]
    spans = [span for span, _ in inside]
    ids, _ = assign_units([spans], spans, text, "word")
    return unit_logps(ids, [p for _, p in inside], ids[-1] + 1).tolist()


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_words_of_llama_cpp_are_those_of_the_local_model(llama_cpp, local, api):
    server = ServerSupervisor(llama_cpp, "smollm2", api=api, max_tokens=24, concurrency=1, top_logprobs=5)
    labels = labels_from_completions(EXAMPLES, ask_servers([server], EXAMPLES))
    assert labels["confidence_source"][:] == [["logprobs"]] * 3
    compared = 0
    for row in labels:
        asked = row["prompt"] if api == "completions" else [{"role": "user", "content": row["prompt"]}]
        (ours,) = local.score([asked], [row["completion"]])
        theirs = words(row["completion"], row["weak_offsets"][0], row["weak_logps"][0])
        mine = words(row["completion"], ours.offsets, ours.logps)
        assert len(theirs) == len(mine)
        assert all(math.isclose(a, b, abs_tol=CLOSE) for a, b in zip(theirs, mine, strict=True)), (theirs, mine)
        compared += len(mine)
    assert compared >= 12
