"""What a kind of compressible layer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsewright.layers.compressed_layer import CompressedLayer
from sparsewright.taps.captured import CapturedTap


@dataclass(frozen=True)
class Cost:
    """What one compressed weight takes.

    Attributes:
        value_bytes: bytes of the live values.
        index_bytes: bytes of their index.
        flops: multiplications and additions to apply the weight once: to one row of activations,
            or at one position of an image.
    """

    value_bytes: int
    index_bytes: int
    flops: int


class LayerKind(ABC):
    """One kind of layer that can store and multiply its live connections only.

    Attributes:
        dense: the class of the dense layer, such as `nn.Linear`; subclasses stay masked.
        compressed: the class of the compressed layer.
    """

    dense: ClassVar[type[nn.Module]]
    compressed: ClassVar[type[CompressedLayer]]

    def why_not(self, module: nn.Module) -> str:
        """Return why a dense layer cannot be compressed; "" if it can."""
        if "weight" not in module._parameters:
            return "its weight is computed by a parametrization"
        weight = module._parameters["weight"]
        if type(weight) is not nn.Parameter:
            return f"its weight is a {type(weight).__name__}"
        return ""

    @abstractmethod
    def compress(self, module: nn.Module, mask: Tensor) -> CompressedLayer:
        """Return the same layer compressed.

        The weight's Parameter becomes `values`, the very same object with other data, so that
        optimizers which have it keep it. The gradient and the user's hooks follow. The dense layer
        must not be used any more.

        Args:
            module: a dense layer that `why_not` has nothing against.
            mask: bool, of the weight's shape.
        """

    @abstractmethod
    def decompress(self, layer: CompressedLayer) -> nn.Module:
        """Return the same layer dense, the inverse of `compress`."""

    @abstractmethod
    def tap(self, layer: CompressedLayer) -> CapturedTap:
        """Return a new tap for the layer's dense gradient, to which the layer hands its pieces."""

    @abstractmethod
    def cost(self, shape: Sequence[int], kept: int, dtype: torch.dtype) -> Cost:
        """Return what a weight costs.

        Args:
            shape: of the weight.
            kept: live connections.
            dtype: of the values.
        """
