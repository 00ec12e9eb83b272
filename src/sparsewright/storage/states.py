"""The optimizer states that belong to a weight: dicts, lists and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


Replacement = tuple[Any, Any, Tensor]
"""A dict or list, a key of it, and the tensor to put there."""


def replacements(
    state: Any, shape: torch.Size, fn: Callable[[Tensor], Tensor]
) -> Iterator[Replacement]:
    """Yield `fn` of each tensor of a shape in a state, lists and dicts included."""
    if isinstance(state, dict):
        items: Any = list(state.items())
    elif isinstance(state, list):
        items = list(enumerate(state))
    else:
        return
    for key, value in items:
        if not isinstance(value, Tensor):
            yield from replacements(value, shape, fn)
        elif value.shape == shape:
            yield state, key, fn(value)


def put_all(replaced: Iterable[Replacement]) -> None:
    """Put tensors in their places."""
    for state, key, tensor in replaced:
        state[key] = tensor


def replace_shaped(state: Any, shape: torch.Size, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace each tensor of a shape in a state, lists and dicts included, by `fn` of it."""
    put_all(replacements(state, shape, fn))
