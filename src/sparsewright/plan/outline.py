"""The model of a plan: made by a factory, without memory where that is possible."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import flop_registry

from sparsewright.errors import ConfigError, SparsewrightError
from sparsewright.runs.user_objects import load_object, one_line
from sparsewright.torch_private import counting_flops, map_tensors, memory_id

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
    inputs = map_tensors(lambda tensor: tensor.to(device), outline.inputs)
    with contextlib.redirect_stdout(sys.stderr):
        if isinstance(inputs, Mapping):
            outline.model(**inputs)
        else:
            outline.model(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def count_flops(outline: Outline, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """FLOPs of one forward pass by the weight they are done with; under "" all others.

    A product and its sum are two. Counted are matrix products, convolutions and attention.
    """
    names = {memory_id(weight): name for name, weight in weights.items()}
    flops: Counter[str] = Counter()

    def count(tensors: Sequence[Tensor], new: int) -> None:
        found = (names.get(memory_id(tensor)) for tensor in tensors)
        flops[next(filter(None, found), "")] += new

    with counting_flops(flop_registry, count):
        run(outline)
    return dict(flops)
