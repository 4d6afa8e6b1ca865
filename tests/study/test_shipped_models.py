"""Shipped models are those of the default plan, whole and loadable; any other plan trains."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.models import shipped as shipped_models
from trl_weaks.study.pipeline.launch import parse
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.pretrain import base_stages
from trl_weaks.study.tasks.slot_filling import SlotFilling


def stages(tmp_path, **changes):
    config = parse(SlotFillingConfig, ["--output_dir", str(tmp_path)])
    for name, value in changes.items():
        setattr(config, name, value)
    return list(base_stages(config, SlotFilling(config), ModelFactory(config)).values())


def test_the_default_run_starts_from_what_is_shipped(tmp_path):
    """A change of the plan, the sizes or the embedded grammar needs `python -m trl_weaks.study.models.ship`."""
    for stage in stages(tmp_path):
        assert stage.spec["shipped"]
        stage.run()
        tokenizer = AutoTokenizer.from_pretrained(stage.folder)
        model = AutoModelForCausalLM.from_pretrained(stage.folder)
        assert model.config.vocab_size == len(tokenizer) and stage.done()


def test_a_quick_look_starts_from_what_is_shipped_and_else_reads_no_more_than_it_may(tmp_path):
    assert all("shipped" in stage.spec for stage in stages(tmp_path, max_examples=50))
    (student, *_) = stages(tmp_path, max_examples=50, pretrain=True)
    assert student.spec["plan"]["sentences"] == student.spec["plan"]["jumbled_copying"] == 50


@pytest.mark.parametrize("changed", [{"pretrain": True}, {"pretraining": {"reading": 1}}])
def test_another_plan_trains(tmp_path, changed):
    assert "shipped" not in stages(tmp_path, **changed)[0].spec


def test_shipping_and_finding(tmp_path):
    stage = stages(tmp_path / "run")[1]
    stage.run()
    (stage.folder / "stage.json").write_text(json.dumps({"spec": stage.spec}))
    shipped_models.ship({"one": stage.folder}, tmp_path / "shipped")
    entry = shipped_models.find(stage.spec, tmp_path / "shipped")
    assert entry["files"] == stage.spec["shipped"] and entry["folder"] == "one"
    assert shipped_models.find(stage.spec | {"plan": {}}, tmp_path / "shipped") is None
    assert shipped_models.find(stage.spec, tmp_path / "nothing") is None


def test_an_altered_file_is_named(tmp_path):
    stage = stages(tmp_path / "run")[1]
    shutil.copytree(shipped_models.FOLDER, tmp_path / "shipped")
    (tmp_path / "shipped" / "gpt2" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json is not the file that the package came with"):
        shipped_models.find(stage.spec, tmp_path / "shipped")
