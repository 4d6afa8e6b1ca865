"""The README: one screen, one picture that a command makes of results in the repository, links that lead somewhere."""

import importlib.util
import json
import re
from pathlib import Path

from trl_weaks.study.report.markdown import pgr_text

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_a_screen():
    assert len(README.splitlines()) <= 150


def test_its_picture_is_what_its_command_makes_of_the_results(tmp_path):
    (picture,) = re.findall(r"!\[[^\]]{40,}\]\(([^)]+)\)", README)
    path = ROOT / "docs" / "evidence" / "picture.py"
    spec = importlib.util.spec_from_file_location("picture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    script, results, made = module.__doc__.split("python ")[1].split()
    assert (ROOT / script, made) == (path, picture) and (ROOT / picture).stat().st_size < 150_000
    assert f"python {script} {results} {made}" in (ROOT / "docs" / "evidence" / "scenarios.md").read_text("utf-8")
    found = module.chosen(json.loads((ROOT / results).read_text(encoding="utf-8")))
    drawn = (ROOT / picture).read_text(encoding="utf-8")
    for row in (*found["weak"].values(), *found["methods"].values()):  # the text of each label stands in a comment
        assert f"<!-- {row['label']} -->" in drawn
        if row["role"] in ("method", "baseline"):
            assert f"<!-- {pgr_text(row['pgr'], row['pgr_interval'])} -->" in drawn


def test_every_link_to_a_file_leads_to_one():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert len(targets) > 10 and [target for target in targets if not (ROOT / target).exists()] == []
