# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks[plots]"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
A task of one's own, in one file with settings and presets of its own: the state of a dialogue after what a user says.

    accelerate launch examples/dialogue_state.py --data_dir path/to/dialogues                        # tiny models
    accelerate launch examples/dialogue_state.py --data_dir path/to/dialogues --preset pretrained    # SmolLM2-135M
    trl-weaks study --task examples/dialogue_state.py --data_dir path/to/dialogues --methods all     # or so

A model reads a domain and one turn, "hotels: I will check in on the 2nd of March", and answers with the slots that the
turn states as JSON, {"date": " 2nd of March"}. `path/to/dialogues` holds turns.jsonl.gz, turns of the Schema-Guided
Dialogue data (Rastogi et al., 2020; CC BY-SA 4.0), an object a line: {"text": "I will check in on the 2nd of March",
"speaker": "user", "domains": ["Hotels"], "slots": [["check_in_date", "2nd of March"]]}. What its services call the
slots, often the same by several names, becomes one of the 22 slots of an ontology of this file.

The data is made from templates and few names. Of turns that differ in values and politeness alone one is kept; no name
that supervisors were taught stands in what they label, and none of either in validation and test.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trl_weaks.metrics.agreement import slot_agreement
from trl_weaks.study import CompletionTask, Example, Splits
from trl_weaks.study.config import CompletionStudyConfig
from trl_weaks.study.data.pretraining import curriculum, read_turns
from trl_weaks.study.data.rows import normalise
from trl_weaks.study.data.targets import decode_slots, encode_slots
from trl_weaks.study.stages import fingerprint

ONTOLOGY = {  # slot -> what the data's services call it, DOMAIN.slot; ours
    "date": "Buses.departure_date Buses.leaving_date Calendar.event_date Events.date Flights.departure_date "
    "Homes.visit_date Hotels.check_in_date Movies.show_date RentalCars.pickup_date RentalCars.start_date "
    "Restaurants.date Services.appointment_date Trains.date_of_journey Weather.date",
    "end_date": "Flights.return_date Hotels.check_out_date RentalCars.dropoff_date RentalCars.end_date",
    "time": "Alarm.new_alarm_time Buses.departure_time Buses.leaving_time Calendar.event_time Movies.show_time "
    "Flights.outbound_departure_time RentalCars.pickup_time Restaurants.time Services.appointment_time",
    "return_time": "Flights.inbound_departure_time",
    "city": "Events.city Events.city_of_event Homes.area Hotels.destination Hotels.location Hotels.where_to "
    "Movies.location RentalCars.city RentalCars.pickup_city Restaurants.city Restaurants.location Services.city "
    "Travel.location Weather.city",
    "origin": "Buses.from_city Buses.from_location Buses.origin Flights.origin Flights.origin_airport "
    "Flights.origin_city Trains.from",
    "destination": "Buses.destination Buses.to_city Buses.to_location Flights.destination Flights.destination_airport "
    "Flights.destination_city RideSharing.destination Trains.to",
    "place": "Homes.property_name Hotels.hotel_name Movies.theater_name RentalCars.pickup_location "
    "Restaurants.restaurant_name Services.dentist_name Services.doctor_name Services.stylist_name",
    "address": "Calendar.event_location Messaging.location",
    "event": "Alarm.new_alarm_name Calendar.event_name Events.event_name",
    "title": "Media.movie_name Media.title Movies.movie_name Music.song_name",
    "album": "Music.album",
    "artist": "Music.artist",
    "actor": "Media.actors Media.starring Movies.cast Movies.starring",
    "director": "Media.directed_by Media.director Movies.directed_by Movies.director",
    "person": "Banks.recipient_account_name Banks.recipient_name Messaging.contact_name Payment.receiver",
    "kind": "Events.category Events.subcategory",
    "genre": "Media.genre Movies.genre Music.genre",
    "cuisine": "Restaurants.category Restaurants.cuisine",
    "amount": "Banks.amount Banks.transfer_amount Payment.amount",
    "nights": "Hotels.number_of_days Hotels.stay_length",
    "rating": "Hotels.rating",
}
SLOT_OF = {place: slot for slot, places in ONTOLOGY.items() for place in places.split()}
DOMAINS = sorted({place.partition(".")[0] for place in SLOT_OF})
# Whose values no two of half A, half B and test share. Dates, kinds of food and the like are the same few everywhere.
NAMES = frozenset("city origin destination place address event title album artist actor director person".split())
# What two turns may differ in and still be one template; pieces of words are what apostrophes leave.
LITTLE = frozenset(
    """a an the this that these those there here it its i im me my mine we us our you your he she they them s m d re ll
    ve t am is are was be been being do does did done have has had will would should could can may might must shall let
    lets don to of for on at in from by with and or but so if as about into up out then also too just only please
    thanks thank yes yeah yep no nope not ok okay sure great good fine well hey hi hello oh actually want wants wanted
    need needs needed like liked looking look find get give tell show help make go going some any one
    something""".split()
)
NUMBERS = frozenset(
    """zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand half quarter first second
    third monday tuesday wednesday thursday friday saturday sunday january february march april june july august
    september october november december morning afternoon evening night am pm today tomorrow""".split()
)
FULL = 4  # turns with slots for each one without; in the data there are two for three
VALUE = "\x00"


@dataclass
class DialogueStateConfig(CompletionStudyConfig):
    """Settings of this study. A preset gives the values; the command line overrides them."""

    kind: ClassVar[str] = "dialogue_state"
    presets: ClassVar[Path] = Path(__file__).resolve().parent

    preset: str | None = field(
        default=None,
        metadata={"help": "tiny (two CPU cores) or pretrained (SmolLM2-135M); instead of --config. Default: tiny."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of turns.jsonl.gz."})
    prompt: str = field(
        default="short",
        metadata={"help": "short (domain and turn, for models that are trained), or listed (the domain's slots too)."},
    )

    def __post_init__(self):
        if self.prompt not in ("short", "listed"):
            raise ValueError(f"`prompt` must be short or listed; got {self.prompt!r}.")
        super().__post_init__()


@dataclass(frozen=True)
class Turn(Example):
    """What a user says, and in which of the data's domains."""

    domain: str = ""

    @property
    def spoken_domain(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.domain).lower()  # RentalCars: rental cars


class DialogueState(CompletionTask):
    """Slots that a turn states, scored with the micro-averaged F1 of slot and value, and by whole states.

    >>> task = DialogueState(DialogueStateConfig())
    >>> turn = Turn("1", "To Paris on the 7th", [["destination", "Paris"], ["date", "the 7th"]], "Flights")
    >>> task.prompt(turn)
    ' flights: To Paris on the 7th\\n'
    >>> task.completion(turn)
    '{"destination": " Paris", "date": " the 7th"}'
    >>> task.score('{"destination": "paris!", "date": "the 8th"}', turn)["slot_f1"]  # one of two
    0.5
    """

    name = "dialogue_state"
    title = "Weak-to-strong dialogue state"
    score_title = "slot F1"
    config_class = DialogueStateConfig
    pretrains_on_pairs = True
    pretraining_keys = frozenset(
        "sentences reading jumbled_copying copying mixed_reading random_share clean_share training".split()
    )

    def __init__(self, config: DialogueStateConfig):
        self._config = config
        self._lead = " " if config.prompt == "short" else ""  # a word has one spelling in tokens, in turn and answer

    @classmethod
    def from_config(cls, config: DialogueStateConfig) -> "DialogueState":
        if config.data_dir is None:
            raise ValueError("`data_dir` is not set; name the folder of turns.jsonl.gz.")
        return cls(config)

    @property
    def identity(self) -> Any:
        return [ONTOLOGY, self._config.prompt]

    def description(self) -> str:
        return (
            f"user turns of the Schema-Guided Dialogue data (Rastogi et al., 2020; CC BY-SA 4.0), {len(ONTOLOGY)} "
            "slots; one turn of each template, and names of half A, half B and test apart."
        )

    # data

    @cached_property
    def _templates(self) -> dict[str, list[Turn]]:
        """Template -> the turns that follow it, in the order of the file; of turns with the same words the first."""
        found: dict[str, list[Turn]] = {}
        seen: set[str] = set()
        for turn in user_turns(Path(self._config.data_dir)):
            if (text := normalise(turn.text)) and text not in seen:
                seen.add(text)
                found.setdefault(template(turn.text, [value for _, value in turn.target]), []).append(turn)
        return found

    @cached_property
    def _short_names(self) -> dict[str, str]:
        """Names with a comma -> what stands before it, since some write "Paris France"."""
        turns = [turn for found in self._templates.values() for turn in found]
        values = [value for turn in turns for slot, value in turn.target if slot in NAMES and "," in value]
        return {" ".join(words(value)): " ".join(words(value.partition(",")[0])) for value in values}

    def names(self, turn: Turn) -> list[str]:
        """A turn's names as they are compared: "Paris, France" is Paris."""
        found = [" ".join(words(value)) for slot, value in turn.target if slot in NAMES]
        return [self._short_names.get(name, name) for name in found]

    def splits(self, seed: int) -> Splits:
        """One turn of each template, of several the first with most names. Validation and test are those of any seed,
        and share names with each other only: nothing is trained on either."""
        parts: dict[str, list[Turn]] = {"half_a": [], "half_b": [], "validation": [], "test": []}
        for pattern, turns in self._templates.items():
            place = where("turn", pattern, seed)
            fit = [turn for turn in turns if all(where("name", name, seed) == place for name in self.names(turn))]
            if place == "held_out":
                place = "validation" if share(f"validation:{pattern}") < 0.25 else "test"
            if fit and place in parts:
                parts[place].append(max(fit, key=lambda turn: (len(self.names(turn)), len(turn.target))))
        orders = {"half_a": f"{seed}:a", "half_b": f"{seed}:b", "validation": "validation", "test": "test"}
        return Splits(**{name: mixed(turns, orders[name]) for name, turns in parts.items()})

    def unlabelled(self, size: int) -> list[str]:
        """Turns of templates of their own, without any name of validation and test; their slots are not looked at."""
        found = [
            turn
            for pattern, turns in self._templates.items()
            if where("turn", pattern) == "text"
            for turn in turns
            if all(where("name", name) != "held_out" for name in self.names(turn))
        ]
        found = list(mixed(found, "unlabelled", full=1))
        return [f"{turn.spoken_domain}: {turn.text}" for turn in found[:size]]

    def pretraining_rows(self, plan: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
        """Reading and copying. The tokenizer learns from the slots' names, too; no row has one as a key."""
        sentences = self.unlabelled(plan.get("sentences", 10000))
        rows = curriculum(sentences, plan)
        if not rows:
            raise ValueError("`pretraining` asks for no rows; set reading, jumbled_copying or copying.")
        return rows, [*sentences[:5000], *[f'{{"{slot}": "x", ' for slot in ONTOLOGY] * 100]

    def pretraining_identity(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        return {"data": fingerprint([list(ONTOLOGY), self.unlabelled(plan.get("sentences", 10000))])}

    # prompt, answer, score

    def prompt(self, example: Turn) -> str:
        if self._config.prompt == "short":
            return f" {example.spoken_domain}: {example.text}\n"
        slots = [slot for slot, places in ONTOLOGY.items() if f"{example.domain}." in places]
        asked = f"Which of the slots {', '.join(slots)} does a user state who says this about {example.spoken_domain}?"
        return f'{asked}\n"{example.text}"\nPrint only a JSON object of slots and their values; print {{}} for none.\n'

    def completion(self, example: Turn) -> str:
        return encode_slots([(slot, value) for slot, value in example.target], self._lead)

    def parsed(self, completion: str) -> bool:
        return decode_slots(completion)[1]

    def statistics(self, completion: str, example: Turn) -> Sequence[float]:
        """Slots said rightly, said, and to be said; and whether the whole state is right, which no text that is not
        JSON is, not even where there is nothing to say."""
        (slots, readable), gold = decode_slots(completion), state(example.target)
        said = state(slots)
        return [(said & gold).total(), said.total(), gold.total(), float(readable and said == gold)]

    def total(self, means: np.ndarray) -> dict[str, np.ndarray]:
        """F1, precision and recall over all turns; 1 where there is nothing to say, or to be wrong in."""
        right, said, gold, whole = np.moveaxis(np.asarray(means, dtype=float), -1, 0)
        return {
            "slot_f1": ratio(2 * right, said + gold),
            "exact_state": whole,
            "precision": ratio(right, said),
            "recall": ratio(right, gold),
        }

    def score(self, completion: str, example: Turn) -> dict[str, float]:
        return {name: float(value) for name, value in self.total(self.statistics(completion, example)).items()}

    def agreement(self, answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return slot_agreement({name: [decode_slots(text)[0] for text in texts] for name, texts in answers.items()})


def user_turns(folder: Path) -> Iterable[Turn]:
    """What users say about one domain, slots by their place in it; turns about two domains are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that cannot be read, without a domain, or with a domain or slot that the ontology has not.
    """
    for number, line in enumerate(read_turns(folder), start=1):
        domains = line.get("domains")
        if not isinstance(domains, list) or not domains or "speaker" not in line:
            raise ValueError(f"turns.jsonl.gz, line {number}: `speaker` and a list of `domains` are needed.")
        if line["speaker"] != "user" or len(domains) > 1:
            continue
        (domain,), text, slots = domains, proper(line["text"]), []
        for name, value in line["slots"]:
            slot = SLOT_OF.get(f"{domain}.{name}")
            if slot is None:
                raise ValueError(f"turns.jsonl.gz, line {number}: the ontology has no slot {domain}.{name}.")
            slots.append([slot, proper(value)])
        if domain not in DOMAINS:
            raise ValueError(f"turns.jsonl.gz, line {number}: the ontology has no domain {domain!r}.")
        slots.sort(key=lambda slot: text.find(slot[1]))
        yield Turn(sha256(f"{domain}\n{text}".encode()).hexdigest()[:12], text, slots, domain)


def proper(text: str) -> str:
    return text.replace('o"clock', "o'clock")  # a slip of the data, which JSON would have to escape


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def template(text: str, values: Iterable[str]) -> str:
    """What a turn has in common with those that differ in values, numbers, order and little words alone.

    >>> template("Yes please, I'd like a table in San Jose for 4.", ["San Jose"])
    '# _ table'
    """
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, f" {VALUE} ")
    found = set(re.findall(rf"[^\W_]+|{VALUE}", text.casefold()))
    marks = {VALUE: "_"} | {word: "#" for word in found if word in NUMBERS or word[0].isdigit()}
    return " ".join(sorted({marks.get(word, word) for word in found - LITTLE}))


def share(text: str) -> float:
    """A number in [0, 1) that is always the same for a text."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") / 2**64


def where(kind: str, text: str, seed: int = 0) -> str:
    """Where a template or name may be used: of both a part is `held_out` for every seed, of templates another is
    `text` for pre-training; the seed divides the rest."""
    place = share(f"{kind}:{text}")
    if place < (0.25 if kind == "turn" else 1 / 3):
        return "held_out"
    if kind == "turn" and place < 0.5:
        return "text"
    return "half_a" if share(f"{seed}:{kind}:{text}") < 0.5 else "half_b"


def mixed(turns: Sequence[Turn], order: str, full: int = FULL) -> tuple[Turn, ...]:
    """Turns in random order, one without slots behind every `full` with slots, as far as both last."""
    shuffled = random.Random(order).sample(turns, len(turns))
    some, none = ([turn for turn in shuffled if bool(turn.target) == has] for has in (True, False))
    blocks = range(min(len(some) // full, len(none)))
    return tuple(turn for i in blocks for turn in (*some[full * i : full * (i + 1)], none[i]))


def state(slots: Iterable[Sequence[str]]) -> Counter[tuple[str, str]]:
    """Slots and values as they are compared: case, marks and articles aside.

    >>> state([["date", "the 7th"]]) == state([["date", "7th!"]])
    True
    """
    found: Counter[tuple[str, str]] = Counter()
    for slot, value in slots:
        said = words(value)
        found[slot, " ".join([word for word in said if word not in ("a", "an", "the")] or said)] += 1
    return found


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 1.0)


TASK = DialogueState

if __name__ == "__main__":
    from trl_weaks.study.pipeline.launch import launch

    launch(__file__)
