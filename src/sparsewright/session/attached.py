"""A context manager that applies an algorithm on entry and removes it on exit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from torch import nn
from torch.optim import Optimizer

from sparsewright.errors import AttachError


class Attachable(Protocol):
    """The interface of an algorithm that `attached` uses."""

    @property
    def is_attached(self) -> bool:
        """Return whether the algorithm is applied to a model or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state from `state_dict`."""

    def apply(self, obj: nn.Module | Optimizer) -> None:
        """Sparsify a module or follow an optimizer."""

    def remove(self) -> None:
        """Remove the algorithm from its models and optimizers."""


A = TypeVar("A", bound=Attachable)


@contextmanager
def attached(algorithm: A, *objects: nn.Module | Optimizer) -> Iterator[A]:
    """Apply an algorithm to models and optimizers in a `with` block, and remove it afterwards.

    ::

        with sparsity.attached(model, optimizer):
            train(model, optimizer)

    After the block, the weights keep their zeros. The algorithm's state (step, schedules) is reset
    to its value before the block, so save the state inside the block. The algorithm is also
    removed if `apply` or the block raises.

    Args:
        algorithm: the algorithm (`sparsity.attached(...)` passes itself).
        objects: modules and optimizers.

    Raises:
        AttachError: the algorithm is already attached, and leaving the block would remove it.
        OptionTypeError: an object is not a Module or an Optimizer.
    """
    if algorithm.is_attached:
        name = type(algorithm).__name__
        problem = "it is already attached; call remove() first, or create another algorithm"
        raise AttachError(name, problem)
    before = copy.deepcopy(algorithm.state_dict())
    try:
        for obj in objects:
            algorithm.apply(obj)
        yield algorithm
    finally:
        algorithm.remove()
        algorithm.load_state_dict(before)
