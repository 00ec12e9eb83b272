"""A block inside of which models are sparse."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from torch import nn
from torch.optim import Optimizer

from sparsewright.errors import AttachError


class Attachable(Protocol):
    """What `attached` needs to know of an algorithm."""

    @property
    def is_attached(self) -> bool:
        """Whether it was applied to anything."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Take back what `state_dict` gave."""

    def apply(self, obj: nn.Module | Optimizer) -> None:
        """Sparsify a module or an optimizer."""

    def remove(self) -> None:
        """Take everything off again."""


A = TypeVar("A", bound=Attachable)


@contextmanager
def attached(algorithm: A, *objects: nn.Module | Optimizer) -> Iterator[A]:
    """`apply` to models and optimizers inside a `with` block, `remove` on leaving it.

    ::

        with sparsity.attached(model, optimizer):
            train(model, optimizer)

    The weights keep their zeros, and the algorithm's state (step, schedules) is again what it was
    on entering: save it inside. An exception, also one of `apply`, takes everything off as well.

    Args:
        algorithm: the algorithm (`sparsity.attached(...)` passes itself).
        objects: modules and optimizers.

    Raises:
        AttachError: the algorithm is attached already; leaving the block would take that off too.
        OptionTypeError: neither a Module nor an Optimizer.
    """
    if algorithm.is_attached:
        name = type(algorithm).__name__
        raise AttachError(name, "attached already; call remove(), or use another algorithm object")
    before = copy.deepcopy(algorithm.state_dict())
    try:
        for obj in objects:
            algorithm.apply(obj)
        yield algorithm
    finally:
        algorithm.remove()
        algorithm.load_state_dict(before)
