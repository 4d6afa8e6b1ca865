"""examples/dialogue_state.py, a task in one file with settings and presets of its own: its data, its score, a run."""

import gzip
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from trl_weaks.study import run_study
from trl_weaks.study.methods import load_module
from trl_weaks.study.pipeline.check_settings import check_settings
from trl_weaks.study.pipeline.launch import make_parser
from trl_weaks.study.pipeline.models import ModelFactory
from trl_weaks.study.pipeline.pretrain import base_stages
from trl_weaks.study.pipeline.run import methods_of
from trl_weaks.study.tasks.checks import check_inputs, check_splits
from trl_weaks.study.tasks.find import task_of

FILE = Path(__file__).resolve().parents[2] / "examples" / "dialogue_state.py"
example = load_module(FILE)
CITIES = "Oslo Paris Lima Rome Quito Cairo Delhi Tokyo Osaka Perth Leeds Turin Basel Porto Miami Dover".split()
ADJECTIVES = "red old cheap quiet huge odd fancy plain bright narrow tall warm cold noisy grand shabby".split()
NOUNS = (
    "lodge tavern bistro cabin suite venue parlour kiosk arcade museum theatre pavilion inn hostel chalet hut".split()
)


def made_turns():
    """256 templates, each with three cities in one of two writings and in two orders; and 256 without slots."""
    for number, (adjective, noun) in enumerate(itertools.product(ADJECTIVES, NOUNS)):
        day = f"March {1 + number % 28}"
        for more in (0, 5, 10):
            city = CITIES[(number + more) % len(CITIES)]
            written = f"{city}, Land" if (number + more) % 3 else f"{city} Land"
            slots = [["check_in_date", day], ["location", written]]
            yield "Hotels", f"Please book the {adjective} {noun} in {written} on {day}.", slots
        yield (
            "Hotels",
            f"Book a {adjective} {noun} on {day} in Paris!",
            [["location", "Paris"], ["check_in_date", day]],
        )
        yield "Hotels", f"Is the {adjective} {noun} open?", []


def line(domain, text, slots, speaker="user"):
    return {"text": text, "speaker": speaker, "domains": [domain], "slots": slots}


def write(folder, lines):
    with gzip.open(folder / "turns.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(one) + "\n" for one in lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("dialogues")
    lines = [line(*turn) for turn in made_turns()]
    lines += [
        line("Hotels", "Which city?", [], "system"),
        line("Hotels", "Oslo it is", [["nobody's", "Oslo"]], "system"),
    ]
    lines += [line("Hotels", "Both", []) | {"domains": ["Hotels", "Events"]}]
    write(found, random.Random(0).sample(lines, len(lines)))
    return found


def task(folder, **settings):
    return example.DialogueState(example.DialogueStateConfig(data_dir=str(folder), **settings))


def values(turns):
    """Slot and value as they stand in a turn, and of a name what stands before a comma, or its first word."""
    return {re.split(r"[ ,]", value)[0] for turn in turns for slot, value in turn.target if slot in example.NAMES}


def phrases(turns):
    return {phrase for turn in turns for phrase in re.findall(rf"(?:{'|'.join(ADJECTIVES)}) \w+", turn.text)}


def test_no_template_and_no_name_stands_on_two_sides(folder):
    made = task(folder)
    splits = check_splits(made, made.splits(0))
    check_inputs(made, splits)
    parts = splits.parts()
    assert all(len(part) >= 10 for part in parts.values())
    for part in parts.values():  # one turn of a template, those with slots and those without beside each other
        assert max(Counter((*phrases([turn]), bool(turn.target)) for turn in part).values()) == 1
        assert [bool(turn.target) for turn in part[:10]] == [True, True, True, True, False] * 2
    for one, two in itertools.combinations(parts, 2):
        if {one, two} != {"validation", "test"}:
            assert not values(parts[one]) & values(parts[two]), (one, two)
        of_slots = [{*phrases(turn for turn in parts[name] if turn.target)} for name in (one, two)]
        assert not of_slots[0] & of_slots[1], (one, two)
    apart = made.unlabelled(1000)
    words = {word for text in apart for word in re.findall(r"\w+", text)}
    assert len(apart) > 20 and not values([*parts["validation"], *parts["test"]]) & words
    assert not {text.partition(": ")[2] for text in apart} & {turn.text for part in parts.values() for turn in part}


def test_the_seed_divides_the_halves_and_nothing_else(folder, tmp_path):
    def templates(turns):
        return [example.template(turn.text, [value for _, value in turn.target]) for turn in turns if turn.target]

    first, again, other = task(folder).splits(0), task(folder).splits(0), task(folder).splits(1)
    assert first == again
    assert first.test == other.test and first.validation == other.validation
    in_file = list(dict.fromkeys(templates(example.user_turns(folder))))
    for part in first.parts().values():  # a study takes the first of them
        places = [in_file.index(one) for one in templates(part)]
        assert places != sorted(places), "the order is the file's"
    assert {turn.id for turn in first.half_a} & {turn.id for turn in other.half_b}
    write(tmp_path, (line(*turn) for turn in reversed(list(made_turns()))))
    turns = {turn.id: turn.text for turn in example.user_turns(tmp_path)}
    assert all(turns[turn.id] == turn.text for part in first.parts().values() for turn in part), (
        "an id is a turn's own"
    )


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("To Rome", ["Rome"]), ("yes, to Salt Lake City please!", ["Salt Lake City"])),
        (("a table for two at 7 pm", ["7 pm"]), ("I want a table for 12 at noon", ["noon"])),
        (("on the 3rd, leaving Rome", ["3rd", "Rome"]), ("leaving Oslo on 4th", ["4th", "Oslo"])),
    ],
)
def test_turns_that_differ_in_values_and_politeness_are_one_template(one, two):
    assert example.template(*one) == example.template(*two)
    assert example.template(*one) != example.template(f"{one[0]} returning", one[1])


def by_hand(answers, turns):
    """The scores of a test set, by loops over slots and turns."""
    right = said = stated = whole = 0
    for answer, turn in zip(answers, turns, strict=True):
        try:
            read = list(json.loads(answer).items())
        except ValueError:
            read = None
        left = [(slot, value.lower().strip(" .!")) for slot, value in turn.target]
        stated += len(left)
        wrong = 0
        for slot, value in read or []:
            said += 1
            if (slot, value.lower().strip(" .!")) in left:
                left.remove((slot, value.lower().strip(" .!")))
                right += 1
            else:
                wrong += 1
        whole += read is not None and not left and not wrong
    precision, recall = right / said if said else 1.0, right / stated if stated else 1.0
    f1 = 2 * right / (said + stated) if said + stated else 1.0
    return {"slot_f1": f1, "exact_state": whole / len(turns), "precision": precision, "recall": recall}


def test_scores_are_those_of_loops(folder):
    made, rng = task(folder), random.Random(0)
    turns = made.splits(0).test
    answers = []
    for turn in turns:
        gold = dict(turn.target)
        some = {slot: rng.choice([value, f" {value.upper()}!", "Atlantis"]) for slot, value in gold.items()}
        kept = {slot: value for slot, value in some.items() if rng.random() < 0.7}
        more = kept | ({"city": "Oslo"} if rng.random() < 0.2 else {})
        answers.append(json.dumps(more) if rng.random() < 0.8 else rng.choice(["no idea", "[]x", '{"date": ']))
    means = [sum(column) / len(turns) for column in zip(*map(made.statistics, answers, turns), strict=True)]
    found, expected = made.total(means), by_hand(answers, turns)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, abs=1e-12)
    assert list(found)[0] == "slot_f1" and 0.1 < expected["slot_f1"] < 0.9 and 0.1 < expected["exact_state"] < 0.9


@pytest.mark.parametrize(
    ("answer", "slots", "f1", "state"),
    [
        ("{}", [], 1.0, 1.0),
        ("nothing to say", [], 1.0, 0.0),
        ('{"date": "today"}', [], 0.0, 0.0),
        ("{}", [["date", "today"]], 0.0, 0.0),
        ("", [["date", "today"]], 0.0, 0.0),
        ('["date", "today"]', [["date", "today"]], 0.0, 0.0),
        ('{"date": "TODAY."} and so on', [["date", "today"]], 1.0, 1.0),
        ('{"city": "Rome & Oslo"}', [["city", "Oslo"], ["city", "Rome"]], 1.0, 1.0),
        ('{"city": "Rome & Rome"}', [["city", "Rome"]], 2 / 3, 0.0),
        ('{"title": "the"}', [["title", "The"]], 1.0, 1.0),
        ('{"title": "An"}', [["title", "The"]], 0.0, 0.0),
    ],
)
def test_a_state_is_right_or_not(answer, slots, f1, state, tmp_path):
    found = task(tmp_path).score(answer, example.Turn("1", "text", slots, "Hotels"))
    assert (found["slot_f1"], found["exact_state"]) == (pytest.approx(f1), state)
    assert task(tmp_path).parsed(answer) == answer.startswith("{")


def test_an_answer_of_gold_is_right_whichever_prompt(folder):
    for prompt in ("short", "listed"):
        made = task(folder, prompt=prompt)
        for turn in made.splits(0).test:
            assert made.score(made.completion(turn), turn) == dict.fromkeys(made.total([1, 1, 1, 1]), 1.0)
    (asked,) = {made.prompt(turn).splitlines()[0] for turn in made.splits(0).test}
    assert asked == (
        "Which of the slots date, end_date, city, place, nights, rating does a user state who says this about hotels?"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"text": "hi", "speaker": "user", "slots": []}, "line 2: `speaker` and a list of `domains` are needed"),
        (line("Hotels", "Rome", [["town", "Rome"]]), "line 2: the ontology has no slot Hotels.town"),
        (line("Space", "hi", []), "line 2: the ontology has no domain 'Space'"),
        ({"text": "hi", "speaker": "user", "domains": ["Hotels"]}, "line 2: KeyError"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(bad, message, tmp_path):
    write(tmp_path, [line("Hotels", "hello", []), bad])
    with pytest.raises(ValueError, match=re.escape(message)):
        task(tmp_path).splits(0)


@pytest.mark.parametrize("given", [str(FILE), example.DialogueState])
def test_a_study_without_a_folder_is_refused(given, tmp_path):
    with pytest.raises(ValueError, match="`data_dir` is not set; name the folder of turns.jsonl.gz"):
        run_study(given, ["naive"], "tiny", tmp_path)


@pytest.mark.parametrize("preset", ["tiny", "pretrained"])
def test_presets_are_found_complete_and_settings_that_trainers_take(preset, folder):
    kind = example.DialogueStateConfig
    settings = yaml.safe_load(kind.preset_path(preset).read_text(encoding="utf-8"))
    config = kind(**settings | {"data_dir": str(folder), "output_dir": "run"})
    made = task_of(str(FILE), config)
    check_settings(config, made, methods_of(config, made))
    pretrained = base_stages(config, made, ModelFactory(config))
    assert set(pretrained) == {"gpt2", "opt", "gpt_neox", *(["student"] if preset == "tiny" else [])}
    assert preset in " ".join(make_parser(kind).format_help().split())
    with pytest.raises(ValueError, match="Known: pretrained, tiny."):
        kind.preset_path("huge")


def test_the_file_runs_as_a_study(folder, tmp_path):
    size = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "max_length": 128}
    trained = {"per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 5e-3}
    found = run_study(
        str(FILE),
        ["naive"],
        None,
        tmp_path / "run",
        data_dir=str(folder),
        weak_models=["tiny:gpt2", "tiny:opt"],
        student_model="tiny:llama",
        tiny_models=dict.fromkeys(["gpt2", "opt", "llama"], size),
        pretraining={"sentences": 20, "reading": 1, "copying": 1, "training": trained},
        weak_training=trained,
        student_training=trained,
        num_gold=10,
        num_weak=10,
        num_validation=5,
        num_test=10,
        num_candidates=2,
        max_new_tokens=56,
        eval_beams=1,
        seeds=[0],
    )
    row = found["naive"]
    assert 0 <= row["slot_f1"] <= 1 and 0 <= row["exact_state"] <= 1 and "slot F1" in found.report.read_text("utf-8")
    assert set(found.results["weak"]) == {"gpt2", "opt"}
