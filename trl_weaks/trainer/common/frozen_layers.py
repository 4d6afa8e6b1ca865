"""Hidden states of a student's frozen lower layers: computed once for each text, and read in later epochs."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...inference.padding import positions_follow_length
from ...inference.prefix_trees import PrefixTrees
from ...inference.probe import made_up_tokens, tells_apart
from .dropout import first_dropout

FOLDER = "_frozen_layer_states"  # inside of `output_dir`, for the time of training; uploads leave out such names
STATES = "states"
KEPT_FREE = 0.1  # of the disk's free room, for checkpoints
BELOW = (
    "the embeddings below the frozen layers are trained, or are asked for gradients, as `gradient_checkpointing` does "
    "for a model with adapters"
)

logger = logging.getLogger(__name__)


def refuse_cache(args: Any) -> None:
    """Raises ValueError where `cache_frozen_layers` is set, and another setting rules it out."""
    if not getattr(args, "cache_frozen_layers", False):
        return
    reentrant = args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
    packed = getattr(args, "packing", False) or getattr(args, "padding_free", False)
    reasons = {
        "`packing` and `padding_free` put other texts together in every epoch": packed,
        "`neftune_noise_alpha` adds other noise in every epoch": args.neftune_noise_alpha,
        "`torch_compile` has compiled the layers that would be passed over": args.torch_compile,
        "`gradient_checkpointing_kwargs={'use_reentrant': True}` needs gradients of the embeddings": reentrant,
    }
    for reason, found in reasons.items():
        if found:
            raise _refused(reason)


def refuse_rows(args: Any, train: Any, weak: bool) -> None:
    """Raises ValueError where `cache_frozen_layers` is set for training rows that it cannot serve."""
    if not args.cache_frozen_layers or train is None:
        return
    if not weak:
        raise _refused("the training rows have no weak labels, and TRL trains them by itself")
    if not isinstance(train, Dataset):
        raise _refused("a stream does not tell how much there is to keep")


def refuse_engines(trainer: Any) -> None:
    """Raises ValueError where the trainer's way of running the model rules `cache_frozen_layers` out."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise _refused("DeepSpeed and FSDP run the layers in their own way")
    if trainer.args.n_gpu > 1:
        raise _refused("`nn.DataParallel` cuts each batch into parts; use `accelerate launch`, or show one GPU only")
    if getattr(trainer, "aux_loss_enabled", False):
        raise _refused("the experts of the frozen layers are balanced, too")


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The layers of a model, as many as its configuration says; an empty list where they do not lie in one."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth)
    return next(lists, nn.ModuleList())  # the outermost: experts and heads of attention come in lists, too


def frozen_layers(model: nn.Module) -> list[nn.Module]:
    """
    The lowest layers of a student that training leaves as they are, from the embeddings up.

    Raises:
        ValueError: there are none, or what they compute for a text may change, or reaches the layers above in another
            way than by the hidden states; tried on a few made-up tokens.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if any(getattr(c, "is_prompt_learning", False) for c in getattr(model, "peft_config", {}).values()):
        raise _refused("prompt learning puts trained tokens before each row")
    if getattr(base, "is_quantized", False):
        raise _refused("quantised weights may round a text differently in another batch")
    if positions_follow_length(base):
        raise _refused("the longest row of a batch decides about the positions of the others")
    layers = list(layers_of(base))
    first = _first_trained(layers)
    lower, upper = layers[:first], layers[first:]
    if not lower:
        raise _refused("no layer is frozen (`requires_grad_(False)`), beginning with the first")
    if (where := first_dropout(base.base_model, but=upper)) is not None:
        raise _refused(f"dropout or noise is on ({where}), and would be drawn once for all epochs")
    if (reason := _tried(base, lower)) is not None:
        raise _refused(reason)
    return lower


def _first_trained(layers: Sequence[nn.Module]) -> int:
    trained = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(trained, len(layers))


def _refused(reason: str) -> ValueError:
    return ValueError(f"`cache_frozen_layers=True` is not exact here: {reason}. Leave it off, or change that.")


def _tried(model: PreTrainedModel, lower: Sequence[nn.Module]) -> str | None:
    """Why the layers above `lower` need more than its last hidden states; None where they do not."""
    training = [module for module in model.modules() if module.training]
    rows = torch.stack(made_up_tokens(model, 12)[0].split(6))
    model.eval()
    try:
        with _given_by(lower[-1]) as kept, torch.enable_grad():
            plain = _last_states(model, rows).detach()
        if len(kept) != 1 or not isinstance(kept[0], Tensor):
            return "its layers are called several times, or hand on more than hidden states"
        if kept[0].requires_grad:
            return BELOW
        with torch.no_grad(), instead_of(lower, kept[0]):
            again = _last_states(model, rows)
        if _follows_padding(model, lower):
            return "padding beside longer rows changes what the frozen layers give"
        if _draws(model, lower, rows):
            return "the frozen layers draw random numbers while they are trained"
    except Exception as caught:  # whatever a foreign model does with arguments it does not expect
        return f"{type(caught).__name__}: {caught}"
    finally:
        model.eval()
        for module in training:
            module.training = True
    if not tells_apart(plain):
        return "its hidden states do not depend on the text (yet), so that this cannot be tried"
    error = _difference(plain, again)
    return None if error < 1e-5 else f"its hidden states change by {error:.0%} when the frozen layers are passed over"


def _follows_padding(model: PreTrainedModel, lower: Sequence[nn.Module]) -> bool:
    """Whether a text's states below differ beside a longer one, as where convolutions read over the padding."""
    short, long = made_up_tokens(model, 12).split((4, 8), dim=1)
    n, pad_id = short.shape[1], model.config.get_text_config().pad_token_id or 0
    mask = torch.ones_like(long).repeat(2, 1)
    mask[1, n:] = 0
    both = torch.cat([long, nn.functional.pad(short, (0, long.shape[1] - n), value=pad_id)])
    with torch.no_grad(), _given_by(lower[-1]) as kept:
        model.base_model(input_ids=short, attention_mask=mask[:1, :n], use_cache=False)
        model.base_model(input_ids=both, attention_mask=mask, use_cache=False)
    return _difference(kept[0][0], kept[1][1, :n]) > torch.finfo(kept[0].dtype).eps ** 0.5


def _draws(model: PreTrainedModel, lower: Sequence[nn.Module], rows: Tensor) -> bool:
    """Whether two passes of what is frozen, as it is in training, differ; no random number is used up."""
    model.base_model.train()
    for layer in layers_of(model)[len(lower) :]:
        layer.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), _given_by(lower[-1]) as kept:
        for _ in range(2):
            _last_states(model, rows)
    return _difference(*kept) > 1e-5


def _last_states(model: PreTrainedModel, rows: Tensor) -> Tensor:
    return model.base_model(input_ids=rows, use_cache=False).last_hidden_state


def _difference(one: Tensor, other: Tensor) -> float:
    return float((other - one).abs().max() / one.abs().max())


@contextmanager
def _given_by(layer: nn.Module) -> Iterator[list[Any]]:
    """What a layer gives in each of its passes inside."""
    kept: list[Any] = []
    handle = layer.register_forward_hook(lambda module, given, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def instead_of(layers: Sequence[nn.Module], states: Tensor) -> Iterator[None]:
    """Inside, the last of the layers gives these states, whatever it is given, and nothing is computed below it."""

    def give(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return states

    def pass_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    own = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = give if layer is layers[-1] else pass_on
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


class FrozenStates:
    """
    The last hidden states of frozen layers, one file for each text, shared by the processes of a machine.

    Found by the tokens: texts that occur twice are kept once, and nothing depends on the order or number of the rows.

    Args:
        model: The student, with its adapters.
        folder: Where the files lie, for the time of training.

    Raises:
        ValueError: see [`frozen_layers`].
    """

    def __init__(self, model: nn.Module, folder: Path):
        self._layers, self._folder = frozen_layers(model), folder
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._width = base.config.get_text_config().hidden_size
        self._frozen = [parameter for parameter in base.base_model.parameters() if not parameter.requires_grad]
        self._marks = self._now()

    def begin(self, train: Dataset, epochs: float) -> None:
        """
        Make the folder, for weights that no longer change.

        Raises:
            ValueError: there is not enough room on the disk.
        """
        self._marks = self._now()
        self._folder.mkdir(parents=True, exist_ok=True)
        tokens = sum(map(len, _token_lists(train)))
        wanted = tokens * self._width * max(parameter.element_size() for parameter in self._frozen)
        free = shutil.disk_usage(self._folder).free
        if wanted > (1 - KEPT_FREE) * free:
            raise ValueError(
                f"`cache_frozen_layers`: {tokens:,} tokens of {self._width} numbers make {wanted / 2**30:.1f} GiB in "
                f"{self._folder}, where {free / 2**30:.1f} GiB are free. Leave it off, or choose another `output_dir`."
            )
        logger.info("The %d frozen layers are computed once: %.2f GiB.", len(self._layers), wanted / 2**30)
        if epochs <= 1:
            logger.warning("`cache_frozen_layers` saves nothing in a single epoch, which reads no row twice.")

    def remove(self) -> None:
        """Delete what was kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def reused(self, inputs: Mapping[str, Tensor], trees: PrefixTrees | None = None) -> Iterator[None]:
        """
        One forward pass of the model inside: the frozen layers are passed over where all texts are known, and what
        they give is kept otherwise.

        Args:
            inputs: `input_ids` and `attention_mask`, `(B, L)`, padded on the right.
            trees: What the model is given in their place.

        Raises:
            ValueError: the layers have changed since training began.
        """
        if self._now() != self._marks:
            raise ValueError(
                "`cache_frozen_layers`: the frozen layers have changed, or were unfrozen, while the model trained, "
                "and what was kept of them is no longer theirs. Leave it off."
            )
        ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(-1).tolist()
        paths = [self._path(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
        found = [_read(path) for path in paths]
        if all(states is not None for states in found):
            with instead_of(self._layers, _laid_out(found, lengths, ids, trees)):
                yield
            return
        with _given_by(self._layers[-1]) as kept:
            yield
        states = kept[0].detach()
        states = states if trees is None else states.flatten(0, 1)[trees.nodes]
        for path, row, n, known in zip(paths, states, lengths, found, strict=True):
            if known is None:  # in a tree, the last token of a text has no node
                _write(path, row[: n if trees is None else n - 1])

    def _now(self) -> list[tuple[bool, int]]:
        """Changes whenever a weight is written to, or unfrozen."""
        return [(parameter.requires_grad, parameter._version) for parameter in self._frozen]

    def _path(self, tokens: list[int]) -> Path:
        name = hashlib.blake2b(repr(tokens).encode(), digest_size=16).hexdigest()
        return self._folder / name[:2] / name


def _token_lists(train: Dataset) -> Iterator[list[int]]:
    for batch in train.select_columns(["input_ids"]).iter(batch_size=1000):
        yield from batch["input_ids"]


def _read(path: Path) -> Tensor | None:
    try:
        return load(path.read_bytes())[STATES]
    except FileNotFoundError:
        return None


def _write(path: Path, states: Tensor) -> None:
    """Whole or not at all: another process may look for it."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_bytes(save({STATES: states.cpu().contiguous()}))
    os.replace(beside, path)


def _laid_out(found: Sequence[Tensor], lengths: Sequence[int], ids: Tensor, trees: PrefixTrees | None) -> Tensor:
    """The states of a batch: of its rows `(B, L, H)`, or of its trees' nodes `(G, Q, H)`; zero where no token needs
    them (padding, and the last token of a text that was met in a tree)."""
    if trees is None:
        states = found[0].new_zeros(*ids.shape, found[0].shape[-1])
        for row, known in zip(states, found, strict=True):
            row[: len(known)] = known
        return states.to(ids.device)
    flat = found[0].new_zeros(trees.first.numel(), found[0].shape[-1])
    nodes = trees.nodes.cpu()
    for row, known, n in zip(nodes, found, lengths, strict=True):
        flat[row[: n - 1]] = known[: n - 1]
    return flat.view(*trees.first.shape, -1).to(ids.device)
