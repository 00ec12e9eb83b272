"""The base class of storages with a dense weight and a bool buffer `<param>_mask`."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.core.packing import read_mask
from sparsewright.errors import AttachError, SparsewrightError
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.storage.states import States
from sparsewright.storage.storage import Change, Storage
from sparsewright.taps.shards import ShardedTap
from sparsewright.taps.tap import GradientTap
from sparsewright.taps.whole import WholeTap
from sparsewright.torch_private import version


def is_mask_of(buffer: Tensor, param: Tensor) -> bool:
    """Return whether a buffer can be the mask of a parameter."""
    return buffer.dtype == torch.bool and buffer.shape == param.shape


class DenseStorage(Storage):
    """Store a dense weight, with its mask in a buffer of the same module.

    Attributes:
        prunes_gradient: whether the optimizer sees a pruned gradient.
    """

    prunes_gradient: ClassVar[bool]

    def __init__(self, module: nn.Module, param_name: str) -> None:
        super().__init__(module, param_name)
        self._mask_name = param_name + MASK_SUFFIX
        self._counted: tuple[int, int, int] = (0, -1, 0)
        self._kept_in_shards = 0
        # Reading `param` records the Parameter, so that it can be found in another module later.
        self._last: tuple[Tensor | None, int] = None, id(self.param)

    @property
    def is_alive(self) -> bool:
        """Return whether the module still exists."""
        return self._module() is not None

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the weight."""
        return self.param.shape

    @property
    def is_outgrown(self) -> bool:
        """Return whether the buffer's shape differs from the current Parameter's."""
        module = self._module()
        mask = None if module is None else module._buffers.get(self._mask_name)
        return self.is_in_place and mask is not None and mask.shape != self.param.shape

    @property
    def mask(self) -> Tensor:
        """Return the mask buffer.

        If the weight has left the meta device, the buffer is first created on the weight's device.
        """
        module, (last, at) = self._module(), self._last
        mask = last if module is None else module._buffers.get(self._mask_name)
        if mask is None:
            layer = type(module).__name__
            problem = f"this buffer of a {layer} was deleted; to train dense weights, call remove()"
            raise AttachError(self._mask_name, problem)
        if module is None:
            return mask
        if mask is last and id(module._parameters.get(self.param_name)) == at:
            return mask
        param = self.param
        if mask.is_meta and not param.is_meta:
            mask = torch.ones_like(param, dtype=torch.bool, requires_grad=False)
            setattr(module, self._mask_name, mask)
        if sharded.is_sharded(param) and not sharded.is_spread_like(mask, param):
            whole = sharded.whole(mask)  # tensor parallelism replicates all buffers
            self._kept_in_shards = int(whole.sum())
            mask = sharded.shard_like(whole, param)
            setattr(module, self._mask_name, mask)
        if not mask.is_meta:
            self._last = mask, id(param) if self._shard is None else 0
        return mask

    @property
    def kept(self) -> int:
        """Return the number of live connections, counted again only after a write to the mask.

        Shards are counted when all ranks change or load a mask: a rank that reads this property
        alone must not wait for the others.
        """
        mask = self.mask
        if sharded.group_of(mask) is not None:
            return self._kept_in_shards
        at = id(mask), version(sharded.local(mask))
        if self._counted[:2] != at:
            self._counted = (*at, int(sharded.local(mask).sum()))
        return self._counted[2]

    def recount(self) -> None:
        """Count the live connections of a sharded weight again."""
        if sharded.is_sharded(self.mask):
            (self._kept_in_shards,) = self._sum([int(sharded.local(self.mask).sum())])

    def _sum(self, counts: list[int]) -> list[int]:
        """Return counts of this rank's shard, summed over the ranks."""
        total = torch.tensor(counts, device=sharded.local(self.mask).device)
        return sharded.sum_over(total, sharded.shards_of(self.mask).group).tolist()

    def _local_mask(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return this rank's part of the mask and of the new mask."""
        mask = sharded.local(self.mask)
        return mask, sharded.local(sharded.shard_like(new, self.param)).to(mask.device)

    def plan_change(self, new: Tensor, states: States) -> Change:
        """Prepare to write the mask, and the tensors that depend on it, in place."""
        mask, new = self._local_mask(new)
        dropped, grown = kernels.count_changes(mask, new)
        kept = self._kept_in_shards
        if sharded.is_sharded(self.mask):
            dropped, grown, kept = self._sum([dropped, grown, int(new.sum())])
        write = self._writer(mask, new, states)

        def commit() -> None:
            write()
            self._kept_in_shards = kept

        return Change(dropped, grown, commit)

    @abstractmethod
    def _writer(self, mask: Tensor, new: Tensor, states: States) -> Callable[[], None]:
        """Return a function that writes this rank's part of the mask and of dependent tensors."""

    def prune(self, tensor: Tensor) -> None:
        """Prune one tensor."""
        mask = self.mask
        if self._shard is None:  # this shortcut saves two lookups for each gradient
            kernels.prune_(tensor, mask)
        else:
            kernels.prune_(sharded.local(tensor), sharded.local(mask))

    def prune_gradient(self, grad: Tensor) -> None:
        """Prune the gradient, if this storage prunes gradients."""
        if self.prunes_gradient:
            self.prune(grad)

    def gradient_to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return this rank's part of gradient and mask, if this storage prunes gradients."""
        grad = self.param.grad if self.prunes_gradient else None
        return None if grad is None else (sharded.local(grad), sharded.local(self.mask))

    def take_states(self, states: States) -> None:
        """Do nothing: the states already have the weight's shape."""

    def buffers(self) -> list[Tensor]:
        """Return the mask."""
        return [self.mask]

    def tap(self) -> GradientTap:
        """Return a tap for the whole weight, or for this rank's shard."""
        if sharded.is_sharded(self.param):
            return ShardedTap(self.mask if self.prunes_gradient else None)
        return WholeTap(self.param, self.mask)

    def before_load(self, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> bool:
        """Add the present mask to a checkpoint without one; check the mask that others contain."""
        weight, mask = prefix + self.param_name, prefix + self._mask_name
        own = self.module.get_buffer(self._mask_name)
        was_dense = weight in state_dict and mask not in state_dict
        if was_dense:
            state_dict[mask] = own
        elif mask in state_dict:
            try:
                state_dict[mask] = read_mask(state_dict[mask], own.shape)
            except SparsewrightError as error:
                errors.append(f"{mask}: {error}")
                state_dict[mask] = own  # otherwise torch would copy the rejected mask
        return was_dense

    def after_load(self, states: States) -> None:
        """Do nothing: the states keep their shape."""

    def move(self, module: nn.Module, param_name: str) -> None:
        """Register the mask next to the Parameter in its new module."""
        old, (mask, _) = self._module(), self._last
        if old is not None:
            mask = old._buffers.pop(self._mask_name, mask)
        self._module, self.param_name = weakref.ref(module), param_name
        self._mask_name = param_name + MASK_SUFFIX
        module.register_buffer(self._mask_name, mask)
        self._last = None, 0

    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Remove the mask buffer."""
        if not keep_mask and self._mask_name in self.module._buffers:
            delattr(self.module, self._mask_name)

    def why_not_spread(self) -> str:
        """Return why the weight's sharding is not supported; "" if it is."""
        return sharded.why_not_sharded(self.param)

    def why_not_change(self, new: Tensor) -> str:
        """Return "": a dense mask can have any number of live connections."""
        return ""

    @staticmethod
    def why_not_step(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        """Return "": any optimizer can step a dense weight."""
        return ""
