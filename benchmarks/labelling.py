"""Labelling: ours against `generate` and full forward passes, alternately in one run.

    OMP_NUM_THREADS=1 python benchmarks/labelling.py                 # the shapes of the table in the README, hours
    OMP_NUM_THREADS=1 python benchmarks/labelling.py --layers 4 --width 384 --prompts 8 --rounds 3     # minutes

Models have random weights, so beams never end early and candidates repeat less than in life. The baseline is what a
user writes first: `model.generate` on left-padded batches, and for every candidate (repeated ones too) a full forward
pass, `log_softmax` and `gather`. Ratios are medians over rounds of paired CPU times (one thread); the baseline runs on
`--baseline_prompts` prompts and is scaled to all. The prefix, which a dataset needs once, is counted in full in "end
to end", on our side; "more prompts" leaves it out, as for the prompts after these.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, OPTConfig, PreTrainedModel

from trl_weaks.inference.as_found import inference
from trl_weaks.inference.beam_search import search
from trl_weaks.inference.generation_settings import decoding_config
from trl_weaks.inference.scoring import packed_logps, prefix_levels

PAD, EOS = 0, 1
STAGES = ("generation", "scoring", "end to end", "more prompts")
ROWS = ("candidates repeat", "all differ", "no shared prefix")


def build(shape: str, width: int, layers: int, vocabulary: int, context: int) -> PreTrainedModel:
    heads = width // 64
    common = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    common |= {"max_position_embeddings": context}
    configs = {
        "gpt2": lambda: GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_positions=context
        ),
        "opt": lambda: OPTConfig(**common, ffn_dim=4 * width, word_embed_proj_dim=width),
        "neox": lambda: GPTNeoXConfig(**common, intermediate_size=4 * width),
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[shape]()).eval()


def draw_prompts(count: int, prefix: int, alone: int, vocabulary: int) -> list[list[int]]:
    """`prefix` shared tokens, then 8 to 16 of each prompt's own (or `alone` where nothing is shared)."""
    head = torch.randint(2, vocabulary, (prefix,)).tolist()
    sizes = torch.randint(8, 17, (count,)).tolist() if prefix else [alone] * count
    return [head + torch.randint(2, vocabulary, (size,)).tolist() for size in sizes]


def draw_candidates(beams: list[list[list[int]]], distinct: float, vocabulary: int) -> list[list[tuple[int, ...]]]:
    """Three supervisors' candidates for each prompt, of which about a share `distinct` differ.

    The first supervisor's are its beams; the others repeat them, or differ from a random place on.
    """
    pooled = []
    for rows in beams:
        own = [tuple(row) for row in rows]
        others = []
        for row in own * 2:
            if torch.rand(()).item() < distinct:
                cut = int(torch.randint(0, len(row), (1,)))
                row = row[:cut] + tuple(torch.randint(2, vocabulary, (len(row) - cut,)).tolist())
            others.append(row)
        pooled.append(own + others)
    return pooled


def naive_generate(model: PreTrainedModel, prompts: list[list[int]], config) -> list[list[list[int]]]:
    return search(model, prompts, config, max_tokens=10**9, advance=bool)  # one padded batch for `generate`


def naive_score(model: PreTrainedModel, prompts: list[list[int]], pooled: list[list[tuple[int, ...]]]) -> list[float]:
    sums = []
    for prompt, candidates in zip(prompts, pooled, strict=True):
        for ids in candidates:
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            sums.append(logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item())
    return sums


def our_score(model: PreTrainedModel, prompts, pooled, prefix) -> list[float]:
    flat = [(tuple(p), ids) for p, candidates in zip(prompts, pooled, strict=True) for ids in candidates]
    distinct = list(dict.fromkeys(flat))
    found = dict(zip(distinct, map(sum, packed_logps(model, distinct, prefix, 10**9)), strict=True))
    return [found[pair] for pair in flat]


def timed(function, *arguments) -> tuple[float, object]:
    start = time.process_time()
    result = function(*arguments)
    return time.process_time() - start, result


def one_round(model: PreTrainedModel, options: argparse.Namespace, distinct: float, turn: int) -> dict[str, float]:
    """CPU seconds for all prompts of every stage, ours and theirs in an order that alternates; and exactness."""
    prompts = draw_prompts(options.prompts, options.prefix, options.alone, options.vocabulary)
    some = prompts[: options.baseline_prompts]
    scale = len(prompts) / len(some)
    config = decoding_config(None, "benchmark", options.beams, options.new_tokens, [EOS], PAD)
    times: dict[str, float] = {}
    prefix = None
    if options.prefix:
        times["prefix"], prefix = timed(prefix_levels, model, prompts[0][: options.prefix])

    def alternate(ours, theirs):
        return [timed(ours), timed(theirs)] if turn % 2 else [timed(theirs), timed(ours)][::-1]

    (mine, beams), (naive, theirs) = alternate(
        lambda: search(model, prompts, config, 10**9, bool, prefix, True), lambda: naive_generate(model, some, config)
    )
    times |= {"generation": mine, "naive generation": naive * scale}
    times["same beams"] = float(beams[: len(some)] == theirs)
    pooled = draw_candidates(beams, distinct, options.vocabulary)
    (mine, sums), (naive, theirs) = alternate(
        lambda: our_score(model, prompts, pooled, prefix), lambda: naive_score(model, some, pooled[: len(some)])
    )
    times |= {"scoring": mine, "naive scoring": naive * scale}
    times["error"] = max(abs(a - b) for a, b in zip(sums, theirs, strict=False))
    times["distinct"] = sum(len(set(candidates)) for candidates in pooled) / len(pooled)
    return times


def ratios(times: dict[str, float]) -> dict[str, float]:
    whole = times.get("prefix", 0.0) + times["generation"] + times["scoring"]
    return {
        "generation": times["naive generation"] / times["generation"],
        "scoring": times["naive scoring"] / times["scoring"],
        "end to end": (times["naive generation"] + times["naive scoring"]) / whole,
        "more prompts": (times["naive generation"] + times["naive scoring"]) / (whole - times.get("prefix", 0.0)),
    }


def report(name: str, rounds: list[dict[str, float]], candidates: int) -> None:
    cells = []
    for stage in STAGES:
        values = [ratios(times)[stage] for times in rounds]
        cells.append(f"{statistics.median(values):.1f}x [{min(values):.1f}-{max(values):.1f}]")
    error, distinct = max(t["error"] for t in rounds), statistics.mean(t["distinct"] for t in rounds)
    same = "yes" if all(t["same beams"] for t in rounds) else "NO"
    print(f"| {name} | {' | '.join(cells)} | {distinct:.1f} of {candidates} | {same} | {error:.0e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("width", 768), ("layers", 12), ("vocabulary", 50_257), ("prefix", 400), ("alone", 200), ("beams", 4),
        ("new_tokens", 20), ("prompts", 8), ("baseline_prompts", 2), ("rounds", 5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shapes", nargs="+", default=["gpt2", "opt", "neox"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; {vars(options)}\n")
    print(f"| | {' | '.join(STAGES)} | distinct candidates | same beams | max error, nats per completion |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in options.shapes:
        model = build(shape, options.width, options.layers, options.vocabulary, 1024)
        with inference(model):
            for name in options.rows:
                prefix, distinct = 0 if name == ROWS[2] else options.prefix, 1.0 if name == ROWS[1] else 0.2
                setting = argparse.Namespace(**{**vars(options), "prefix": prefix})
                torch.manual_seed(1)
                rounds = [one_round(model, setting, distinct, i) for i in range(options.rounds)]
                report(f"{shape}, {name}", rounds, 3 * options.beams)


if __name__ == "__main__":
    main()
