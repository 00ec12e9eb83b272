"""The compressed storage, which keeps only a weight's live values."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.errors import AttachError
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.layers import CompressedLayer, LayerKind, kind_of
from sparsewright.layers.compressed_layer import carried, replace_with
from sparsewright.storage.states import (
    States,
    put_all,
    replace_shaped,
    replacements,
    why_not_step_values,
)
from sparsewright.storage.storage import Change, Footprint, Storage
from sparsewright.taps.tap import GradientTap

Place = tuple[nn.Module, str]
"""A parent module, and the name under which it holds a layer."""


class CompressedStorage(Storage):
    """Store a weight as a compressed layer's values, which are all live and need no pruning.

    Args:
        layer: the compressed layer.
        places: places where the layer replaced a dense layer; empty if it replaced none.
    """

    name: ClassVar[str] = "compressed"

    def __init__(self, layer: CompressedLayer, places: list[Place]) -> None:
        super().__init__(layer, "values")
        self.layer = layer
        self._places = [(weakref.ref(parent), name) for parent, name in places]

    @property
    def is_alive(self) -> bool:
        """Return whether the layer still replaces a dense layer, or never replaced one."""
        return bool(self.places) or not self._places

    @property
    def places(self) -> list[Place]:
        """Return the places where the layer still replaces a dense layer."""
        found = ((parent(), name) for parent, name in self._places)
        places = ((parent, name) for parent, name in found if parent is not None)
        return [(p, name) for p, name in places if p._modules.get(name) is self.layer]

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the dense weight."""
        return self.layer.weight_shape

    @property
    def mask(self) -> Tensor:
        """Return the mask, computed from the index."""
        return self.layer.weight_mask

    @property
    def kept(self) -> int:
        """Return the number of live connections, which is the length of the index."""
        return self.layer.values.numel()

    def recount(self) -> None:
        """Do nothing: `kept` reads the number of values."""

    def start_dense(self) -> None:
        """Do nothing: a compressed weight keeps the mask that it has."""

    def weight(self) -> Tensor:
        """Return a new dense copy of the weight, detached."""
        return self.layer.scatter(self.layer.values.detach())

    @torch.no_grad()
    def plan_change(self, new: Tensor, states: States) -> Change:
        """Build the new index, and convert values, gradient and states to it."""
        param = self.param
        dropped, grown = kernels.count_changes(self.mask, new)
        put_index, carry = self.layer.reindex(new)
        data, grad = carried(param, carry)
        moved = list(replacements(states, param.shape, carry))

        def commit() -> None:
            put_index()
            replace_with(param, data, grad)
            put_all(moved)

        return Change(dropped, grown, commit)

    def prune(self, tensor: Tensor) -> None:
        """Prune a tensor of the dense shape; a tensor of the values' shape needs no pruning."""
        if tensor.shape == self.shape:
            kernels.prune_(tensor, self.mask)

    def prune_gradient(self, grad: Tensor) -> None:
        """Do nothing: the gradient has one entry for each value."""

    def gradient_to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return None: the gradient has one entry for each value."""

    def take_states(self, states: States) -> None:
        """Reduce states of the weight's shape to the live values."""
        replace_shaped(states, self.shape, self.layer.gather)

    def prune_states(self, states: States) -> None:
        """Do nothing: the states have one entry for each value."""

    def before_step(self) -> None:
        """Do nothing: the optimizer steps the values."""

    def after_step(self) -> None:
        """Do nothing: all values are live."""

    def end_interrupted(self) -> None:
        """Do nothing: `before_step` changes nothing."""

    def to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return None: there is nothing to prune."""

    def buffers(self) -> list[Tensor]:
        """Return an empty list: the index is not a buffer."""
        return []

    def tap(self) -> GradientTap:
        """Return the tap of the layer's kind."""
        kind = kind_of(self.layer)
        assert kind is not None
        return kind.tap(self.layer)

    def before_load(self, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> bool:
        """Return False: a dense checkpoint leaves the mask unchanged."""
        return False

    def after_load(self, states: States) -> None:
        """Convert the states to the mask that was loaded."""
        if self.layer.loaded is not None:
            shape, carry = self.layer.loaded
            replace_shaped(states, shape, carry)
        self.layer.loaded = None

    def move(self, module: nn.Module, param_name: str) -> None:
        """Raise AttachError: the values mean nothing without their layer's index.

        Raises:
            AttachError: always.
        """
        problem = (
            "the values of a compressed layer cannot move to another module; "
            "call sparsewright.decompress(model) first"
        )
        raise AttachError(param_name, problem)

    @torch.no_grad()
    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Put a dense layer back in each place; a layer that replaced none stays."""
        layer, places, own = self.layer, self.places, states()
        kind = kind_of(layer)
        if places and kind is not None:
            with undone_if_interrupted(layer, self.param, places, own):
                shape, mask = self.param.shape, self.mask
                dense = kind.decompress(layer)
                if keep_mask:
                    dense.register_buffer("weight" + MASK_SUFFIX, mask)
                put(dense, places)
                replace_shaped(own, shape, lambda t: layer.scatter(t.detach()))

    @staticmethod
    def footprint(
        shape: torch.Size, kept: int, dtype: torch.dtype, kind: LayerKind | None
    ) -> Footprint:
        """Return the memory of the live values and of the index that this kind of layer has."""
        assert kind is not None
        return Footprint(kept, kind.cost(shape, kept, dtype).index_bytes)

    @staticmethod
    def why_not_step(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        """Return why an optimizer cannot step the live values of a weight; "" if it can."""
        return why_not_step_values(optimizer, param, ndim)

    def why_not_spread(self) -> str:
        """Return why a compressed weight cannot be sharded."""
        return (
            "a compressed weight cannot be sharded; use storage 'masked', or "
            "DistributedDataParallel instead of sharding"
        )

    def why_not_change(self, new: Tensor) -> str:
        """Return why replicas cannot change to a mask; "" if it has as many connections as now.

        Replicas exchange gradients in buffers with a fixed layout.
        """
        kept = int(new.sum())
        if kept == self.kept:
            return ""
        return (
            f"this mask update would change the number of live connections from {self.kept} to "
            f"{kept}, which a compressed weight cannot do under data parallelism; "
            "use storage 'masked' for it"
        )


def put(layer: nn.Module, places: Iterable[Place]) -> None:
    """Put a layer in each of its places."""
    for parent, name in places:
        setattr(parent, name, layer)


@contextmanager
def undone_if_interrupted(
    layer: nn.Module,
    param: nn.Parameter,
    places: Iterable[Place],
    states: States,
    then: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Put a layer back if the block, which replaces it by another layer, raises.

    Args:
        layer: the layer that is there now; the block changes only its weight.
        param: the layer's weight.
        places: places where the layer is.
        states: the weight's optimizer states.
        then: called after everything is restored.
    """
    data, grad = param.data, param.grad
    before = list(replacements(states, param.shape, lambda tensor: tensor))
    try:
        yield
    except BaseException:
        put(layer, places)
        replace_with(param, data, grad)
        put_all(before)
        then()
        raise
