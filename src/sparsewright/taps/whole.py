"""The tap of a weight that is one dense tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsewright.taps.arrival import ArrivalTap
from sparsewright.taps.tap import DenseGradient, WholeGradient, average_

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed import ProcessGroup


class WholeTap(ArrivalTap):
    """Sum the gradients of a weight.

    Args:
        param: the weight.
        mask: bool mask of the weight's shape.
    """

    def __init__(self, param: Tensor, mask: Tensor) -> None:
        super().__init__(param)
        self._mask = mask

    def empty(self) -> None:
        """Discard the sum."""
        self._sum: Tensor | None = None

    def add(self, grad: Tensor) -> None:
        """Add a gradient to the sum."""
        if self._sum is None:
            self._sum = grad.detach().clone()
        else:
            self._sum += grad

    @torch.no_grad()
    def take(self, grad: Tensor) -> None:
        """Use a gradient as the dense one, if it is nonzero at pruned connections."""
        if self.is_armed:
            dense = grad.detach().clone()
            if bool(dense.masked_fill(self._mask, 0).any()):
                self._sum = dense

    @torch.no_grad()
    def average(self, group: ProcessGroup) -> dist.Work | None:
        """Average the sum over the ranks; a rank without a gradient adds zeros."""
        if self._sum is None:
            self._sum = torch.zeros_like(self.param)
        return average_(self._sum, group)

    def gradient(self) -> DenseGradient | None:
        """Return the sum."""
        return None if self._sum is None else WholeGradient(self._sum)
