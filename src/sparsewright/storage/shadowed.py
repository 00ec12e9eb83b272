"""The shadowed storage, in which only the optimizer sees a weight's pruned entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsewright import kernels
from sparsewright.errors import ShapeError
from sparsewright.kernels import sharded
from sparsewright.layers import LayerKind
from sparsewright.storage.dense import DenseStorage
from sparsewright.storage.guard import Guard
from sparsewright.storage.states import States
from sparsewright.storage.storage import Footprint


class ShadowedStorage(DenseStorage):
    """Keep pruned entries in a shadow, and put them back only for the optimizer's step.

    The forward pass, evaluation and checkpoints see the pruned weight. Its gradient is applied to
    the dense weight: a straight-through estimator, without a hook on the forward pass. Gradient and
    optimizer states are dense.

    Args:
        module: module that owns the weight.
        param_name: the Parameter's name in the module.
        full_name: full name of the weight.
        shadows: the algorithm's shadows, by full name, which are saved with its state.
    """

    name: ClassVar[str] = "shadowed"
    trains_pruned: ClassVar[bool] = True
    prunes_gradient: ClassVar[bool] = False

    def __init__(
        self, module: nn.Module, param_name: str, full_name: str, shadows: dict[str, Tensor]
    ) -> None:
        super().__init__(module, param_name)
        self._full_name, self._shadows = full_name, shadows
        self._is_dense = False
        self._guard: Guard | None = None
        self._own: Tensor | None = None
        # A shadow loaded before `apply` belongs to a mask that is yet to be loaded.
        self._loaded = shadows.pop(full_name, None)

    @property
    def shadow(self) -> Tensor:
        """Return the pruned entries, with zeros at live connections; sharded like the weight."""
        param, shadow = self.param, self._shadows.get(self._full_name)
        is_own = shadow is self._own
        if shadow is None:
            shadow = torch.zeros_like(param, requires_grad=False)
        elif shadow.shape != param.shape:  # it was loaded before the weight was known
            problem = f"its weight has shape {tuple(param.shape)}; load this model's own state"
            raise ShapeError(f"the shadow of {self._full_name}", shadow.shape, problem)
        elif sharded.is_sharded(param) and not sharded.is_sharded(shadow):
            shadow = sharded.shard_like(shadow, param)
        if (shadow.device, shadow.dtype) != (param.device, param.dtype):
            shadow = shadow.to(param.device, param.dtype)
        self._shadows[self._full_name] = shadow
        self._own = shadow if is_own else None
        return shadow

    def start_dense(self) -> None:
        """Set the whole mask to True, and clear the shadow, which belonged to another weight."""
        sharded.local(self.mask).fill_(True)
        sharded.local(self.shadow).zero_()

    @torch.no_grad()
    def weight(self) -> Tensor:
        """Return a new copy of the dense weight."""
        self.end_interrupted()
        param = self.param
        mask, shadow = sharded.local(self.mask), sharded.local(self.shadow)
        dense = torch.where(mask, sharded.local(param), shadow)
        return sharded.from_local(dense, param) if sharded.is_sharded(param) else dense

    def _writer(self, mask: Tensor, new: Tensor, states: States) -> Callable[[], None]:
        """Return a function that divides the dense weight between Parameter and shadow."""
        dense = sharded.local(self.weight())
        param, shadow = sharded.local(self.param), sharded.local(self.shadow)

        def write() -> None:
            mask.copy_(new)
            param.copy_(dense)
            shadow.copy_(dense).masked_fill_(new, 0)
            kernels.prune_(param, new)

        return write

    def prune_states(self, states: States) -> None:
        """Do nothing: the states are dense, like the weight that is trained."""

    @torch.no_grad()
    def before_step(self) -> None:
        """Put the pruned entries back into the Parameter."""
        self.end_interrupted()
        # The shadow is still our own if no other was loaded since.
        if self._loaded is not None and self.shadow is self._own:
            self._shadows[self._full_name] = self._loaded
        self._loaded = None
        self._guard = Guard(self.module, self.param_name, self.after_step)
        param, mask, shadow = map(sharded.local, (self.param, self.mask, self.shadow))
        torch.where(mask, param, shadow, out=param)
        self._is_dense = True

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the pruned entries from the Parameter to the shadow."""
        if self._is_dense:  # if interrupted at any of these lines, all of them can run again
            param, mask = sharded.local(self.param), sharded.local(self.mask)
            sharded.local(self.shadow).copy_(param).masked_fill_(mask, 0)
            self._is_dense = False
        self.prune(self.param)
        if self._guard is not None:
            self._guard.remove()
            self._guard = None

    def end_interrupted(self) -> None:
        """Move the pruned entries to the shadow, if a step raised before `after_step` ran."""
        if self._guard is not None:
            self.after_step()

    def to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return None: `after_step` prunes the weight."""

    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Remove the mask buffer and delete the shadow."""
        self.end_interrupted()
        super().remove(states, keep_mask)
        self._shadows.pop(self._full_name, None)

    @staticmethod
    def footprint(
        shape: torch.Size, kept: int, dtype: torch.dtype, kind: LayerKind | None
    ) -> Footprint:
        """Return the memory of all entries, with one byte of mask and one shadow entry for each."""
        return Footprint(shape.numel(), shape.numel(), shape.numel())
