"""Parts of `gpu.py`: losses over a vocabulary alone, their agreement with float64 and what they cost."""

import argparse
import copy
import functools

import torch
from chip import Chip, goal, in_turns, ratios, spread
from loss_rows import GAMMA, Problem, losses

from trl_weaks.losses import AuxiliaryConfidence, EvidentialLoss
from trl_weaks.losses.vocabulary import cpu_kernels, triton_passes

OWN, LEAST = "its three products", "three products in bfloat16"
OURS = ("soft labels", "soft labels + aux", "evidential", "evidential + aux")
PLAIN = ("soft labels", "evidential + aux")  # measured by PyTorch's passes, too, and in longer chunks
HEAD_GOAL = 1.10
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}  # relative error; bfloat16 rounds to 2^-9


def has_kernels(device: torch.device) -> bool:
    """Whether losses pass over logits on this device by compiled code; on CUDA, that no kernel has failed so far."""
    passes = triton_passes if device.type == "cuda" else cpu_kernels
    if device.type == "cpu" and cpu_kernels.find_kernels() is None:
        return False
    return passes.can_run(torch.zeros(1, 16, device=device))


def to_agree(vocabulary: int) -> dict:
    """As `losses`: those measured below, and what takes other ways: soft labels, and rows at and below a clamp."""
    bounded = AuxiliaryConfidence(EvidentialLoss(kl_coef=1 / vocabulary, kl_clamp=2.7), GAMMA)
    known = {name: losses()[name] for name in (*OURS, "evidential, soft + aux")}
    return known | {"evidential + aux, clamped": (bounded, True), "evidential, soft + aux, clamped": (bounded, False)}


def _results(problem: Problem, loss, hard: bool, kernels: bool) -> list[torch.Tensor]:
    problem.hidden.grad = problem.weight.grad = None
    value = problem.ours(loss, hard, kernels)
    return [x.double().cpu() for x in (value, problem.hidden.grad, problem.weight.grad)]


def agreement(chip: Chip, sizes: argparse.Namespace, until: float) -> dict:
    """Loss and gradients on the device against the same inputs in float64 on the CPU, and log-probabilities."""
    rows, goals = [], []
    for dtype in LIMITS:
        start = Problem(sizes.exact_tokens, 128, sizes.vocabularies[0], dtype)
        exact, there = start.moved("cpu", torch.float64), start.moved(chip.device, dtype)
        for name, loss in to_agree(sizes.vocabularies[0]).items():
            wanted = _results(exact, *loss, False)
            for kernels in (True, False):
                found = _results(there, *loss, kernels)
                errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
                passes = ("compiled" if has_kernels(chip.device) else "compiled: NOT RUN") if kernels else "PyTorch"
                rows.append([name, str(dtype).removeprefix("torch."), passes, *(f"{error:.1e}" for error in errors)])
                # elsewhere than on CUDA the logits of bfloat16 are rounded first, some to the other side of a clamp
                rounded = 1.0 if "clamped" in name else 0.1
                limit = LIMITS[dtype] if chip.cuda or dtype == torch.float32 else rounded
                goals.append(goal(f"{', '.join(rows[-1][:3])}: largest relative error", [max(errors)], limit))
    goals.append(goal("log-probabilities: largest difference, nats", [_logp_error(chip)], 1e-3))
    columns = ["loss", "type", "passes", "error of the value", "of dh", "of dW"]
    return {"columns": columns, "rows": rows, "goals": goals, "compiled passes": has_kernels(chip.device)}


def _logp_error(chip: Chip) -> float:
    """Of completions scored as packed trees on the device, float32, against plain passes in float64 on the CPU."""
    from labelling import build, draw_prompts, our_score

    from trl_weaks.inference.as_found import inference
    from trl_weaks.inference.scoring import plain_logps

    torch.manual_seed(0)
    model = build("neox", 128, 2, 1_000, 256)
    prompts = draw_prompts(4, 32, 0, 1_000)
    candidates = [[tuple(torch.randint(2, 1_000, (6,)).tolist()) for _ in range(3)] for _ in prompts]
    with inference(model.to(chip.device)):
        found = our_score(model, prompts, candidates, None)
    pairs = [(p, c) for p, cs in zip(prompts, candidates, strict=True) for c in cs]
    with inference(model.to("cpu", torch.float64)):
        wanted = [sum(row) for row in plain_logps(model, pairs, 0, 10**6, bool)]
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True))


def own_products(problem: Problem) -> None:
    """The three products as our head asks for them: logits and the sum of dW in float32, dh in the model's type."""
    h, w = problem.hidden.detach(), problem.weight.detach()
    wide = {"out_dtype": torch.float32} if h.is_cuda and h.dtype == torch.bfloat16 else {}
    grad_h, grad_w = torch.empty_like(h), torch.zeros_like(w, dtype=torch.float32)
    buffer = torch.empty(problem.chunk, len(w), dtype=torch.float32 if wide else h.dtype, device=h.device)
    for start in range(0, len(h), problem.chunk):
        part = h[start : start + problem.chunk]
        z = torch.mm(part, w.t(), out=buffer[: len(part)], **wide)
        rounded = z.to(h.dtype)
        torch.mm(rounded, w, out=grad_h[start : start + problem.chunk])
        if wide:
            torch.addmm(grad_w, rounded.t(), part, out=grad_w, **wide)
        else:
            grad_w.addmm_(rounded.t().float(), part.float())


def liger(problem: Problem) -> None:
    """Liger's fused linear cross-entropy, as its defaults are."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    given = (None, None, -100, 0.0, 0.0, "sum")  # class weights, bias, ignored label, z loss, smoothing, reduction
    result = LigerFusedLinearCrossEntropyFunction.apply(problem.hidden, problem.weight, problem.ids, *given)
    (result[0] if isinstance(result, tuple) else result).backward()


def heads(chip: Chip, sizes: argparse.Namespace, until: float, vocabulary: int) -> dict:
    """Forward and backward of the output layer in bfloat16: ours, TRL's, Liger's, full logits, the products alone."""
    problem = Problem(
        sizes.head_tokens, sizes.head_width, vocabulary, torch.bfloat16, chip.device.type, sizes.head_chunk
    )
    ways = {
        LEAST: problem.floor,
        OWN: functools.partial(own_products, problem),
        "full logits, cross-entropy": problem.full_cross_entropy,
        "TRL's fused head": problem.trl_fused_head,
        "Liger's fused head": functools.partial(liger, problem),
        "naive soft labels": problem.naive_soft,
        "naive evidential": problem.naive_evidential,
    }
    for name in OURS:
        ways[f"ours: {name}"] = functools.partial(problem.ours, *losses()[name], True)
    wider = copy.copy(problem)  # of the same tensors
    wider.chunk = 4 * problem.chunk  # a quarter of the kernels that are launched
    for name in PLAIN:
        ways[f"ours, chunks of {wider.chunk:,}: {name}"] = functools.partial(wider.ours, *losses()[name], True)
        ways[f"ours by PyTorch's passes: {name}"] = functools.partial(problem.ours, *losses()[name], False)

    def fresh(way):
        problem.hidden.grad = problem.weight.grad = None
        way()

    found = in_turns(chip, {name: functools.partial(fresh, way) for name, way in ways.items()}, sizes.rounds, until)
    rows = []
    for name, one in found.items():
        if "error" in one:
            rows.append([name, one["error"], "", "", ""])
            continue
        cells = [spread([1e3 * s for s in one["seconds"]], 1)]
        cells += [spread(ratios(found, name, under)) for under in (OWN, LEAST)]
        rows.append([name, *cells, f"{one['above']:,.0f}"])
    goals = [goal(f"{n}, time ÷ {OWN}", ratios(found, n, OWN), HEAD_GOAL) for n in found if n.startswith("ours:")]
    about = f"{sizes.head_tokens:,} tokens, width {sizes.head_width:,}, chunks of {sizes.head_chunk:,} tokens"
    columns = ["head", "ms", f"÷ {OWN}", f"÷ {LEAST}", "MiB above the inputs"]
    return {"about": about, "columns": columns, "rows": rows, "goals": goals, "measured": found,
            "compiled passes": has_kernels(chip.device)}  # fmt: skip
