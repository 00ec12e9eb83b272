"""Taps of parameters whose gradients autograd accumulates in front of our eyes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparsewright.errors import AttachError
from sparsewright.taps.tap import GradientTap, requires_grad
from sparsewright.torch_private import version


class ArrivalTap(GradientTap):
    """Knows of each gradient that arrives whether it is the first of its step.

    Args:
        param: what the optimizer steps.
    """

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self._handle: RemovableHandle | None = None
        self.free()

    def arm(self) -> None:
        """Hook the gradient on its way."""
        if not self.is_armed:
            self.is_armed = True
            with requires_grad(self.param):
                self._handle = self.param.register_hook(self._arrive)

    def disarm(self) -> None:
        """Take the hook off and free what was collected."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self.is_armed = None, False
        self.free()

    def free(self) -> None:
        """Free what was collected, and go on collecting."""
        self._arrived: Tensor | None = None
        self._is_arriving = self._is_first = False
        self._version = -1
        self.empty()

    def _arrive(self, grad: Tensor) -> None:
        self._is_arriving, self._is_first = True, self._was_cleared()
        # Holding on to the first one would make autograd copy it instead of taking it.
        self._arrived = None if self._is_first else grad

    def _was_cleared(self) -> bool:
        """Return whether the user cleared the gradient since the last micro-batch."""
        held = self.param.grad
        return held is None or (version(held) != self._version and not bool(held.any()))

    @torch.no_grad()
    def commit(self, grad: Tensor) -> None:
        """Add the gradient that arrived to what was collected.

        Raises:
            AttachError: it was accumulated without passing the hook.
        """
        if self._is_arriving:
            arrived = grad if self._arrived is None else self._arrived
            self._arrived, self._is_arriving = None, False
            if self._is_first:
                self.empty()
            self.add(arrived)
        elif self.is_armed:
            raise AttachError(
                f"a sparse weight of shape {tuple(self.param.shape)}",
                "torch lost the hook on its gradient, as it does up to 2.9 if a custom autograd "
                "function saves the weight inside checkpoint(use_reentrant=False); save "
                "weight.detach(), or use torch 2.10 or later",
            )

    def note(self, grad: Tensor) -> None:
        """Record the version counter, so that later writes in place can be detected."""
        if self.is_armed:
            self._version = version(grad)

    @abstractmethod
    def empty(self) -> None:
        """Forget what was added so far."""

    @abstractmethod
    def add(self, grad: Tensor) -> None:
        """Add one micro-batch, whose gradient of `param` is `grad`."""
