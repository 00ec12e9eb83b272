"""The base class of layer kinds that can be compressed."""

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
    """Memory and computation that one compressed weight takes.

    Attributes:
        value_bytes: bytes of the live values.
        index_bytes: bytes of their index.
        flops: multiplications and additions to apply the weight once, to one row of activations
            or at one position of an image.
    """

    value_bytes: int
    index_bytes: int
    flops: int


class LayerKind(ABC):
    """A kind of layer that can be stored compressed, as its live connections only.

    Attributes:
        dense: class of the dense layer, such as `nn.Linear`; its subclasses stay masked.
        compressed: class of the compressed layer.
    """

    dense: ClassVar[type[nn.Module]]
    compressed: ClassVar[type[CompressedLayer]]

    def why_not(self, module: nn.Module) -> str:
        """Return why a dense layer cannot be compressed; "" if it can."""
        if "weight" not in module._parameters:
            return "its weight is computed by a parametrization"
        weight = module._parameters["weight"]
        if type(weight) is not nn.Parameter:
            return f"its weight is a {type(weight).__name__}, not a plain Parameter"
        return ""

    @abstractmethod
    def compress(self, module: nn.Module, mask: Tensor) -> CompressedLayer:
        """Convert a dense layer to a compressed one.

        The weight's Parameter becomes `values`: it remains the same object, with other data, so
        optimizers that have it keep it. The gradient and the user's hooks move with it. The dense
        layer must not be used afterwards.

        Args:
            module: dense layer for which `why_not` returns "".
            mask: bool mask of the weight's shape.
        """

    @abstractmethod
    def decompress(self, layer: CompressedLayer) -> nn.Module:
        """Convert a compressed layer to a dense one, the inverse of `compress`."""

    @abstractmethod
    def tap(self, layer: CompressedLayer) -> CapturedTap:
        """Return a new tap for the dense gradient, to which the layer passes its pieces."""

    @abstractmethod
    def cost(self, shape: Sequence[int], kept: int, dtype: torch.dtype) -> Cost:
        """Return the memory and computation that a weight takes.

        Args:
            shape: shape of the weight.
            kept: number of live connections.
            dtype: dtype of the values.
        """
