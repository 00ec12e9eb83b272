"""What a gradient tap is, and the dense gradient that it gives."""

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
        """Return the gradient as scores; in blocks of rows where it is never held whole."""
        return self.dense()


class WholeGradient(DenseGradient):
    """A gradient that is one tensor, sharded like the weight if that is.

    Args:
        tensor: of the weight's shape.
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
    """Collects the dense gradient of one parameter for the coming update step.

    It is the sum over the step's micro-batches. A gradient counts once it has been accumulated, so
    `torch.autograd.grad` leaves no trace; when the user starts a step afresh (`zero_grad`) so does
    the sum, so a step that a `GradScaler` skipped leaves none either.

    Attributes:
        is_armed: whether gradients are collected.
    """

    is_armed = False

    @abstractmethod
    def arm(self) -> None:
        """Start to collect, if it has not started."""

    @abstractmethod
    def disarm(self) -> None:
        """Stop collecting and free what was collected."""

    @abstractmethod
    def free(self) -> None:
        """Free what was collected, and go on collecting."""

    @abstractmethod
    def commit(self, grad: Tensor) -> None:
        """Add what arrived: it has been accumulated into `grad`, which is not pruned yet."""

    @abstractmethod
    def take(self, grad: Tensor) -> None:
        """Take a gradient that no backward pass brought for the dense one."""

    @abstractmethod
    def note(self, grad: Tensor) -> None:
        """Note the state of the accumulated gradient, now that it is pruned."""

    @abstractmethod
    def average(self, group: ProcessGroup) -> dist.Work | None:
        """Begin to average over the ranks that train replicas; all of them take part."""

    @abstractmethod
    def gradient(self) -> DenseGradient | None:
        """Return the dense gradient; None: there was none."""


@contextmanager
def requires_grad(param: Tensor) -> Iterator[None]:
    """Let a parameter require a gradient inside the block: torch registers no hook on others."""
    was = param.requires_grad
    param.requires_grad_(True)
    try:
        yield
    finally:
        param.requires_grad_(was)


def average_(tensor: Tensor, group: ProcessGroup) -> dist.Work:
    """Begin to replace a tensor by its mean over the ranks; `wait()` ends it.

    Divided before it is summed, as data parallelism does, so that float16 does not overflow.
    """
    tensor.div_(dist.get_world_size(group))
    work: dist.Work = dist.all_reduce(tensor, group=group, async_op=True)
    return work


def all_true(condition: bool, group: ProcessGroup | None, device: torch.device) -> bool:
    """Return whether a condition holds on every rank."""
    failures = torch.tensor(int(not condition), device=device)
    return not int(sharded.sum_over(failures, group))
