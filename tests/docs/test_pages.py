"""Every Python block of the documentation and the README runs as printed, in a folder with models of those names."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from datasets import Dataset

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
ELSEWHERE = {"hub.md"}  # runs in tests/hub, against a server that speaks the Hub's API
WITH_CODE = [page for page in PAGES if page.name not in ELSEWHERE and BLOCK.search(page.read_text(encoding="utf-8"))]
MODELS = {"my-gpt2": "gpt2", "my-opt": "opt", "my-pythia": "gpt_neox", "my-strong-model": "llama"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models under the names that the pages use, without a pad token, as many real ones are."""
    from trl_weaks.study.tiny_models import build_model, train_tokenizer

    folder = tmp_path_factory.mktemp("pages")
    texts = ["Capital of France? Paris", "Question: good answer, bad answer", "play some jazz at nine"] * 20
    for name, kind in MODELS.items():
        tokenizer = train_tokenizer(kind, texts, 440)
        build_model(kind, tokenizer, hidden_size=16, layers=1, heads=2, max_length=128, seed=0).save_pretrained(
            folder / name
        )
        tokenizer.save_pretrained(folder / name)
    prompts = [{"example_id": str(i), "prompt": f"play {w}"} for i, w in enumerate(("jazz", "some", "nine"))]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    return folder


@pytest.fixture
def server():
    """An endpoint that always says "four"."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            message = {"role": "assistant", "content": "four"}
            choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}
            made = {"id": "1", "object": "chat.completion", "created": 1, "model": "small", "choices": [choice]}
            made["usage"] = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
            body = json.dumps(made).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()


@pytest.fixture
def small_runs(monkeypatch):
    """On a CPU, without a reporting service, a step or two; nothing that a page prints is changed."""
    from transformers import TrainingArguments

    plain = TrainingArguments.__post_init__

    def on_cpu(self):
        self.use_cpu, self.bf16, self.report_to = True, False, "none"
        self.save_strategy = self.save_strategy if self.load_best_model_at_end else "no"
        self.max_steps = 1 if self.max_steps < 0 else min(self.max_steps, 2)
        plain(self)

    monkeypatch.setattr(TrainingArguments, "__post_init__", on_cpu)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs_as_printed(page, models, server, small_runs, monkeypatch):
    pytest.importorskip("openai") if page.name == "servers.md" else None
    monkeypatch.chdir(models)
    if not Path("labels/dataset").exists():
        row = {"example_id": "1", "prompt": "play", "completion": " jazz", "weak_supervisors": ["ann"]}
        row |= {"weak_weights": [1.0], "weak_offsets": [[[0, 5], [5, 5]]], "weak_logps": [[-0.1, -0.1]]}
        Dataset.from_list([row]).save_to_disk("labels/dataset")
    names = {"SERVER_URL": server}
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_links_between_pages_lead_somewhere():
    for page in PAGES[1:]:
        for target in re.findall(r"\]\(([^)#]+\.md)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
