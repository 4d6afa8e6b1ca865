"""What a model needs to be trained, from its config alone: parameters are counted on the meta device."""

import argparse
from dataclasses import dataclass

from .. import markdown

GIB = 2**30
OFFLOADS = ("none", "optimizer", "all")
STRATEGIES = ((0, "none"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "optimizer"), (3, "all"))


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, and of the largest of its modules (which ZeRO-3 gathers whole); shape of its work.

    `multiplied` weights meet every token in a matrix product: all matrices but tables of embeddings, the output layer
    among them even where it is tied to one.
    """

    parameters: int
    largest_layer: int
    layers: int
    hidden: int
    vocabulary: int
    multiplied: int = 0


def model_size(model: str, trust_remote_code: bool = False) -> ModelSize:
    """Size of a causal LM, from the config at a Hub id or path; no weights are read.

    Raises:
        ValueError: there is no config, or none of a causal LM.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {model}: no config of a causal language model there ({error}).") from error
    layers = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in empty.modules())
    text = config.get_text_config()
    return ModelSize(
        sum(p.numel() for p in empty.parameters()),
        layers,
        text.num_hidden_layers,
        text.hidden_size,
        text.vocab_size,
        sum(m.weight.numel() for m in empty.modules() if isinstance(m, (torch.nn.Linear, Conv1D))),
    )


def model_states(
    size: ModelSize, zero: int, gpus: int, offload: str = "none", nodes: int = 1, reference: bool = False
) -> tuple[float, float]:
    """
    Bytes of weights, gradients and AdamW's states on each GPU, and in the host memory of each node.

    ZeRO: DeepSpeed's estimators (bfloat16 weights and gradients, float32 master copy, gradients and moments: 20 bytes
    per parameter at stage 2 on one GPU, 18 at stage 3; host buffers half as much again, models loaded under
    `zero.Init` at stage 3). Without ZeRO (DDP): float32 weights, gradients and moments under bfloat16 autocast, 16
    bytes. `reference` adds the frozen bfloat16 copy of preference training: whole but at stage 3.

    Raises:
        ValueError: no such strategy, or nodes that do not share the GPUs evenly.
    """
    if (zero, offload) not in STRATEGIES:
        raise ValueError(f"zero {zero} with offload {offload!r} is none of {', '.join(map(str, STRATEGIES))}.")
    if nodes < 1 or gpus < 1 or gpus % nodes:
        raise ValueError(f"{gpus} GPUs cannot be shared evenly by {nodes} nodes.")
    count, buffer, largest = size.parameters, 1.5, 4 * size.largest_layer
    if zero == 0:
        gpu, host = 16.0 * count, 0.0
    elif zero == 2:
        gpu = 2 * count + (0 if offload == "optimizer" else 18 * count / gpus)
        host = count * buffer * (max(4 * gpus, 16) if offload == "optimizer" else 4 * gpus / nodes)
    else:
        gpu = largest + {"none": 18, "optimizer": 2, "all": 0}[offload] * count / gpus
        host = {"none": largest * gpus, "optimizer": 16 * count, "all": 18 * count}[offload] / nodes * buffer
    if reference and not (zero == 3 and offload == "all"):
        gpu += 2 * count / (gpus if zero == 3 else 1)
    elif reference:
        host += 2 * count / nodes * buffer
    return gpu, host


def working_memory(size: ModelSize, batch_size: int, max_length: int, chunk_size: int = 1024) -> float:
    """
    Bytes on each GPU beside the states, with gradient checkpointing and the weak head: one bfloat16 hidden state per
    layer, one chunk of logits in bfloat16 and float32 with its float32 gradient, the head's float32 gradient. Left
    out: one layer's own activations, the allocator's losses; leave some GiB for them.
    """
    hidden = 2 * batch_size * max_length * size.hidden * size.layers
    chunk = min(chunk_size, batch_size * max_length)
    return hidden + 10 * chunk * size.vocabulary + 4 * size.vocabulary * size.hidden


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="Hub id or path; only its config is read")
    add(
        "--zero",
        type=int,
        nargs="+",
        choices=(0, 2, 3),
        default=[0, 2, 3],
        help="ZeRO stages to compare; 0 is DDP (all)",
    )
    add("--offload", nargs="+", choices=OFFLOADS, default=list(OFFLOADS), help="what lives in host memory (all three)")
    add("--gpus", type=int, nargs="+", default=[1, 2, 4, 8], help="GPUs in all, one column for each number (1 2 4 8)")
    add("--nodes", type=int, default=1, help="machines that share the GPUs (1)")
    add("--gpu_memory", type=float, default=80.0, help="GB of each GPU; a cell in bold exceeds it (80)")
    add("--reference", action="store_true", help="preference training keeps a frozen reference")
    add("--batch_size", type=int, default=1, help="rows per GPU and step (1)")
    add("--max_length", type=int, default=2048, help="tokens per row (2048)")
    add("--tokens", type=float, help="tokens to train on, epochs included: adds a row of estimated hours")
    add("--tflops", type=float, default=989.0, help="peak of each GPU (989, an H100's in bfloat16)")
    add("--mfu", type=float, default=0.3, help="share of that peak assumed, not measured (0.3: ours)")
    add("--trust_remote_code", action="store_true", help="run the code that a Hub repository brings for its config")


def table(options: argparse.Namespace) -> str:
    """Markdown: GiB per GPU, and per node's host memory after a plus sign, for each strategy and number of GPUs.

    Raises:
        ValueError: as `model_size` and `model_states`; no strategy has both the stage and the offload asked for.
    """
    chosen = [(zero, off) for zero, off in STRATEGIES if zero in options.zero and off in options.offload]
    if not chosen:
        raise ValueError(f"--zero {options.zero} has no --offload {options.offload}; there are {STRATEGIES}.")
    size = model_size(options.model, options.trust_remote_code)
    work = working_memory(size, options.batch_size, options.max_length)
    lines = [
        f"{options.model}: {size.parameters:,} parameters, largest layer {size.largest_layer:,}. GiB per GPU (+ host "
        f"memory per node), of which {work / GIB:.1f} for {options.batch_size} x {options.max_length} tokens; bold "
        f"exceeds {options.gpu_memory:g} GB.",
        "",
    ]
    rows = []
    for zero, offload in chosen:
        cells = []
        for gpus in options.gpus:
            gpu, host = model_states(size, zero, gpus, offload, options.nodes, options.reference)
            text = f"{(gpu + work) / GIB:.1f} (+ {host / GIB:.0f})"
            cells.append(f"**{text}**" if gpu + work > options.gpu_memory * 1e9 else text)
        name = f"ZeRO-{zero}" if zero else "DDP"
        name += "" if offload == "none" else f", {offload} in host memory".replace("all", "all states")
        rows.append([name, *cells])
    return "\n".join([*lines, markdown.table(["strategy", *(f"{n} GPU{'s' * (n > 1)}" for n in options.gpus)], rows)])
