"""The optimizer states that belong to a weight: dicts, lists and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

States = list[Any]
"""One state for each optimizer that has the weight."""


def tensors_of(state: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in a state, lists and dicts included."""
    if isinstance(state, Tensor):
        if state.is_floating_point() or state.is_complex():
            yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_of(value)


def replace_shaped(state: Any, shape: torch.Size, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace each tensor of a shape in a state, lists and dicts included, by `fn` of it."""
    if isinstance(state, dict):
        items: Any = list(state.items())
    elif isinstance(state, list):
        items = list(enumerate(state))
    else:
        return
    for key, value in items:
        if not isinstance(value, Tensor):
            replace_shaped(value, shape, fn)
        elif value.shape == shape:
            state[key] = fn(value)
