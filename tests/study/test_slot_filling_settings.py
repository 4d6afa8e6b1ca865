"""Settings, presets, methods and label views of the slot-filling study: no model is trained here."""

import pytest
import yaml
from datasets import Dataset

from trl_weaks.aggregation.transforms import KeepBest
from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.methods import choose_methods
from trl_weaks.study.paper_methods import completion_headline, completion_methods
from trl_weaks.study.pipeline.label_views import completions_by_supervisor, only_supervisors
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.pretrain import base_stages
from trl_weaks.study.tasks.slot_filling import SlotFilling

NAMES = ["gpt2", "opt", "gpt_neox"]


def test_all_methods_are_the_rows_of_tables_4_and_5():
    methods = completion_methods(NAMES)
    assert len(methods) == (3 + 4) * 4  # three singles, naive, joint, Bayesian; with and without confidence, auxiliary
    assert methods["joint_hard_aux"].labels == "joint" and methods["joint_hard_aux"].settings == {"soft_labels": False}
    assert methods["bayesian"].over({"gamma_max": 0.25, "beta": 1}) == {
        "weak_loss": "bayesian", "soft_labels": True, "gamma_max": 0.0, "beta": 1,
    }  # fmt: skip
    assert methods["single_opt"].supervisors == ("opt",)


def test_choosing_methods():
    def choose(names):
        return [m.name for m in choose_methods(names, completion_methods(NAMES), completion_headline(NAMES), NAMES)]

    assert choose(["headline"]) == completion_headline(NAMES)
    assert choose(["naive", "ceiling", "naive"]) == ["naive"]
    with pytest.raises(ValueError, match="Unknown method 'nave'. Did you mean 'naive'.*bayesian_aux"):
        choose(["nave"])


@pytest.mark.parametrize("preset", ["tiny", "tiny_full", "slurp", "pretrained", "small", "paper"])
def test_presets_are_complete(preset):
    config = SlotFillingConfig(**yaml.safe_load(SlotFillingConfig.preset_path(preset).read_text(encoding="utf-8")))
    assert len(config.weak_models) == 3 and len(set(config.supervisor_names)) == 3
    ModelFactory(config)
    assert config.weak_training and config.student_training and config.preference_training


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="Unknown preset 'huge'. Known: paper, pretrained, slurp, small, tiny, tiny_full"
    ):
        SlotFillingConfig.preset_path("huge")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"stages": ["weak", "train"]}, "Unknown stages"),
        ({"dataset": "snips"}, "must be grammar or slurp"),
        ({"prompt": "long"}, "must be short or paper"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"weak_models": ["a", "a"]}, "twice"),
        ({"weak_models": ["a", "b"], "weak_weights": [1.0]}, "1 values for 2 supervisors"),
        ({"generation_batch_size": 0}, "generation_batch_size` must be a whole number, at least 1; got 0"),
        ({"weak_models": ["a"], "weak_learning_rates": [1.0, 2.0]}, "2 values for 1 supervisors"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SlotFillingConfig(**settings)


def test_max_examples_caps_every_split():
    config = SlotFillingConfig(num_gold=100, num_weak=5, num_test=None, max_examples=10)
    assert (config.num_gold, config.num_weak, config.num_test) == (10, 5, 10)


def test_supervisor_names_are_short_and_unique():
    config = SlotFillingConfig(weak_models=["openai-community/gpt2-large", "./models/OPT/"])
    assert config.supervisor_names == ["gpt2-large", "opt"]
    assert SlotFillingConfig(weak_models=["a/base", "b/base"]).supervisor_names == ["base_1", "base_2"]


def test_a_tiny_model_without_sizes_is_refused():
    with pytest.raises(ValueError, match="no sizes for 'tiny:opt'"):
        ModelFactory(SlotFillingConfig(weak_models=["tiny:opt"], student_model="some/model"))
    with pytest.raises(ValueError, match="`student_model` is not set"):
        ModelFactory(SlotFillingConfig(weak_models=["some/model"]))


def test_a_pretraining_plan_that_means_nothing_is_refused():
    config = SlotFillingConfig(num_gold=5, num_weak=5, num_validation=2, num_test=2, pretraining={"copying": 0})
    with pytest.raises(ValueError, match="asks for no rows"):
        SlotFilling(config).pretraining_rows(config.pretraining)


def test_pretraining_copies_first_and_never_shows_a_test_sentence(dialogues_dir):
    plan = {"sentences": 50, "copying": 2, "dialogues": 30}
    settings = dict(num_gold=5, num_weak=5, num_validation=2, num_test=200, pretraining=plan)
    config = SlotFillingConfig(**settings, pretrain_dir=str(dialogues_dir))
    source = SlotFilling(config)
    rows, texts = source.pretraining_rows(plan)
    alone, _ = SlotFilling(SlotFillingConfig(**settings)).pretraining_rows(plan)
    assert rows[: len(alone)] == alone and len(rows) == len(alone) + 30
    tested = {example.text for example in source.splits(0).test}
    assert not tested & {row["prompt"].strip() for row in rows} and not tested & set(texts)


def test_pretraining_reads_first_then_copies_jumble_then_sentences():
    plan = {"sentences": 40, "reading": 2, "jumbled_copying": 30, "copying": 1, "mixed_reading": 0.5, "clean_share": 1}
    config = SlotFillingConfig(num_gold=5, num_weak=5, num_validation=2, num_test=2)
    source = SlotFilling(config)
    rows, _ = source.pretraining_rows(plan)
    copied = ["{" in row["completion"] for row in rows]
    sentences = {f" {text}\n" for text in source.unlabelled(40)}
    reading, rest = sum(not copy for copy in copied[:80]), rows[80 + 30 :]
    assert reading == 80 and all(copied[80:110]) and not sentences & {row["prompt"] for row in rows[80:110]}
    assert sum("{" not in row["completion"] for row in rest) == round(0.5 * sum("{" in r["completion"] for r in rest))
    assert {row["prompt"] for row in rest if "{" in row["completion"]} <= sentences


def test_supervisors_get_a_base_of_their_own_where_the_plan_says_so():
    settings = dict(num_gold=5, num_weak=5, num_validation=2, num_test=2, weak_models=["tiny:opt", "some/model"])
    sizes = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 160}
    settings |= {"student_model": "tiny:llama", "tiny_models": {"opt": sizes, "llama": sizes | {"layers": 2}}}
    training = {"learning_rate": 1e-3, "per_device_train_batch_size": 4}
    plan = {"sentences": 40, "reading": 2, "copying": 3, "training": training}
    config = SlotFillingConfig(**settings, pretraining=plan, weak_pretraining={"reading": 1})
    bases = base_stages(config, SlotFilling(config), ModelFactory(config))
    base = bases["opt"]
    assert base.spec["plan"] == {"sentences": 40, "dialogues": 0, "reading": 1, "training": training}
    assert base.folder.name == "base-opt" and list(bases) == ["student", "opt"]
    without = SlotFillingConfig(**settings, pretraining=plan)
    assert list(base_stages(without, SlotFilling(without), ModelFactory(without))) == ["student"]


def test_the_test_split_is_the_same_for_every_seed():
    source = SlotFilling(SlotFillingConfig(num_gold=20, num_weak=20, num_validation=5, num_test=20))
    first, second = source.splits(0), source.splits(1)
    assert first.test == second.test and first.half_a != second.half_a


@pytest.fixture
def labels() -> Dataset:
    def row(example, completion, names, weights):
        spans = [[0, len(completion)], [len(completion)] * 2]
        return {
            "example_id": example,
            "prompt": "p\n",
            "completion": completion,
            "weak_supervisors": names,
            "weak_weights": weights,
            "weak_offsets": [spans for _ in names],
            "weak_logps": [[-0.1 * (i + 1), 0.0] for i, _ in enumerate(names)],
        }

    return Dataset.from_list(
        [row("0", "{}", ["a", "b"], [0.5, 0.25]), row("0", '{"x": "y"}', ["c"], [0.25]), row("1", "{}", ["a"], [1.0])]
    )


def test_only_some_supervisors(labels):
    chosen = only_supervisors(labels, ["b", "c"])
    assert chosen["weak_supervisors"][:] == [["b"], ["c"]]
    assert chosen["weak_weights"][:] == [[0.5], [0.5]]
    assert chosen["weak_logps"][0] == [[-0.2, 0.0]]  # b's own, not a's
    assert chosen.features == labels.features
    sources = labels.add_column("confidence_source", [["stated", None], ["logprobs"], [None]])
    assert only_supervisors(sources, ["b", "c"])["confidence_source"][:] == [[None], ["logprobs"]]
    with pytest.raises(ValueError, match="No labels by d; the dataset has a, b, c"):
        only_supervisors(labels, ["d"])


def test_the_score_of_what_is_left_is_that_of_the_supervisors_that_are(labels):
    """Of two answers b finds one unlikely, which a alone would choose."""
    rows = [
        {"weak_supervisors": ["a", "b"], "weak_weights": [0.25, 0.75], "weak_logps": [[-0.1, 0.0], [-6.0, 0.0]]},
        {"weak_supervisors": ["a", "b"], "weak_weights": [0.25, 0.75], "weak_logps": [[-2.0, 0.0], [-0.1, 0.0]]},
    ]
    made = [
        labels[number]
        | row
        | {"example_id": str(number), "weak_offsets": [[[0, 2], [2, 2]]] * 2}
        | {"weak_score": 0.25 * sum(row["weak_logps"][0]) / 2 + 0.75 * sum(row["weak_logps"][1]) / 2}
        for number, row in enumerate(rows)
    ]
    both = Dataset.from_list(made)
    assert KeepBest(0.5)(both)["example_id"][:] == ["1"]
    assert only_supervisors(both, ["a", "b"])["weak_score"][:] == pytest.approx(both["weak_score"][:])
    alone = only_supervisors(both, ["a"])
    assert alone["weak_score"][:] == pytest.approx([-0.05, -1.0])
    assert KeepBest(0.5)(alone)["example_id"][:] == ["0"]


def test_completions_by_supervisor(labels):
    assert completions_by_supervisor(labels) == {
        "a": {"0": "{}", "1": "{}"},
        "b": {"0": "{}"},
        "c": {"0": '{"x": "y"}'},
    }


def test_each_word_has_its_own_confidence_whatever_stands_between_words():
    """Words of one token each, apart by several blanks: by hand, e^-0.1, e^-0.2, e^-0.7."""
    from math import exp

    from trl_weaks.study.report.completions import word_confidences

    completion = '\n\n\n{"a":  "b"\t}'
    spans, logps = [[3, 8], [10, 13], [14, 15], [15, 15]], [-0.1, -0.2, -0.7, 0.0]
    row = {"example_id": "0", "prompt": "p\n", "completion": completion, "weak_supervisors": ["a"]}
    row |= {"weak_weights": [1.0], "weak_offsets": [spans], "weak_logps": [logps]}
    confidences, right = word_confidences(Dataset.from_list([row]), {"0": '{"a": "c" }'})["a"]
    assert confidences == pytest.approx([exp(-0.1), exp(-0.2), exp(-0.7)]) and right == [True, False, True]


def test_max_examples_caps_pretraining_too():
    plan = {"sentences": 12000, "jumbled_copying": 30, "reading": 2}
    config = SlotFillingConfig(max_examples=50, pretraining=plan, weak_pretraining={"copying": 1}, num_test=None)
    assert (config.num_gold, config.num_weak, config.num_validation, config.num_test) == (50, 50, 50, 50)
    assert config.capped(config.pretraining) == {"sentences": 50, "jumbled_copying": 30, "reading": 2}
    assert config.capped(config.weak_pretraining) == {"sentences": 50, "copying": 1}
    assert SlotFillingConfig(pretraining=plan).capped(plan) == plan
