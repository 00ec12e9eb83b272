"""The masked storage: the weight is dense, and zero where its mask is False."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.kernels import sharded
from sparsewright.layers import LayerKind
from sparsewright.storage.dense import DenseStorage
from sparsewright.storage.states import States
from sparsewright.storage.storage import Footprint


class MaskedStorage(DenseStorage):
    """Store a dense weight that is pruned after each step, with its gradient and its states."""

    name: ClassVar[str] = "masked"
    prunes_gradient: ClassVar[bool] = True

    def start_dense(self) -> None:
        """Set the whole mask to True."""
        sharded.local(self.mask).fill_(True)

    def weight(self) -> Tensor:
        """Return the Parameter itself."""
        return self.param

    def _writer(self, mask: Tensor, new: Tensor, states: States) -> Callable[[], None]:
        """Return a function that prunes weight, gradient and states, and writes the mask."""
        followers = [
            (state, tensor) for state in states for tensor in state.entries(self.shape, self.mask)
        ]

        def write() -> None:
            # Prune by the connections that stay live: grown connections start at 0, even if the
            # user wrote other values there.
            mask.logical_and_(new)
            self.prune(self.param)
            if self.param.grad is not None:
                self.prune(self.param.grad)
            for state, tensor in followers:
                state.prune(tensor, self.mask)
            mask.copy_(new)

        return write

    def prune_states(self, states: States) -> None:
        """Prune the tensors that have one entry for each connection."""
        for state in states:
            for tensor in state.entries(self.shape, self.mask):
                state.prune(tensor, self.mask)

    def before_step(self) -> None:
        """Do nothing: the optimizer steps the pruned weight."""

    def after_step(self) -> None:
        """Do nothing: the caller prunes what `to_prune` returns."""

    def end_interrupted(self) -> None:
        """Do nothing: `before_step` changes nothing."""

    def to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return this rank's part of weight and mask."""
        mask, param = self.mask, self.param
        if self._shard is None:
            return param, mask
        return sharded.local(param), sharded.local(mask)

    @staticmethod
    def footprint(
        shape: torch.Size, kept: int, dtype: torch.dtype, kind: LayerKind | None
    ) -> Footprint:
        """Return the memory of all entries, and one byte of mask for each."""
        return Footprint(shape.numel(), shape.numel())
