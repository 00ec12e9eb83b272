"""The base classes of gradient taps, and of the dense gradients that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from sparsewright.core.structure import RowBlocks
from sparsewright.kernels import sharded

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class DenseGradient(ABC):
    """The dense gradient of one weight at one update step."""

    @abstractmethod
    def is_finite(self) -> bool:
        """Return whether every entry is finite, on every rank."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the gradient as a tensor of the weight's shape."""

    def score(self) -> Tensor | RowBlocks:
        """Return the gradient as scores, in blocks of rows if the whole is never in memory."""
        return self.dense()


class WholeGradient(DenseGradient):
    """A gradient in one tensor, which is sharded if the weight is.

    Args:
        tensor: tensor of the weight's shape.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def is_finite(self) -> bool:
        """Return whether every entry is finite, on every rank."""
        return sharded.all_finite(self._tensor)

    def dense(self) -> Tensor:
        """Return the tensor."""
        return self._tensor


class GradientTap(ABC):
    """Collect the dense gradient of one parameter for the next update step.

    The dense gradient is the sum over the micro-batches of one step. A gradient counts once it has
    been accumulated, so calls of `torch.autograd.grad` do not count. When the user clears the
    gradient (`zero_grad`), the sum starts again, so a step that a `GradScaler` skipped does not
    count.

    Attributes:
        is_armed: whether gradients are collected.
    """

    is_armed = False

    @abstractmethod
    def arm(self) -> None:
        """Start collecting, unless the tap is armed already."""

    @abstractmethod
    def disarm(self) -> None:
        """Stop collecting and free what was collected."""

    @abstractmethod
    def free(self) -> None:
        """Free what was collected, and keep collecting."""

    @abstractmethod
    def commit(self, grad: Tensor) -> None:
        """Add the gradient that was accumulated into `grad`, which is not pruned yet."""

    @abstractmethod
    def take(self, grad: Tensor) -> None:
        """Use a gradient that the user assigned, without a backward pass, as the dense gradient."""

    @abstractmethod
    def note(self, grad: Tensor) -> None:
        """Record the state of the accumulated gradient, which is pruned now."""

    @abstractmethod
    def average(self, group: ProcessGroup) -> dist.Work | None:
        """Start averaging over the ranks that train replicas; every rank must call this."""

    @abstractmethod
    def gradient(self) -> DenseGradient | None:
        """Return the dense gradient; None if there was none."""


@contextmanager
def requires_grad(param: Tensor) -> Iterator[None]:
    """Make a parameter require a gradient inside the block; torch needs this to register a hook."""
    was = param.requires_grad
    param.requires_grad_(True)
    try:
        yield
    finally:
        param.requires_grad_(was)


def average_(tensor: Tensor, group: ProcessGroup) -> dist.Work:
    """Start replacing a tensor by its mean over the ranks; `wait()` completes it.

    The tensor is divided before it is summed, as in data parallelism, so that float16 does not
    overflow.
    """
    tensor.div_(dist.get_world_size(group))
    work: dist.Work = dist.all_reduce(tensor, group=group, async_op=True)
    return work


def all_true(condition: bool, group: ProcessGroup | None, device: torch.device) -> bool:
    """Return whether a condition is true on every rank."""
    failures = torch.tensor(int(not condition), device=device)
    return not int(sharded.sum_over(failures, group))
