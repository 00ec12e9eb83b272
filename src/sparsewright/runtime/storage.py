"""How the weight of a sparse parameter is stored: masked (dense) or compressed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright import kernels
from sparsewright.core.errors import AttachError
from sparsewright.core.packing import MASK_SUFFIX
from sparsewright.kernels import csr, sharded
from sparsewright.nn.linear import SparseLinear

States = list[Any]
"""The optimizer states that belong to a weight: dicts, lists and tensors."""


class Storage(ABC):
    """A weight and its mask, in one way of storing them.

    Attributes:
        module: the module that owns the weight.
        param_name: name of the Parameter in it.
    """

    module: nn.Module
    param_name: str

    _shard: nn.Parameter | None = None

    @property
    def param(self) -> nn.Parameter:
        """What optimizers step; of a weight that is gathered for the moment, this rank's shard.

        Raises:
            AttachError: the module has no such Parameter any more.
        """
        param = self.module._parameters.get(self.param_name)
        if param is None:
            layer = type(self.module).__name__
            problem = f"its {layer} has it as a Parameter no more; parametrize before apply"
            raise AttachError(self.param_name, problem)
        if sharded.is_sharded(param):
            self._shard = param
        return param if self._shard is None else self._shard

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Shape of the weight."""

    @property
    @abstractmethod
    def mask(self) -> Tensor:
        """Bool, shaped like the weight."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """Live connections, on all ranks."""

    @abstractmethod
    def recount(self) -> None:
        """Count the live connections of a sharded weight; every rank must take part."""

    @abstractmethod
    def weight(self) -> Tensor:
        """The weight in its dense shape, zero where the mask is False."""

    @abstractmethod
    def start_dense(self) -> None:
        """Forget the mask: the next one is made from the weight as it is."""

    @abstractmethod
    def change_mask(self, new: Tensor, states: States) -> tuple[int, int]:
        """Change the mask; weight, gradient and states follow.

        Args:
            new: bool, shaped like the weight.
            states: state of the weight in each optimizer.

        Returns:
            How many connections were dropped and how many grown.
        """

    @abstractmethod
    def prune(self, tensor: Tensor) -> None:
        """Set a tensor shaped like the weight to zero, in place, where the mask is False."""

    @abstractmethod
    def take_states(self, states: States) -> None:
        """Let states follow that are shaped like the weight, however it is stored."""

    @abstractmethod
    def prune_states(self, states: States) -> None:
        """Prune what in the states is shaped like the weight, unless it says `requires_dense`."""

    @abstractmethod
    def remove(self, states: States) -> None:
        """Leave an ordinary module that trains on."""


class MaskedStorage(Storage):
    """A dense weight, and a persistent bool buffer `<param>_mask` beside it."""

    def __init__(self, module: nn.Module, param_name: str) -> None:
        self.module, self.param_name = module, param_name
        self._counted: tuple[int, int, int] = (0, -1, 0)
        self._kept_in_shards = 0

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.param.shape

    @property
    def mask(self) -> Tensor:
        """The buffer; made real on the weight's device if the weight left the meta device."""
        mask = self.module._buffers[self.param_name + MASK_SUFFIX]
        assert mask is not None
        if mask.is_meta and not self.param.is_meta:
            mask = torch.ones_like(self.param, dtype=torch.bool, requires_grad=False)
            self.module._buffers[self.param_name + MASK_SUFFIX] = mask
        if not sharded.is_sharded(mask) and sharded.is_sharded(self.param):
            self._kept_in_shards = int(mask.sum())
            mask = sharded.shard_like(mask, self.param)
            self.module._buffers[self.param_name + MASK_SUFFIX] = mask
        return mask

    @property
    def kept(self) -> int:
        """Counted from the mask, again only after it was written to.

        Shards are counted when a mask is changed or loaded, which all ranks do: one that asks
        alone must not wait for the others.
        """
        mask = self.mask
        if sharded.is_sharded(mask):
            return self._kept_in_shards
        if self._counted[:2] != (id(mask), mask._version):
            self._counted = (id(mask), mask._version, int(mask.sum()))
        return self._counted[2]

    def recount(self) -> None:
        """Count again."""
        if sharded.is_sharded(self.mask):
            (self._kept_in_shards,) = self._sum([int(sharded.local(self.mask).sum())])

    def _sum(self, counts: list[int]) -> list[int]:
        """Counts of this rank's shard, summed over the ranks."""
        total = torch.tensor(counts, device=sharded.local(self.mask).device)
        return sharded.sum_over(total, sharded.shards_of(self.mask).group).tolist()

    def weight(self) -> Tensor:
        """The Parameter itself."""
        return self.param

    def change_mask(self, new: Tensor, states: States) -> tuple[int, int]:
        """Write the buffer, in place, and prune all that follows."""
        mask = sharded.local(self.mask)
        new = sharded.local(sharded.shard_like(new, self.param)).to(mask.device)
        dropped, grown = kernels.count_changes(mask, new)
        # Pruned by what stays: a grown connection starts at 0 whatever was written there by hand.
        mask.logical_and_(new)
        self._prune_all(states)
        mask.copy_(new)
        if sharded.is_sharded(self.mask):
            counts = [dropped, grown, int(new.sum())]
            dropped, grown, self._kept_in_shards = self._sum(counts)
        return dropped, grown

    def start_dense(self) -> None:
        """Set the whole mask."""
        sharded.local(self.mask).fill_(True)

    def _prune_all(self, states: States) -> None:
        self.prune(self.param)
        if self.param.grad is not None:
            self.prune(self.param.grad)
        self.prune_states(states)

    def prune(self, tensor: Tensor) -> None:
        """Prune one tensor."""
        kernels.prune_(sharded.local(tensor), sharded.local(self.mask))

    def take_states(self, states: States) -> None:
        """They are shaped like the weight already."""

    def prune_states(self, states: States) -> None:
        """Prune every floating-point tensor shaped like the weight."""
        for tensor in _tensors(states):
            if tensor.shape == self.shape and not getattr(tensor, "requires_dense", False):
                self.prune(tensor)

    def remove(self, states: States) -> None:
        """Take the buffer off."""
        del self.module._buffers[self.param_name + MASK_SUFFIX]


class CompressedStorage(Storage):
    """The values of a `SparseLinear`. They are live by construction: there is nothing to prune.

    Args:
        module: the layer.
        sites: (parent module, name there) of each place that holds the layer, if it stands in an
            `nn.Linear`'s place; else it has none.
    """

    param_name = "values"
    module: SparseLinear

    def __init__(self, module: SparseLinear, sites: list[tuple[nn.Module, str]]) -> None:
        self.module, self.sites = module, sites

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight, `[out, in]`."""
        return torch.Size([self.module.out_features, self.module.in_features])

    @property
    def mask(self) -> Tensor:
        """The mask, made anew from the index."""
        return self.module.weight_mask

    @property
    def kept(self) -> int:
        """Entries of the index."""
        return self.module.layout.nnz

    def recount(self) -> None:
        """An index knows its length."""

    def start_dense(self) -> None:
        """A compressed weight never starts anew: its mask stays."""

    def weight(self) -> Tensor:
        """The dense weight, made anew."""
        return self.module.weight

    @torch.no_grad()
    def change_mask(self, new: Tensor, states: States) -> tuple[int, int]:
        """Rebuild the index; carry values, gradient and states over to it."""
        changes, shape = kernels.count_changes(self.mask, new), self.param.shape
        replace_shaped(states, shape, self.module.set_mask(new))
        return changes

    def prune(self, tensor: Tensor) -> None:
        """Prune a tensor of the dense shape; the values' own need nothing."""
        if tensor.shape == self.shape:
            kernels.prune_(tensor, self.mask)

    def take_states(self, states: States) -> None:
        """Gather what is shaped like the weight."""
        layout = self.module.layout
        replace_shaped(states, self.shape, lambda t: csr.gather_dense(t, layout))

    def prune_states(self, states: States) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def remove(self, states: States) -> None:
        """Put an `nn.Linear` back in its place; a layer that took nobody's place stays."""
        if self.sites:
            layout, shape = self.module.layout, self.param.shape
            put(self.module.to_linear(), self.sites)
            replace_shaped(states, shape, lambda t: csr.scatter_dense(t, layout))


def put(layer: nn.Module, sites: Iterable[tuple[nn.Module, str]]) -> None:
    """Put a layer in each of its places."""
    for parent, name in sites:
        setattr(parent, name, layer)


def _tensors(state: Any) -> Iterator[Tensor]:
    """The floating-point tensors in an optimizer's state, lists and dicts included."""
    if isinstance(state, Tensor):
        if state.is_floating_point() or state.is_complex():
            yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def replace_shaped(state: Any, shape: torch.Size, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace each tensor of a shape in a state, lists and dicts included, by `fn` of it."""
    if isinstance(state, dict):
        items: Any = list(state.items())
    elif isinstance(state, list):
        items = list(enumerate(state))
    else:
        return
    for key, value in items:
        if not isinstance(value, Tensor):
            replace_shaped(value, shape, fn)
        elif value.shape == shape:
            state[key] = fn(value)
