"""From labelled rows to the loss of an update: every setting together, against loops over rows and tokens in float64.

The reference of `tests/shared/row_reference.py` says what a row trains; here rows are cut to a length, packed and
weighted too, and each trained token's loss is written out. Nothing is shared with the package.
"""

import copy
import itertools
import math
import random
from collections import Counter

import pytest
import torch
from datasets import Dataset
from row_reference import SPACES, WORDS, expected_row, tokenizer
from shapes import shape

from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer

CASES = 12
KINDS = ("byte-level BPE", "WordPiece", "Unigram", "word level")


def drawn(rng: random.Random) -> list[dict]:
    """Examples with one to three supervisors, who agree now and then; some answers were cut short."""

    def text(longest: int) -> str:
        pieces = (rng.choice(WORDS if rng.random() < 0.6 else SPACES) for _ in range(rng.randint(1, longest)))
        return "".join(pieces) + rng.choice(WORDS)

    rows, begin, unfinished = [], text(5), rng.random() < 0.5
    for example in range(3):
        prompt, names = begin + text(3), ["ann", "bob", "eve"][: rng.randint(1, 3)]
        answers: dict[tuple[str, bool], list[str]] = {}
        for name in names:
            new = (text(6), not unfinished or rng.random() < 0.6)
            key = rng.choice(list(answers)) if answers and rng.random() < 0.4 else new
            answers.setdefault(key, []).append(name)
        for (completion, finished), given_by in answers.items():
            spans = []
            for _ in given_by:
                inner = range(1, len(completion))
                cuts = [0, *sorted(rng.sample(inner, min(len(inner), rng.randint(0, 6)))), len(completion)]
                spans.append(
                    [[a, b] for a, b in zip(cuts, cuts[1:], strict=False)] + [[len(completion)] * 2] * finished
                )
            logps = [[-rng.random() * rng.choice([0.1, 3.0]) for _ in tokens] for tokens in spans]
            rows.append(
                {"example_id": str(example), "prompt": prompt, "completion": completion, "weak_supervisors": given_by,
                 "weak_weights": [1 / len(names)] * len(given_by), "weak_offsets": spans, "weak_logps": logps,
                 "weak_finished": finished}
            )  # fmt: skip
    rng.shuffle(rows)
    return rows


def parts(row: dict, limit: int, mode: str, split: str, pieces: bool) -> list[dict]:
    """What cutting leaves: a unit of which j of k tokens are left keeps u j/k of its log-probability u (Eq. 8: of its
    probability); the first token of a part is predicted by nothing."""
    length = len(row["ids"])
    spans = [(a, min(a + limit, length)) for a in range(0, length, limit)] if pieces else [(0, limit)]
    if not pieces and mode == "keep_end":
        spans = [(max(0, length - limit), length)]
    found, whole = [], Counter(row["units"].values())
    for start, end in spans if length > limit else [(0, length)]:
        units = {i - start: u for i, u in row["units"].items() if start <= i < end and i != start}
        left, logps = Counter(units.values()), {}
        for i, u in units.items():
            share = left[u] / whole[u]
            kept = row["logps"][i + start]
            logps[i] = [lp + math.log(share) if split == "eq8" else lp * share for lp in kept]
        found.append({"ids": row["ids"][start:end], "units": units, "logps": logps, "weights": row["weights"]})
    return found


def token_loss(z: torch.Tensor, token: int, prob: float, chosen: dict, progress: float) -> float:
    """One supervisor's loss of one token: (1 - gamma) loss(soft label) + gamma loss(own most likely token)."""

    def loss(y: torch.Tensor) -> float:
        if chosen["weak_loss"] == "naive":
            return -float((y * torch.log_softmax(z, -1)).sum())
        alpha = (z + chosen["evidence_offset"]).exp() + 1
        rest = y + (1 - y) * alpha
        total, count = rest.sum(), torch.tensor(float(len(rest)), dtype=torch.float64)
        spread = torch.lgamma(total) - torch.lgamma(count) - torch.lgamma(rest).sum()
        spread += ((rest - 1) * (torch.digamma(rest) - torch.digamma(total))).sum()
        first = (y * (alpha.sum().log() - alpha.log())).sum()
        return float(first) + min(20.0, chosen["kl_coef"] * progress * float(spread))

    others = z.clone()
    others[token] = -math.inf
    label = torch.softmax(others, -1) * (1 - prob)
    label[token] = prob
    own = torch.zeros_like(z)
    own[z.argmax()] = 1.0
    gamma = chosen["gamma_max"] * min(1.0, progress / 0.25)
    return (1 - gamma) * loss(label) + (gamma * loss(own) if gamma else 0.0)


def row_loss(model, part: dict, chosen: dict, progress: float) -> float:
    logits, total = model(torch.tensor([part["ids"]])).logits[0], 0.0
    sure = torch.softmax(logits, -1).amax(-1).tolist()
    sign = {"confidence": -1.0, "uniform": 0.0, "eq8": 1.0}[chosen["confidence_split"]]
    for i, unit in part["units"].items():
        mates = sum(math.exp(sign * sure[j - 1]) for j, u in part["units"].items() if u == unit)
        share = math.exp(sign * sure[i - 1]) / mates
        for weight, logp in zip(part["weights"], part["logps"][i], strict=True):
            prob = share * math.exp(logp) if chosen["confidence_split"] == "eq8" else math.exp(share * logp)
            prob = min(1.0, prob) if chosen["soft_labels"] else 1.0
            total += weight * token_loss(logits[i - 1], part["ids"][i], prob, chosen, progress)
    return total


def settings_of(rng: random.Random, number: int) -> dict:
    layout = ("rows", "packing", "bfd_split", "padding_free")[number % 4]
    limit = {"rows": rng.choice([None, 12, 20]), "padding_free": None}.get(layout, rng.choice([20, 30]))
    return {
        "max_length": limit, "truncation_mode": rng.choice(["keep_start", "keep_end"]),
        "packing": layout in ("packing", "bfd_split"), "padding_free": layout == "padding_free",
        "packing_strategy": "bfd_split" if layout == "bfd_split" else "bfd",
        "confidence_unit": rng.choice(["word", "span"]),
        "confidence_split": rng.choice(["confidence", "uniform", "eq8"]),
        "weak_loss": rng.choice(["naive", "bayesian"]), "gamma_max": rng.choice([0.0, 0.25]), "kl_coef": 0.01,
        "evidence_offset": rng.choice([0.0, 2.0]), "soft_labels": rng.random() < 0.85,
        "shuffle_dataset": rng.random() < 0.5,
        "token_trees": rng.choice([None, False]), "loss_chunk_size": rng.choice([3, 1024]),
        "per_device_train_batch_size": rng.choice([2, 3]),
    }  # fmt: skip


def case(number: int) -> tuple:
    """Rows, tokenizer, settings, what is trained of each row, and its tokens: the first draw that leaves any."""
    tok = copy.deepcopy(tokenizer(KINDS[(number + number // 4) % 4], 300, 0))
    tok.backend_tokenizer.enable_truncation(5)  # as a tokenizer.json may carry them
    tok.backend_tokenizer.enable_padding(length=30, pad_id=0, pad_token="<pad>")
    for attempt in itertools.count():
        rng = random.Random(1000 * number + attempt)
        rows, chosen = drawn(rng), settings_of(rng, number)
        split, limit = chosen["confidence_split"], min(chosen["max_length"] or 128, 128)
        whole = [expected_row(row, tok, chosen["confidence_unit"], split) for row in rows]
        if all(whole):
            cut = (limit, chosen["truncation_mode"], split, chosen["packing_strategy"] == "bfd_split")
            trained = [part for row in whole for part in parts(row, *cut)]
            if tokens := sum(len(part["units"]) for part in trained):
                return rows, tok, chosen, trained, tokens


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("number", range(CASES))
def test_the_loss_of_an_update_and_of_an_evaluation(arguments, number):
    rows, tok, chosen, trained, tokens = case(number)
    scale = tokens / sum(len(part["units"]) * sum(part["weights"]) for part in trained)
    model = shape("gpt2" if number % 3 == 0 else "llama", tok).double().eval()
    reference, data = copy.deepcopy(model), Dataset.from_list(rows)
    more = {
        "learning_rate": 0.0,
        "gradient_accumulation_steps": 100,
        "max_steps": 1,
        "per_device_eval_batch_size": 100,
    }
    trainer = WeakSupervisionTrainer(
        model, WeakSupervisionConfig(**arguments | more | chosen),
        train_dataset=data, eval_dataset=data, processing_class=tok,
    )  # fmt: skip
    trainer.train()
    found = trainer.state.log_history[0]["loss"], trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        expected = [scale * sum(row_loss(reference, p, chosen, at) for p in trained) / tokens for at in (0.0, 1.0)]
    assert found == pytest.approx(expected, rel=1e-5), chosen
