"""Compressed layers in plain PyTorch, which run the dense class's forward on a scattered weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsewright.layers.compressed_layer import (
    Carry,
    CompressedLayer,
    PutIndex,
    other_buffers,
    replace_both,
)
from sparsewright.layers.kind import Cost, LayerKind
from sparsewright.taps.captured import CapturedTap, SummedTap


class IndexedLayer(CompressedLayer):
    """Store live values `[nnz]` in ascending flat order, with their positions.

    The dense weight exists only during a forward pass and its backward pass. Parameter, gradient,
    optimizer state and checkpointed memory are small, while products are dense. A subclass also
    inherits from the dense layer's class, whose `forward` reads `weight`::

        class SparseConv2d(IndexedLayer, nn.Conv2d): ...

    Attributes:
        positions: flat indices of the live entries, int64 `[nnz]`, ascending.
    """

    positions: Tensor

    @property
    def index(self) -> object:
        """Return the positions."""
        return self.positions

    def gather(self, dense: Tensor) -> Tensor:
        """Return the live entries of a dense tensor."""
        return dense.reshape(-1)[self.positions]

    def scatter(self, values: Tensor) -> Tensor:
        """Return values as a dense tensor; differentiable."""
        flat = values.new_zeros(self.weight_shape.numel())
        return flat.index_put((self.positions,), values).reshape(self.weight_shape)

    @property
    def weight_mask(self) -> Tensor:
        """Return a new bool mask of the weight's shape."""
        mask = self.positions.new_zeros(self.weight_shape.numel(), dtype=torch.bool)
        mask[self.positions] = True
        return mask.reshape(self.weight_shape)

    def reindex(self, mask: Tensor) -> tuple[PutIndex, Carry]:
        """Compute the positions of a mask."""
        old = self.positions
        new = mask.reshape(-1).nonzero().squeeze(1).to(old.device)

        def carry(tensor: Tensor) -> Tensor:
            flat = tensor.new_zeros(self.weight_shape.numel())
            flat[old] = tensor
            return flat[new]

        return partial(setattr, self, "positions", new), carry


class IndexedKind(LayerKind):
    """A kind with an `IndexedLayer` as its compressed class; a subclass names the two classes."""

    compressed: ClassVar[type[CompressedLayer]]

    def compress(self, module: nn.Module, mask: Tensor) -> CompressedLayer:
        """Convert a dense layer, with all its attributes, to a compressed one."""
        layer = self.compressed.__new__(self.compressed)
        assert isinstance(layer, IndexedLayer)
        weight = module.get_parameter("weight")
        vars(layer).update(vars(module))
        layer.weight_shape, layer.positions = weight.shape, mask.reshape(-1).nonzero().squeeze(1)
        replace_both(weight, layer.gather)
        layer._parameters = _renamed(module._parameters, "weight", "values")
        layer._buffers = other_buffers(module)
        return layer

    def decompress(self, layer: CompressedLayer) -> nn.Module:
        """Convert a compressed layer, with all its attributes, to a dense one."""
        module = self.dense.__new__(self.dense)
        replace_both(layer.values, lambda t: layer.scatter(t.detach()))
        vars(module).update(vars(layer))
        module._parameters = _renamed(layer._parameters, "values", "weight")
        for name in ("weight_shape", "positions", "tap"):
            vars(module).pop(name, None)
        return module

    def tap(self, layer: CompressedLayer) -> CapturedTap:
        """Return a tap that sums gradients of the dense weight."""
        layer.tap = SummedTap(layer.values, layer.weight_shape)
        return layer.tap

    def cost(self, shape: Sequence[int], kept: int, dtype: torch.dtype) -> Cost:
        """Return the cost: 8 bytes of index for each value, and the FLOPs of the dense product."""
        return Cost(kept * dtype.itemsize, 8 * kept, 2 * math.prod(shape))


def _renamed(
    params: Mapping[str, nn.Parameter | None], old: str, new: str
) -> dict[str, nn.Parameter | None]:
    """Return the parameters in their order, with one of them renamed."""
    return {new if name == old else name: param for name, param in params.items()}
