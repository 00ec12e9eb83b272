"""Compressed: only the live values of a weight exist."""

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
    """The values of a compressed layer. They are live by construction: there is nothing to prune.

    Args:
        layer: the layer.
        places: where it stands in a dense layer's place; none if it took nobody's.
    """

    name: ClassVar[str] = "compressed"

    def __init__(self, layer: CompressedLayer, places: list[Place]) -> None:
        super().__init__(layer, "values")
        self.layer = layer
        self._places = [(weakref.ref(parent), name) for parent, name in places]

    @property
    def is_alive(self) -> bool:
        """Whether it stands in any place, or took nobody's."""
        return bool(self.places) or not self._places

    @property
    def places(self) -> list[Place]:
        """Where it stands in a dense layer's place."""
        found = ((parent(), name) for parent, name in self._places)
        places = ((parent, name) for parent, name in found if parent is not None)
        return [(p, name) for p, name in places if p._modules.get(name) is self.layer]

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.layer.weight_shape

    @property
    def mask(self) -> Tensor:
        """The mask, made anew from the index."""
        return self.layer.weight_mask

    @property
    def kept(self) -> int:
        """Entries of the index."""
        return self.layer.values.numel()

    def recount(self) -> None:
        """Do nothing: an index knows its length."""

    def start_dense(self) -> None:
        """Do nothing: a compressed weight never starts anew, its mask stays."""

    def weight(self) -> Tensor:
        """Return the dense weight, made anew and detached."""
        return self.layer.scatter(self.layer.values.detach())

    @torch.no_grad()
    def plan_change(self, new: Tensor, states: States) -> Change:
        """Make the new index, and carry values, gradient and states over to it."""
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
        """Prune a tensor of the dense shape; the values' own need nothing."""
        if tensor.shape == self.shape:
            kernels.prune_(tensor, self.mask)

    def prune_gradient(self, grad: Tensor) -> None:
        """Do nothing: there is one entry for each value."""

    def gradient_to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return None: there is one entry for each value."""

    def take_states(self, states: States) -> None:
        """Gather what is shaped like the weight."""
        replace_shaped(states, self.shape, self.layer.gather)

    def prune_states(self, states: States) -> None:
        """Do nothing: there is one entry for each value."""

    def before_step(self) -> None:
        """Do nothing: the optimizer steps the values."""

    def after_step(self) -> None:
        """Do nothing: all values are live."""

    def end_interrupted(self) -> None:
        """Do nothing: nothing is put in for a step."""

    def to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return None: there is nothing to prune."""

    def buffers(self) -> list[Tensor]:
        """Return nothing: the index is no buffer."""
        return []

    def tap(self) -> GradientTap:
        """Return the tap of the layer's kind."""
        kind = kind_of(self.layer)
        assert kind is not None
        return kind.tap(self.layer)

    def before_load(self, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> bool:
        """Do nothing: a dense checkpoint keeps the mask."""
        return False

    def after_load(self, states: States) -> None:
        """Carry states over to the mask that was loaded."""
        if self.layer.loaded is not None:
            shape, carry = self.layer.loaded
            replace_shaped(states, shape, carry)
        self.layer.loaded = None

    def move(self, module: nn.Module, param_name: str) -> None:
        """Raise: the values mean nothing without the index of their layer.

        Raises:
            AttachError: always.
        """
        problem = "another module has the values of its compressed layer; decompress() it first"
        raise AttachError(param_name, problem)

    @torch.no_grad()
    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Put a dense layer back in its place; a layer that took nobody's place stays."""
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
        """Return the live values, and the index that a layer of the kind has."""
        assert kind is not None
        return Footprint(kept, kind.cost(shape, kept, dtype).index_bytes)

    @staticmethod
    def why_not_step(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        """Return why an optimizer cannot step the live values of a weight; "" if it can."""
        return why_not_step_values(optimizer, param, ndim)

    def why_not_spread(self) -> str:
        """Return why: an index is not sharded."""
        return (
            "it is compressed and cannot be sharded as well; use storage 'masked', or "
            "DistributedDataParallel"
        )

    def why_not_change(self, new: Tensor) -> str:
        """Return why, if its size moves: replicas exchange gradients in buffers laid out once."""
        kept = int(new.sum())
        if kept == self.kept:
            return ""
        return (
            f"its level moves, from {self.kept} live connections to {kept}, which a compressed "
            "weight cannot under data parallelism; use storage 'masked' for it"
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
    """Put all back if the block raises, in which another layer takes a layer's place.

    Args:
        layer: the layer that stands there now; nothing but its weight is changed.
        param: its weight.
        places: where it stands.
        states: the weight's optimizer states.
        then: is called when that is done.
    """
    data, grad = param.data, param.grad
    before = list(replacements(states, param.shape, lambda tensor: tensor))
    try:
        yield
    except BaseException:  # nothing is caught: it goes on, over a model as it was
        put(layer, places)
        replace_with(param, data, grad)
        put_all(before)
        then()
        raise
