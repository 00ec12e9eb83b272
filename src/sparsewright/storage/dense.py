"""The base of storages with a dense weight and a bool buffer `<param>_mask` beside it."""

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
from sparsewright.errors import SparsewrightError
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
    """A dense weight and its mask buffer.

    Attributes:
        prunes_gradient: whether the optimizer sees a pruned gradient.
    """

    prunes_gradient: ClassVar[bool]

    def __init__(self, module: nn.Module, param_name: str) -> None:
        super().__init__(module, param_name)
        self._mask_name = param_name + MASK_SUFFIX
        self._counted: tuple[int, int, int] = (0, -1, 0)
        self._kept_in_shards = 0
        # `param` notes which Parameter it is, to find it again in another module.
        self._last: tuple[Tensor | None, int] = None, id(self.param)

    @property
    def is_alive(self) -> bool:
        """Whether the module was not freed."""
        return self._module() is not None

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.param.shape

    @property
    def is_outgrown(self) -> bool:
        """Whether the buffer has another shape than the Parameter that is there now."""
        module = self._module()
        mask = None if module is None else module._buffers.get(self._mask_name)
        return self.is_in_place and mask is not None and mask.shape != self.param.shape

    @property
    def mask(self) -> Tensor:
        """The buffer; made real on the weight's device if the weight left the meta device."""
        module, (last, at) = self._module(), self._last
        mask = last if module is None else module._buffers[self._mask_name]
        assert mask is not None
        if module is None:
            return mask
        if mask is last and id(module._parameters.get(self.param_name)) == at:
            return mask
        param = self.param
        if mask.is_meta and not param.is_meta:
            mask = torch.ones_like(param, dtype=torch.bool, requires_grad=False)
            setattr(module, self._mask_name, mask)
        if sharded.is_sharded(param) and not sharded.is_spread_like(mask, param):
            whole = sharded.whole(mask)  # tensor parallelism replicates buffers
            self._kept_in_shards = int(whole.sum())
            mask = sharded.shard_like(whole, param)
            setattr(module, self._mask_name, mask)
        if not mask.is_meta:
            self._last = mask, id(param) if self._shard is None else 0
        return mask

    @property
    def kept(self) -> int:
        """Counted from the mask, again only after it was written to.

        Shards are counted when a mask is changed or loaded, which all ranks do: one that asks
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
        """Count again."""
        if sharded.is_sharded(self.mask):
            (self._kept_in_shards,) = self._sum([int(sharded.local(self.mask).sum())])

    def _sum(self, counts: list[int]) -> list[int]:
        """Counts of this rank's shard, summed over the ranks."""
        total = torch.tensor(counts, device=sharded.local(self.mask).device)
        return sharded.sum_over(total, sharded.shards_of(self.mask).group).tolist()

    def _local_mask(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of the mask, and of the new one."""
        mask = sharded.local(self.mask)
        return mask, sharded.local(sharded.shard_like(new, self.param)).to(mask.device)

    def plan_change(self, new: Tensor, states: States) -> Change:
        """Prepare to write the buffer and what follows it, in place."""
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
        """Return what writes this rank's part of the new mask, and all that follows, in place."""

    def prune(self, tensor: Tensor) -> None:
        """Prune one tensor."""
        mask = self.mask
        if self._shard is None:  # saves two look-ups for each gradient
            kernels.prune_(tensor, mask)
        else:
            kernels.prune_(sharded.local(tensor), sharded.local(mask))

    def prune_gradient(self, grad: Tensor) -> None:
        """Prune it, if the optimizer is to see it so."""
        if self.prunes_gradient:
            self.prune(grad)

    def gradient_to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return this rank's part of it, if the optimizer is to see it pruned."""
        grad = self.param.grad if self.prunes_gradient else None
        return None if grad is None else (sharded.local(grad), sharded.local(self.mask))

    def take_states(self, states: States) -> None:
        """Do nothing: they are shaped like the weight already."""

    def buffers(self) -> list[Tensor]:
        """Return the mask."""
        return [self.mask]

    def tap(self) -> GradientTap:
        """Return a tap of the whole weight, or of this rank's shard."""
        if sharded.is_sharded(self.param):
            return ShardedTap(self.mask if self.prunes_gradient else None)
        return WholeTap(self.param, self.mask)

    def before_load(self, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> bool:
        """Let a dense checkpoint in: a mask that it does not have stays as it is."""
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
                state_dict[mask] = own  # else torch copies what was refused
        return was_dense

    def after_load(self, states: States) -> None:
        """Do nothing: the states keep their shape."""

    def move(self, module: nn.Module, param_name: str) -> None:
        """Put the mask beside the Parameter in its new module."""
        old, (mask, _) = self._module(), self._last
        if old is not None:
            mask = old._buffers.pop(self._mask_name, mask)
        self._module, self.param_name = weakref.ref(module), param_name
        self._mask_name = param_name + MASK_SUFFIX
        module.register_buffer(self._mask_name, mask)
        self._last = None, 0

    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Take the buffer off."""
        if not keep_mask and self._mask_name in self.module._buffers:
            delattr(self.module, self._mask_name)

    def why_not_spread(self) -> str:
        """Return why, if its parts do not lie in the order of the ranks."""
        return sharded.why_not_sharded(self.param)

    def why_not_change(self, new: Tensor) -> str:
        """Return "": a mask has room for any number of live connections."""
        return ""

    @staticmethod
    def why_not_step(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        """Return "": any optimizer steps a dense weight."""
        return ""
