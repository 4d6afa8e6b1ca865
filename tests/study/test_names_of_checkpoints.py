"""A study's classifiers are trained to the task's order of classes, and what their checkpoints called them is gone."""

import pytest
from tiny import classifier
from tiny_tokenizers import word_level

from trl_weaks import WeakClassifier
from trl_weaks.study import ClassificationTask, Example, Splits
from trl_weaks.study.config import ClassificationConfig
from trl_weaks.study.pipeline.classifiers import ClassifierFactory
from trl_weaks.study.pipeline.run import methods_of, seed_runs
from trl_weaks.study.tasks.find import checked_task

TURNED = {0: "POSITIVE", 1: "NEGATIVE"}


class Sentiment(ClassificationTask):
    name, classes = "sentiment", ("negative", "positive")

    def splits(self, seed):
        made = [Example(str(n), f"text {n}", n % 2) for n in range(12)]
        return Splits(made[:4], made[4:8], made[8:10], made[10:])


@pytest.fixture
def checkpoint(tmp_path):
    """A sentiment model of another order, whose names a study must not sort its votes by."""
    called = {"id2label": TURNED, "label2id": {name: k for k, name in TURNED.items()}}
    tokenizer = word_level(["text"])
    classifier("bert", len(tokenizer), **called).save_pretrained(tmp_path / "turned")
    tokenizer.save_pretrained(tmp_path / "turned")
    return str(tmp_path / "turned")


@pytest.mark.parametrize(
    "classes, called",
    [
        (["negative", "positive"], ["negative", "positive"]),
        (["1", "2"], ["LABEL_0", "LABEL_1"]),  # a number would be taken for a place
        (["Yes", "yes"], ["LABEL_0", "LABEL_1"]),
    ],
)
def test_every_model_is_said_to_have_the_tasks_order(checkpoint, classes, called, tmp_path):
    factory = ClassifierFactory(ClassificationConfig(student_model=checkpoint, weak_models=[checkpoint]), classes)
    supervisor, tokenizer = factory.weak(checkpoint, 0, [])
    supervisor.save_pretrained(tmp_path / "weak")
    tokenizer.save_pretrained(tmp_path / "weak")
    for model in (supervisor, factory.student(None)[0], factory.trained(tmp_path / "weak")[0]):
        assert model.config.id2label == dict(enumerate(called))
        assert model.config.label2id == {name: k for k, name in enumerate(called)}
    names = WeakClassifier(*factory.trained(tmp_path / "weak"), name="a").class_names
    assert names == (called if called == classes else None)


def test_labels_that_earlier_runs_sorted_by_other_names_are_made_anew(checkpoint, tmp_path):
    def spec(*models):
        config = ClassificationConfig(
            output_dir=str(tmp_path), weak_models=list(models), student_model="pypi:minilm", methods=["naive"]
        )
        (run,) = seed_runs(config, Sentiment(), methods_of(config, Sentiment()))[:1]
        return run.label_spec()

    assert "class_names" in spec("pypi:minilm", checkpoint)
    assert "class_names" not in spec("pypi:minilm")


def test_classes_that_are_no_text_are_refused():
    class Numbers(Sentiment):
        classes = (1, 0)

    with pytest.raises(ValueError, match=r"`classes` must be names, as text.*\[1, 0\]"):
        checked_task(Numbers(), "task")
