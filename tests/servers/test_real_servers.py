"""Real servers on the loopback against the local model with the same float32 weights: `make test-servers`.

What a server says of its tokens, placed in the words of its answer, is what the local model says of these words.
"""

import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from trl_weaks.alignment import unit_logps
from trl_weaks.labelling.sources.ask_servers import ask_servers
from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.supervisors.server import ServerSupervisor
from trl_weaks.supervisors.supervisor import WeakSupervisor
from trl_weaks.units import assign_units

pytestmark = pytest.mark.servers
BUILD = Path(os.environ.get("SERVERS", "build/servers")).absolute()
VLLM = BUILD.with_name("vllm") / "bin" / "python"
WEIGHTS = BUILD / "smollm2.gguf"
QUIET = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
QUIET |= {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
CLOSE = 1e-4  # of a word's confidence, and of its logarithm in nats where that is above -1, or in proportion
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


@pytest.fixture(scope="module")
def vllm(local, tmp_path_factory):
    """vLLM's build for CPUs, from the same weights as safetensors."""
    if not VLLM.exists():
        pytest.skip("vllm-cpu is not installed")
    folder = tmp_path_factory.mktemp("vllm")
    model, saved = local.model, folder / "smollm2"
    del model.config.quantization_config  # of the file that it came from; otherwise it is not saved
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(saved), local.tokenizer.save_pretrained(saved)
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
    command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(saved), *options]
    yield from started([*command, "--served-model-name", "smollm2"], folder / "log", 400, **QUIET)
    shutil.rmtree(saved)


def words(text: str, offsets, logps) -> list[float]:
    """log P of each word of a text, the end of sequence left out."""
    inside = [(span, p) for span, p in zip(offsets, logps, strict=True) if span[0] < len(text)]
    spans = [span for span, _ in inside]
    ids, _ = assign_units([spans], spans, text, "word")
    return unit_logps(ids, [p for _, p in inside], ids[-1] + 1).tolist()


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("kind", ["llama_cpp", "vllm"])
def test_words_of_a_server_are_those_of_the_local_model(request, local, kind, api):
    url = request.getfixturevalue(kind)
    server = ServerSupervisor.from_url(url, api=api, max_tokens=24, concurrency=1, top_logprobs=5)
    labels = labels_from_completions(EXAMPLES, ask_servers([server], EXAMPLES))
    assert labels["confidence_source"][:] == [["logprobs"]] * 3
    compared = 0
    for row in labels:
        assert len(row["weak_top_logps"][0]) == len(row["weak_offsets"][0]) and len(row["weak_top_logps"][0][0]) >= 5
        asked = row["prompt"] if api == "completions" else [{"role": "user", "content": row["prompt"]}]
        (ours,) = local.score([asked], [row["completion"]])
        theirs = words(row["completion"], row["weak_offsets"][0], row["weak_logps"][0])
        mine = words(row["completion"], ours.offsets, ours.logps)
        assert len(theirs) == len(mine)
        for a, b in zip(theirs, mine, strict=True):
            assert math.exp(a) == pytest.approx(math.exp(b), abs=CLOSE) and a == pytest.approx(b, abs=CLOSE, rel=CLOSE)
        compared += len(mine)
    assert compared >= 12
