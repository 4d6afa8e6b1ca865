"""Models and labels go to a Hub and come back the same; their cards are true, and nothing private goes along."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import local_hub
import pytest
import yaml

HERE = Path(__file__).parent
KNOWN = ("https://arxiv.org/abs/", "https://huggingface.co/papers/", "https://github.com/huggingface/")
TOKEN = "hf_SecretSecretSecretSecretSecret1234"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The hub after the run, what the run compared, and its room."""
    room = tmp_path_factory.mktemp("private-room")
    with local_hub.running() as hub:
        where = {"HF_ENDPOINT": hub.url, "HF_HOME": str(room / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        plain = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "CI": "1", "NO_PROXY": "127.0.0.1"}
        plain["PYTHONPATH"] = os.pathsep.join(sys.path)
        run = subprocess.run(
            [sys.executable, str(HERE / "round_trip.py"), str(room), TOKEN],
            env=plain | where | quiet,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr[-4000:]
        yield hub, json.loads(run.stdout.splitlines()[-1]), room


def card(hub, repository: str) -> tuple[dict, str]:
    head, text = hub.repositories[repository]["README.md"].decode().split("---\n", 2)[1:]
    return yaml.safe_load(head), text


def test_what_was_pushed_comes_back_the_same(pushed):
    _, found, _ = pushed
    for name in ("labels", "one", "student", "tokenizer", "classifier", "aligned", "token_stays", "no_licence"):
        assert found[name] is True, name
    assert found["reloaded_eval_loss"] == found["eval_loss"]
    assert found["code"] >= 3, "the code of the cards ran"


def test_nothing_private_goes_along(pushed):
    """Every byte that went out: no token, no path of this machine, in files that cards and checkpoints consist of."""
    hub, _, room = pushed
    secrets = [TOKEN, str(room), room.name, str(Path.home()) + "/"]
    for repository, files in hub.repositories.items():
        for path, content in files.items():
            for secret in secrets:
                assert secret.encode() not in content, f"{repository}: {path} holds {secret}"
    assert "training_args.bin" in hub.repositories["models/me/student"], "else this test looks at too little"


def test_the_students_card_is_true(pushed):
    hub, found, _ = pushed
    head, text = card(hub, "models/me/student")
    assert head["license"] == "apache-2.0" and "licence" not in head and "base_model" not in head
    assert head["datasets"] == ["me/labels"] or head["datasets"] == "me/labels"
    (result,) = head["model-index"][0]["results"]
    metrics = {metric["type"]: metric for metric in result["metrics"]}
    assert metrics["loss"]["value"] == pytest.approx(found["eval_loss"], rel=1e-4)
    assert metrics["pgr"]["value"] == 0.43 and metrics["pgr"]["args"] == {"interval_95": [0.33, 0.52]}
    assert "[None]" not in text and '"None"' not in text and "not on the Hub" in text
    assert "| weak supervisors | `ann`, `bob` |" in text and "not by people" not in text
    head, text = card(hub, "models/me/grandchild")
    assert head["base_model"] == "me/student" and head["license"] == "apache-2.0" and "[me/student](" in text
    head, text = card(hub, "models/me/aligned")
    assert head["base_model"] == "me/student" and "| pairs | 4 |" in text
    head, text = card(hub, "models/me/classifier")
    assert head["license"] == "mit" and "not by people" not in text and 'model="me/classifier"' in text


def test_the_labels_card_says_what_each_column_is(pushed):
    hub, _, _ = pushed
    head, text = card(hub, "datasets/me/labels")
    assert head["license"] == "cc-by-4.0" and {c["config_name"] for c in head["configs"]} == {"people", "one"}
    assert "pypi.org" not in text, "a page that may not be there"
    assert "| `weak_weights` |" in text and "| `weak_probs` |" not in text
    assert text.count('load_dataset("me/labels", "people", split="train")') == 1
    assert text.count("## Labels `people`") == 1 and text.count("## Labels `one`") == 1
    assert '"completion": " yes"' in text or '"completion": " no"' in text


def test_links_of_cards_lead_to_what_was_pushed_or_to_pages_that_are_there(pushed):
    hub, _, _ = pushed
    seen = set()
    for repository, files in hub.repositories.items():
        text = files["README.md"].decode()
        links = set(re.findall(r"\]\(([^)]+)\)|\b(https?://[^\s)<>\"'`]+)", text))
        for link in filter(None, (one or other for one, other in links)):
            place = link.removeprefix("https://huggingface.co/")
            here = place if place.startswith("datasets/") else f"models/{place}"
            assert link.startswith(KNOWN) or here in hub.repositories, f"{repository}: {link}"
            seen.add(link)
    assert len(seen) > 2


def test_a_study_comes_back_with_its_numbers(pushed):
    hub, found, _ = pushed
    assert found["study_labels"] is True and found["answers"] is True
    head, text = card(hub, "models/our-lab/two-naive-seed1")
    (result,) = head["model-index"][0]["results"]
    metrics = {metric["type"]: metric for metric in result["metrics"]}
    row = found["parity"]
    assert metrics["accuracy"]["value"] == pytest.approx(found["accuracy"]) == row["accuracy_per_seed"][1]
    assert head["license"] == "apache-2.0" and head["datasets"] in (["our-lab/two-labels"], "our-lab/two-labels")
    assert f"mean of 2 seeds [95% interval] | {row['accuracy']:.3f}" in text and "`gpt2`, `opt`" in text
    head, _ = card(hub, "models/me/parity-naive")
    (result,) = head["model-index"][0]["results"]
    interval = next(m for m in result["metrics"] if m["type"] == "accuracy")["args"]["interval_95"]
    assert interval[0] <= next(m for m in result["metrics"] if m["type"] == "accuracy")["value"] <= interval[1]
    head, _ = card(hub, "models/me/sums-naive")
    assert (
        "adapter_config.json" not in hub.repositories["models/me/sums-naive"]
        and head["library_name"] == "transformers"
    )
    assert {
        "models/me/sums-naive",
        "datasets/me/sums-labels",
    } <= hub.private and "models/me/parity-naive" not in hub.private


def test_a_study_has_one_collection_however_often_it_is_pushed(pushed):
    hub, found, _ = pushed
    there = {c["title"]: c for c in hub.collections.values()}
    assert set(there) == {"parity", "two", "sums"} and [c["private"] for c in there.values()] == [False, False, True]
    items = [(item["type"], item["id"]) for item in there["parity"]["items"]]
    assert items == [("dataset", "me/parity-labels"), ("model", "me/parity-naive")]
    assert [i["id"] for i in there["two"]["items"][1:]] == ["our-lab/two-naive-seed0", "our-lab/two-naive-seed1"]
    assert "PGR" in there["two"]["items"][1]["note"]["text"] and there["two"]["owner"]["name"] == "our-lab"
    assert (
        "yours are me, our-lab" in found["refused"]["somebody/else"] and "is public" in found["refused"]["me/parity"]
    )
