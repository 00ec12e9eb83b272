"""The model of a plan: made by a factory, without memory where that is possible."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from sparsewright.errors import ConfigError, SparsewrightError
from sparsewright.runs.user_objects import load_object, one_line

Factory = Callable[[], Any]
"""Gives a module, or `(module, inputs)`: a tensor, a tuple of arguments or a dict of keywords."""


@dataclass(frozen=True)
class Outline:
    """A model, and inputs to send through it if there are any."""

    model: nn.Module
    inputs: Any = None


def load_factory(spec: str) -> Factory:
    """The factory that `module:factory` names; a module that is there already is one too.

    Raises:
        ConfigError: it cannot be imported, or is not a function.
    """
    found = load_object(spec, "module:factory, such as my_models:small_gpt")
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(spec, f"it is a {kind}; allowed: a function that gives a module")
    factory: Factory = found
    return factory


def build(factory: Factory, where: str) -> Outline:
    """Call a factory on the meta device, or, if it cannot work there, on the CPU.

    Raises:
        ConfigError: it fails, or gives something else than a module.
        SparsewrightError: as a recipe's outline raises.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                with torch.device("meta"):
                    made = factory()
            except Exception:  # a user's function: perhaps it looks at numbers, which meta has not
                made = factory()  # what it raises here is reported
    except SparsewrightError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(where, f"the factory failed: {one_line(error)}") from error
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        kind = type(made).__name__
        raise ConfigError(where, f"it gives a {kind}; allowed: a module, or (module, inputs)")
    return Outline(model, inputs)


def run(outline: Outline) -> None:
    """Send the inputs through the model, where its parameters are."""
    devices = [param.device for param in outline.model.parameters() if not is_lazy(param)]
    device = devices[0] if devices else torch.device("meta")
    inputs = tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, outline.inputs
    )
    with contextlib.redirect_stdout(sys.stderr):
        if isinstance(inputs, Mapping):
            outline.model(**inputs)
        else:
            outline.model(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def count_flops(outline: Outline, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """FLOPs of one forward pass by the weight they are done with; under "" all others.

    A product and its sum are two. Counted are matrix products, convolutions and attention.
    """
    with _Counting(weights) as counting:
        run(outline)
    return dict(counting.flops)


class _Counting(TorchDispatchMode):
    """Counts what passes, and finds the weight by the storage that all its views share."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        TorchDispatchMode.__init__(self)
        self.names = {w.untyped_storage()._cdata: name for name, w in weights.items()}
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                made_of_others = func.decompose(*args, **kwargs)
            if made_of_others is not NotImplemented:
                return made_of_others
        out = func(*args, **kwargs)
        if formula is not None:
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            found = [self.names.get(t.untyped_storage()._cdata) for t in tensors]
            name = next((name for name in found if name), "")
            self.flops[name] += formula(*args, **kwargs, out_val=out)
        return out
