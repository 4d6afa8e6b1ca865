"""Rows made here under the names of the data sets that TRL's tests load."""

import json
import os
import re

from datasets import Dataset, DatasetDict

PAIRS = [
    ("The kettle is louder", "than the radio."),
    ("Turn the lights down", "before the film."),
    ("Rain is likely", "until the evening."),
    ("Play something slow", "for the guests."),
    ("Set an alarm", "for six thirty."),
    ("Call my sister", "after lunch."),
    ("The oven needs ten minutes", "to warm up."),
    ("Read me the headlines", "from yesterday."),
    ("Lock the front door", "at midnight."),
    ("Add milk and flour", "to the list."),
    ("How far is the station", "on foot?"),
    ("Start the washing", "when power is cheap."),
    ("Water the plants", "twice a week."),
    ("Remind everyone", "about the meeting."),
    ("Open the blinds", "in the bedroom."),
    ("Translate this sign", "into Welsh."),
    ("Book a table for four", "near the window."),
    ("Which bus goes to the harbour", "on Sundays?"),
    ("Stop the timer", "and tell me the time."),
]
TOOL = {
    "type": "function",
    "function": {
        "name": "wait",
        "description": "Waits.",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}},
    },
}


def message(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


def row(name: str, prompt: str, completion: str) -> dict:
    """One row of the configuration `name` (TRL's names for its formats)."""
    asked, answered, worse = message("user", prompt), message("assistant", completion), message("assistant", "No.")
    rows = {
        "standard_language_modeling": {"text": prompt + completion},
        "conversational_language_modeling": {"messages": asked + answered},
        "language_modeling": {"messages": asked + answered, "tools": json.dumps([TOOL])},
        "standard_prompt_completion": {"prompt": prompt, "completion": completion},
        "conversational_prompt_completion": {"prompt": asked, "completion": answered},
        "prompt_completion": {"prompt": asked, "completion": answered},
        "standard_preference": {"prompt": prompt, "chosen": completion, "rejected": " or not at all."},
        "conversational_preference": {"prompt": asked, "chosen": answered, "rejected": worse},
        "preference": {"prompt": asked, "chosen": answered, "rejected": worse},
        "standard_implicit_prompt_preference": {"chosen": prompt + completion, "rejected": prompt + " or not at all."},
        "conversational_implicit_prompt_preference": {"chosen": asked + answered, "rejected": asked + worse},
        "standard_unpaired_preference": {"prompt": prompt, "completion": completion, "label": True},
    }
    return rows[name]


def weak_columns(number: int, found: dict) -> dict:
    """What a weak ensemble adds: one certain supervisor's words, or the pair's weight."""
    if "chosen" in found:
        return {"pair_weight": 1.0}
    if "label" in found:
        return {}
    prompt, completion = found.get("prompt"), found.get("completion")
    if prompt is None and "messages" in found:
        prompt, completion = found["messages"][:1], found["messages"][1:]
    elif prompt is None:
        prompt, completion = PAIRS[number][0], " " + PAIRS[number][1]
    text = completion if isinstance(completion, str) else completion[0]["content"]
    half = len(text) // 2
    return {
        "example_id": str(number),
        "prompt": prompt,
        "completion": completion,
        "weak_supervisors": ["one"],
        "weak_weights": [1.0],
        "weak_offsets": [[[0, half], [half, len(text)], [len(text)] * 2]],
        "weak_logps": [[-0.1, -0.2, -0.05]],
    }


def load_dataset(path: str, name: str | None = None, split: str | None = None, streaming: bool = False, **_):
    """Stands for `datasets.load_dataset`."""
    if path not in {f"trl-internal-testing/{known}" for known in ("zen", "toolcall", "harmony")}:
        raise OSError(f"no stand-in for {path}")
    rows = [row(name, prompt, " " + completion) for prompt, completion in PAIRS]
    if os.environ["PEER_ROWS"] == "weak":
        rows = [found | weak_columns(i, found) for i, found in enumerate(rows)]
    both = DatasetDict({"train": Dataset.from_list(rows[:17]), "test": Dataset.from_list(rows[17:])})
    if split is None:
        return both
    part, first = re.match(r"(\w+)(?:\[:(\d+)\])?", split).groups()
    chosen = both[part].select(range(int(first))) if first else both[part]
    return chosen.to_iterable_dataset() if streaming else chosen
