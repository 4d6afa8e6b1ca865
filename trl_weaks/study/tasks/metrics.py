"""Scores of one answer against the gold one, by name."""

import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from trl_weaks.study.methods import load_module

Metric = Callable[[str, str], dict[str, float]]
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(completion: str, target: str) -> dict[str, float]:
    """1 where the answers are the same, white space at the ends aside.

    >>> exact_match(" 42 ", "42")
    {'exact_match': 1.0}
    """
    return {"exact_match": float(completion.strip() == target.strip())}


def token_f1(completion: str, target: str) -> dict[str, float]:
    """F1 of the words two answers share, as in SQuAD (Rajpurkar et al., 2016): case, marks and articles aside.

    >>> token_f1("the red house", "a red car")
    {'token_f1': 0.5, 'exact_match': 0.0}
    """
    said, gold = _words(completion), _words(target)
    shared = (Counter(said) & Counter(gold)).total()
    f1 = float(said == gold) if not said or not gold else 2 * shared / (len(said) + len(gold))
    return {"token_f1": f1, "exact_match": float(said == gold)}


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(str.maketrans("", "", string.punctuation))).split()


def _rouge() -> Metric:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ValueError("`metric=rouge` needs the package rouge_score: pip install rouge_score") from error
    scorer = RougeScorer(["rougeL", "rouge1", "rouge2"], use_stemmer=True)
    return lambda completion, target: {name: s.fmeasure for name, s in scorer.score(target, completion).items()}


def _from_evaluate(name: str) -> Metric:
    import evaluate

    try:
        metric = evaluate.load(name)
    except Exception as error:  # whatever the Hub, a script or a missing package raises
        raise ValueError(
            f"`metric`: {name!r} is neither exact_match, token_f1, rouge, nor module:function, nor a metric that "
            f"`evaluate` can load from here. {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error

    def score(completion: str, target: str) -> dict[str, float]:
        found = metric.compute(predictions=[completion], references=[target])
        numbers = {key: _number(value) for key, value in found.items()}
        return {key: value for key, value in numbers.items() if value is not None}

    return score


def _number(value: Any) -> float | None:
    """One number, of whichever library; None for lists, text and the like, which metrics tell beside it."""
    try:
        return None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        return None


def _own(name: str) -> Metric:
    place, _, attribute = name.rpartition(":")
    try:
        if place.endswith(".py"):
            module = load_module(Path(place))
        else:
            if str(Path.cwd()) not in sys.path:  # a console script does not look there
                sys.path.append(str(Path.cwd()))
            module = import_module(place)
    except ImportError as error:
        raise ValueError(f"`metric`: there is no module {place!r} ({error}).") from error
    except Exception as error:
        told = error if isinstance(error, ValueError | OSError) else f"{place} cannot be imported: {error!r}"
        raise ValueError(f"`metric`: {told}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"`metric`: {place} has no function {attribute!r}.")

    def score(completion: str, target: str) -> dict[str, float]:
        found: Any = function(completion, target)
        return dict(found) if isinstance(found, Mapping) else {attribute: found}

    return score


def metric_by_name(name: str) -> Metric:
    """A metric `(completion, target) -> {name: score}`; the first score is the headline.

    Args:
        name: `exact_match`, `token_f1`, `rouge`, what `evaluate` loads, or `module:function` or `file.py:function`.

    Raises:
        ValueError: no such metric, or it cannot be loaded; says why.
    """
    if name.endswith(".py"):
        raise ValueError(f"`metric`: name the function as well, {name}:function.")
    if name in ("exact_match", "token_f1"):
        return {"exact_match": exact_match, "token_f1": token_f1}[name]
    metric = _rouge() if name == "rouge" else _own(name) if ":" in name else _from_evaluate(name)
    return checked(metric, name)


def is_finite_number(value: Any) -> bool:
    """Whether a score is one number: no text, no array of several, neither NaN nor infinite."""
    try:
        return not isinstance(value, str) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def checked(metric: Metric, name: str) -> Metric:
    """
    Raises (when called):
        ValueError: no score, or one that is no finite number; names the metric.
    """

    def score(completion: str, target: str) -> dict[str, float]:
        found = metric(completion, target)
        for key, value in found.items():
            if not is_finite_number(value):
                raise ValueError(f"`metric`: {name!r} gives {key} = {value!r} for {completion[:60]!r}, no number.")
        if not found:
            raise ValueError(f"`metric`: {name!r} gives no number for {completion[:60]!r}.")
        return {key: float(value) for key, value in found.items()}

    return score
