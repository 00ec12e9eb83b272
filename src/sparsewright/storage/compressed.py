"""Compressed: only the live values of a weight exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.layers import CompressedLayer, LayerKind, kind_of
from sparsewright.storage.states import States, replace_shaped, why_not_step_values
from sparsewright.storage.storage import Footprint, Storage
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
    param_name = "values"

    def __init__(self, layer: CompressedLayer, places: list[Place]) -> None:
        self.module: nn.Module = layer
        self.layer, self.places = layer, places

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
    def change_mask(self, new: Tensor, states: States) -> tuple[int, int]:
        """Rebuild the index; carry values, gradient and states over to it."""
        changes, shape = kernels.count_changes(self.mask, new), self.param.shape
        replace_shaped(states, shape, self.layer.set_mask(new))
        return changes

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
        """Note the mask before loading; a dense checkpoint keeps it."""
        self.layer.loaded = None
        return False

    def after_load(self, states: States) -> None:
        """Carry states over to the mask that was loaded."""
        if self.layer.loaded is not None:
            shape, carry = self.layer.loaded
            replace_shaped(states, shape, carry)
        self.layer.loaded = None

    @torch.no_grad()
    def remove(self, states: Callable[[], States]) -> None:
        """Put a dense layer back in its place; a layer that took nobody's place stays."""
        kind = kind_of(self.layer)
        if self.places and kind is not None:
            shape = self.param.shape
            put(kind.decompress(self.layer), self.places)
            replace_shaped(states(), shape, lambda t: self.layer.scatter(t.detach()))

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
