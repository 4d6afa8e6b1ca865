"""Which adapters (LoRA and its kin) a supervisor answers with, where several live on one base model.

PEFT keeps the choice in the layers of the base model, so that whoever chose last chose for all. A supervisor makes its
own choice at every call and puts the found one back. Layers are recognised by what PEFT's have in common, and written
to without their setters, which would change `requires_grad` too; a contract test holds both.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


def base_of(model: nn.Module) -> nn.Module:
    """The `transformers` model inside a `PeftModel`, its adapters in place; another model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def adapter_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The model's layers that hold adapters, by name."""
    return {name: module for name, module in model.named_modules() if _holds_adapters(module)}


class Adapters:
    """The adapters that one supervisor answers with.

    Args:
        model: as given to the supervisor: a `PeftModel`, or a `transformers` model with or without adapters.
        adapter: a name or several; an empty list for the base model alone. None follows the model: a `PeftModel`'s own
            active adapter, also where a second `PeftModel` on the same base was made since, and the live state
            otherwise.
        supervisor: whose they are, for errors.

    Raises:
        ValueError: a name that the model does not have; adapters of a kind that only `PeftModel.forward` applies.
    """

    def __init__(self, model: nn.Module, adapter: str | Sequence[str] | None, supervisor: str):
        self.supervisor, self.base = supervisor, base_of(model)
        self._tuner = model.base_model if hasattr(model, "get_base_model") else None
        prompts = any(c.is_prompt_learning for c in getattr(model, "peft_config", {}).values())
        self._prompt = model if prompts else None
        self._chosen = None if adapter is None else (adapter,) if isinstance(adapter, str) else tuple(adapter)
        layers = adapter_layers(self.base).values()
        known = sorted({name for layer in layers for name in _names(layer)})
        for name in self._chosen or ():
            if name not in known:
                raise ValueError(f"supervisor {supervisor!r}: the model has no adapter {name!r}, only {known}.")
        if any("XLORA" in str(getattr(c, "peft_type", "")) for c in getattr(model, "peft_config", {}).values()):
            raise ValueError(f"supervisor {supervisor!r}: X-LoRA adapters are not supported; use LoRA.")
        if any(getattr(c, "alora_invocation_tokens", None) for c in getattr(model, "peft_config", {}).values()):
            raise ValueError(f"supervisor {supervisor!r}: activated LoRA (aLoRA) is not supported; use LoRA.")
        self._made = [(weakref.ref(part), layer, *where) for layer in layers for *where, part in _parts(layer)]

    def names(self) -> tuple[str, ...]:
        """The adapters that answer now; () for none, or where the model has none."""
        live = {name for layer in adapter_layers(self.base).values() for name in _live(layer)}
        wanted = self._wanted()
        return tuple(sorted(live)) if wanted is None else wanted

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model answers with these adapters inside, and is as it was found afterwards.

        Raises:
            ValueError: an adapter was replaced since the supervisor was made, or is merged into the weights and cannot
                be exchanged.
        """
        layers, wanted = adapter_layers(self.base).values(), self._wanted()
        self._check(layers, wanted)
        if wanted is None:
            yield
            return
        found = [(layer, layer._active_adapter, layer._disable_adapters) for layer in layers]
        try:
            for layer in layers:
                layer._active_adapter = [name for name in wanted if name in _names(layer)]
                layer._disable_adapters = False
            yield
        finally:
            for layer, active, disabled in found:
                layer._active_adapter, layer._disable_adapters = active, disabled

    def described(self) -> tuple[list, dict[str, str | None]]:
        """What the live adapters are, and what to call the base model's weights whatever adapters are called; None for
        weights of adapters that rest, which change nothing. Call it inside `in_use`."""
        facts: list = [] if self._prompt is None else [list(self._prompt.active_adapters)]
        names: dict[str, str | None] = {}
        weights = list(self.base.state_dict())
        for path, layer in adapter_layers(self.base).items():
            live, merged = _live(layer), list(getattr(layer, "merged_adapters", ()))
            if live or merged:
                facts.append([path, type(layer).__name__, len(merged), [_settings(layer, name) for name in live]])
            for attribute, name, part in _parts(layer, nn.Module | Tensor):
                called = f"{live.index(name)}" if name in live else None
                for key in part.state_dict() if isinstance(part, nn.Module) else ("",):
                    full = ".".join(filter(None, (path, attribute, name, key)))
                    names[full] = None if called is None else ".".join(filter(None, (path, attribute, called, key)))
            for inner in ("base_layer", "original_module"):  # what the adapters are put around
                begin, outer = f"{path}.{inner}.", path.removesuffix(".token_adapter")
                gone = inner == "original_module" and live
                found = [name for name in weights if name.startswith(begin)]
                names |= {name: None if gone else f"{outer}.{name.removeprefix(begin)}" for name in found}
        return facts, names

    def _wanted(self) -> tuple[str, ...] | None:
        """The choice to be made, or None where the layers are to stay as they are."""
        layers = adapter_layers(self.base).values()
        if self._chosen is not None:
            return self._chosen if layers else None
        if self._tuner is None or not layers or any(layer.disable_adapters for layer in layers):
            return None
        own = tuple(self._tuner.active_adapters)
        same = all(_live(layer) == [n for n in own if n in _names(layer)] for layer in layers)
        return None if same else own

    def _check(self, layers, wanted: Sequence[str] | None) -> None:
        used = {name for layer in layers for name in _live(layer)} if wanted is None else set(wanted)
        for made, layer, attribute, name in self._made:
            if name in used and made() is not dict(getattr(layer, attribute).items()).get(name):
                raise ValueError(
                    f"supervisor {self.supervisor!r}: its adapter {name!r} was replaced since the supervisor was "
                    "made: a second `PeftModel.from_pretrained(base, ...)` puts its adapter in the place of the first "
                    "of that name; give each its own `adapter_name`. If it was meant, make the supervisor again."
                )
        for layer in layers:
            merged = getattr(layer, "merged_adapters", None)
            if merged and (wanted is not None or layer.disable_adapters):
                raise ValueError(
                    f"supervisor {self.supervisor!r}: adapters {list(merged)} are merged into the weights, so that "
                    "they cannot be exchanged or switched off for a while; call `model.unmerge_adapter()` first."
                )


def _holds_adapters(module: nn.Module) -> bool:
    """A layer of PEFT's: `disable_adapters` is a property there, and a method of models."""
    kind = type(module)
    return isinstance(getattr(kind, "disable_adapters", None), property) and hasattr(kind, "set_adapter")


def _parts(layer: nn.Module, kind: type = nn.Module) -> Iterator[tuple[str, str, nn.Module | Tensor]]:
    """What the layer itself keeps by adapter: attribute, adapter, and the part."""
    for attribute, kept in layer.named_children():
        if hasattr(kept, "keys") and hasattr(kept, "items"):  # PEFT has a dict of buffers beside PyTorch's two
            for name, part in kept.items():
                if isinstance(part, kind):
                    yield attribute, name, part


def _names(layer: nn.Module) -> set[str]:
    """The adapters that a layer has."""
    return {name for _, name, _ in _parts(layer, nn.Module | Tensor)} | set(getattr(layer, "_adapters", ()))


def _live(layer: nn.Module) -> list[str]:
    """The adapters that a layer applies now."""
    return [] if layer.disable_adapters else [name for name in layer.active_adapters if name in _names(layer)]


def _settings(layer: nn.Module, adapter: str) -> dict[str, str]:
    """What a layer keeps about an adapter beside its weights: scaling, rank, variants."""
    kept = {
        name: value[adapter] for name, value in vars(layer).items() if isinstance(value, dict) and adapter in value
    }
    simple = (bool, int, float, str, list, tuple, type(None))
    return {name: repr(v) if isinstance(v, simple) else type(v).__name__ for name, v in sorted(kept.items())}
