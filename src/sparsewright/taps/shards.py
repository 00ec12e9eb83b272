"""The tap of a sharded weight, for which autograd never holds the whole gradient."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsewright.kernels import sharded
from sparsewright.taps.tap import DenseGradient, GradientTap, WholeGradient
from sparsewright.torch_private import version

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed import ProcessGroup


class ShardedTap(GradientTap):
    """Collect the accumulated gradient, which is already averaged over the ranks.

    Where the mask is True, the accumulated gradient is the sum over micro-batches. Elsewhere it was
    pruned after the previous micro-batch, so it is the current micro-batch's gradient alone.

    Args:
        mask: bool mask, sharded like the weight; None: the accumulated gradient is not pruned.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self._mask = mask
        self.free()

    def arm(self) -> None:
        """Start collecting."""
        self.is_armed = True

    def disarm(self) -> None:
        """Stop collecting and free the sum."""
        self.is_armed = False
        self.free()

    def free(self) -> None:
        """Free the sum."""
        self._sum: Tensor | None = None
        self._held: weakref.ref[Tensor] | None = None
        self._versions = (-1, -1)

    @torch.no_grad()
    def commit(self, grad: Tensor) -> None:
        """Add the part of the accumulated gradient that is new."""
        if not self.is_armed:
            return
        if self._mask is None or self._sum is None or self._was_cleared(grad):
            self._sum, self._held = grad.detach().clone(), weakref.ref(grad)
            return
        total, new = sharded.local(self._sum), sharded.local(grad)
        total += new
        torch.where(sharded.local(self._mask), new, total, out=total)

    def _was_cleared(self, grad: Tensor) -> bool:
        """Return whether the user cleared the gradient since the last micro-batch.

        If so, the gradient is another tensor, or has been written to. FSDP2 accumulates into the
        shard only, while autograd writes to the DTensor once.
        """
        before, shard_before = self._versions
        is_in_shard = version(sharded.local(grad)) != shard_before
        is_held = self._held is not None and self._held() is grad
        return not is_held or version(grad) > before + (0 if is_in_shard else 1)

    def note(self, grad: Tensor) -> None:
        """Record the version counters, so that later in-place writes can be detected."""
        if self.is_armed:
            self._versions = version(grad), version(sharded.local(grad))

    @torch.no_grad()
    def take(self, grad: Tensor) -> None:
        """Use a gradient as the dense one, if it is nonzero at pruned connections."""
        if self.is_armed:
            dense = grad.detach().clone()
            if self._mask is None or bool(dense.masked_fill(self._mask, 0).any()):
                self._sum = dense

    def average(self, group: ProcessGroup) -> dist.Work | None:
        """Return None: the gradient of a shard is already averaged."""

    def gradient(self) -> DenseGradient | None:
        """Return the sum, sharded like the weight."""
        return None if self._sum is None else WholeGradient(self._sum)
