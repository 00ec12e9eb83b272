"""The base class of taps that see a parameter's gradients in a tensor hook."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparsewright.errors import AttachError
from sparsewright.taps.tap import GradientTap, requires_grad
from sparsewright.torch_private import version


class ArrivalTap(GradientTap):
    """Detect, for each gradient that arrives, whether it is the first one of its step.

    Args:
        param: Parameter that the optimizer steps.
    """

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self._handle: RemovableHandle | None = None
        self.free()

    def arm(self) -> None:
        """Register a hook that sees each gradient before it is accumulated."""
        if not self.is_armed:
            self.is_armed = True
            with requires_grad(self.param):
                self._handle = self.param.register_hook(self._arrive)

    def disarm(self) -> None:
        """Remove the hook and free the collected gradients."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self.is_armed = None, False
        self.free()

    def free(self) -> None:
        """Free the collected gradients, and keep collecting."""
        self._arrived: Tensor | None = None
        self._is_arriving = self._is_first = False
        self._version = -1
        self.empty()

    def _arrive(self, grad: Tensor) -> None:
        self._is_arriving, self._is_first = True, self._was_cleared()
        # A reference to the first gradient would make autograd copy it instead of reusing it.
        self._arrived = None if self._is_first else grad

    def _was_cleared(self) -> bool:
        """Return whether the user cleared the gradient since the last micro-batch."""
        held = self.param.grad
        return held is None or (version(held) != self._version and not bool(held.any()))

    @torch.no_grad()
    def commit(self, grad: Tensor) -> None:
        """Collect the gradient that arrived.

        Raises:
            AttachError: the gradient was accumulated without passing the hook.
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
                "torch lost the hook on its gradient; torch 2.9 and earlier lose it when a custom "
                "autograd function saves the weight inside checkpoint(use_reentrant=False). Save "
                "weight.detach() instead, or use torch 2.10 or later",
            )

    def note(self, grad: Tensor) -> None:
        """Record the version counter, so that later in-place writes can be detected."""
        if self.is_armed:
            self._version = version(grad)

    @abstractmethod
    def empty(self) -> None:
        """Discard what was added so far."""

    @abstractmethod
    def add(self, grad: Tensor) -> None:
        """Add one micro-batch, in which the gradient of `param` is `grad`."""
