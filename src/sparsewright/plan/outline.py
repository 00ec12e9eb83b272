"""Build the model of a plan, on the meta device if possible."""

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
"""Returns a module or `(module, inputs)`; inputs are a tensor, a tuple of arguments or a dict."""


@dataclass(frozen=True)
class Outline:
    """A model, and inputs for its forward pass if the factory returned any."""

    model: nn.Module
    inputs: Any = None


def load_factory(spec: str) -> Factory:
    """Import the factory named by `module:factory`; the name may also refer to a finished module.

    Raises:
        ConfigError: the object cannot be imported, or is not callable.
    """
    found = load_object(spec, "module:factory, such as my_models:small_gpt")
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(spec, f"expected a function that returns a module, got type {kind}")
    factory: Factory = found
    return factory


def build(factory: Factory, where: str) -> Outline:
    """Call a factory on the meta device or, if that fails, on the CPU.

    Raises:
        ConfigError: the factory fails, or does not return a module.
        SparsewrightError: a recipe's outline raised this error.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                with torch.device("meta"):
                    made = factory()
            except Exception:  # it may fail on meta tensors only, so try real ones
                made = factory()  # an error raised here is reported
    except SparsewrightError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(where, f"the factory failed: {one_line(error)}") from error
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        kind = type(made).__name__
        problem = f"the factory must return a module or (module, inputs), but returned type {kind}"
        raise ConfigError(where, problem)
    return Outline(model, inputs)


def run(outline: Outline) -> None:
    """Run a forward pass on the device of the model's parameters."""
    devices = [param.device for param in outline.model.parameters() if not is_lazy(param)]
    device = devices[0] if devices else torch.device("meta")
    inputs = map_tensors(lambda tensor: tensor.to(device), outline.inputs)
    with contextlib.redirect_stdout(sys.stderr):
        if isinstance(inputs, Mapping):
            outline.model(**inputs)
        else:
            outline.model(*(inputs if isinstance(inputs, tuple) else (inputs,)))


def count_flops(outline: Outline, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the FLOPs of one forward pass by weight; the key "" holds all other FLOPs.

    A multiply-add counts as two FLOPs. Matrix products, convolutions and attention are counted.
    """
    names = {memory_id(weight): name for name, weight in weights.items()}
    flops: Counter[str] = Counter()

    def count(tensors: Sequence[Tensor], new: int) -> None:
        found = (names.get(memory_id(tensor)) for tensor in tensors)
        flops[next(filter(None, found), "")] += new

    with counting_flops(flop_registry, count):
        run(outline)
    return dict(flops)
