"""Every Python block of the documentation and the README runs as printed, in a folder with models of those names."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS
from trl_weaks.losses import LOSSES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
ELSEWHERE = {"hub.md"}  # runs in tests/hub, against a server that speaks the Hub's API
WITH_CODE = [page for page in PAGES if page.name not in ELSEWHERE and BLOCK.search(page.read_text(encoding="utf-8"))]
MODELS = {"my-gpt2": "gpt2", "my-opt": "opt", "my-pythia": "gpt_neox", "my-strong-model": "llama"}
CLASSIFIERS = ("my-gpt2", "my-opt")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_word_stands_for_a_number_that_was_to_come(page):
    """SPEED_LATER, RATIOS8, TODO: a page is written before a measurement is over, and nobody reads it again."""
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.S)
    found = re.findall(r"\b(?:[A-Z]{2,}_[A-Z0-9_]+|[A-Z]{5,}[0-9]+|TODO|TBD|FIXME|XXX)\b", prose)
    assert not found, f"{page.relative_to(ROOT)}: write what they stand for, or a setting's name as code: {found}"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny models under the names that the pages use, without a pad token, as many real ones are."""
    from transformers import AutoModelForSequenceClassification

    from trl_weaks.study.models.tiny import build_model, train_tokenizer

    folder = tmp_path_factory.mktemp("pages")
    texts = ["Capital of France? Paris", "Question: good answer, bad answer", "play some jazz at nine"] * 20
    for name, kind in MODELS.items():
        tokenizer = train_tokenizer(kind, texts, 440)
        build_model(kind, tokenizer, hidden_size=16, layers=1, heads=2, max_length=128, seed=0).save_pretrained(
            folder / name
        )
        tokenizer.save_pretrained(folder / name)
        if name in CLASSIFIERS:
            classifier = AutoModelForSequenceClassification.from_pretrained(folder / name, num_labels=2)
            classifier.save_pretrained(folder / f"{name}-classifier")
            tokenizer.save_pretrained(folder / f"{name}-classifier")
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


@pytest.fixture
def registries_as_found():
    """What a page registers is gone after it."""
    registries = (AGGREGATORS, COMPLETION_AGGREGATORS, LOSSES)
    found = [set(registry) for registry in registries]
    yield
    for registry, names in zip(registries, found, strict=True):
        for name in set(registry) - names:
            del registry[name]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs_as_printed(page, models, server, small_runs, registries_as_found, monkeypatch):
    pytest.importorskip("openai") if page.name == "servers.md" else None
    monkeypatch.chdir(models)
    if not Path("labels/dataset").exists():
        row = {"example_id": "1", "prompt": "play", "completion": " jazz", "weak_supervisors": ["ann"]}
        row |= {"weak_weights": [1.0], "weak_offsets": [[[0, 5], [5, 5]]], "weak_logps": [[-0.1, -0.1]]}
        Dataset.from_list([row]).save_to_disk("labels/dataset")
    names = {"SERVER_URL": server}
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.slow
def test_a_newcomers_prompts_are_labelled_by_copied_commands(tmp_path):
    """The block of the quick start, by a shell in an empty folder."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(MODELS=.*?)^```", page, re.S | re.M)
    tool = f"{shlex.quote(sys.executable)} -m trl_weaks.cli"
    script = f'set -e; python() {{ {shlex.quote(sys.executable)} "$@"; }}; ' + re.sub(
        r"^trl-weaks", tool, block, flags=re.M
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| gpt2 |" in done.stdout and '"id":"2"' in (tmp_path / "labels.html").read_text(encoding="utf-8")


def shell_commands() -> list[str]:
    """The commands of this package in the pages' shell blocks, continued lines joined, remarks left out."""
    found = []
    for page in [*PAGES, ROOT / "ds_configs" / "README.md"]:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                line = re.split(r"\s+[#>]\s", line)[0]
                start = re.match(r"(trl-weaks |accelerate launch .*-m trl_weaks.cli )", line)
                if start and "..." not in line and not line.endswith("--help"):
                    found.append(line[start.end() :].strip())
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", shell_commands())
def test_every_command_is_read_as_printed(command):
    """Run they are where they need no files of the reader's; here a wrong option or setting shows."""
    from trl_weaks.cli import build_parser
    from trl_weaks.study.config import CompletionStudyConfig
    from trl_weaks.study.pipeline.launch import parse
    from trl_weaks.study.tasks.find import config_class

    words = shlex.split(command)
    if words[0] != "study":
        assert build_parser().parse_args(words).command == words[0]
        return
    assert words[1] == "--task"
    task = words[2].partition(":")[0]  # classification:intent
    kind = CompletionStudyConfig if task.endswith(".py") else config_class(task)
    preset = words[words.index("--preset") + 1] if "--preset" in words else "tiny"
    assert parse(kind, words[3:]).preset == preset


def hook(name: str):
    """A hook of mkdocs, which reads it as a file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_formulas_are_drawn_by_the_browser_and_none_is_left_as_written():
    module = hook("formulas")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="concepts.md"))
    made = module.on_page_content(r'<span class="arithmatex">\(\log p &lt; 1\)</span>, <b>x</b>', page, None, None)
    assert made.startswith("<math") and made.endswith("</math>, <b>x</b>")
    assert re.sub("<[^>]*>", "", made).startswith("logp&#x0003C;1") and "<mi>log</mi><mspace" in made
    block = module.on_page_content(r'<div class="arithmatex">\[\log (p)\]</div>', page, None, None)
    assert 'display="block"' in block and "<mspace" not in block
    with pytest.raises(ValueError, match="concepts.md: a formula is not between"):
        module.on_page_content('<span class="arithmatex">$x$</span>', page, None, None)


def test_bracketed_names_lead_to_what_is_on_the_page():
    content = (
        '<h3 id="trl_weaks.heads.gone"></h3>[<code>gone</code>], [<code>~trl_weaks.x.far</code>] [<code>a</code>][b]'
    )
    assert hook("cross_references").on_page_content(content, None, None, None) == (
        '<h3 id="trl_weaks.heads.gone"></h3><a href="#trl_weaks.heads.gone"><code>gone</code></a>, '
        "<code>far</code> [<code>a</code>][b]"
    )


def test_types_are_plain_words():
    written = (
        "<code>[`~trl.SFTConfig`] or `dict[str, Any]`, *optional*, defaults to `&#34;a&#34;`</code> <code>x</code>"
    )
    assert hook("cross_references").on_page_content(written, None, None, None) == (
        "<code>SFTConfig or dict[str, Any], optional, defaults to &#34;a&#34;</code> <code>x</code>"
    )


def test_links_to_notebooks_lead_to_their_pages_on_the_site():
    pytest.importorskip("mkdocs", reason="make docs installs it")
    text = "[a](notebooks/swap_into_sft.ipynb) [b](../notebooks/x.ipynb) [the notebook itself](x.ipynb)"
    made = hook("notebook_pages").on_page_markdown(text, None, None, None)
    assert made == "[a](notebooks/swap_into_sft.md) [b](../notebooks/x.md) [the notebook itself](x.ipynb)"


def test_tables_of_registries_have_a_row_for_every_name_and_whole_sentences():
    from trl_weaks.aggregation import AGGREGATORS
    from trl_weaks.losses import LOSSES

    module = hook("registry_tables")
    for name, registry in (("losses", LOSSES), ("aggregators", AGGREGATORS)):
        rows = module.table(name).splitlines()[2:]
        assert [row.split("`")[1] for row in rows] == registry.names()
        assert all(len(row.split(" | ", 1)[1]) > 30 for row in rows)
    assert module.table("completion_aggregators").count("\n") >= 4
    assert module.on_page_markdown("<!-- registry: losses -->\n", None, None, None).startswith("| name |")


def test_links_between_pages_lead_somewhere():
    for page in PAGES[1:]:
        for target in re.findall(r"\]\(([^)#]+\.md)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
