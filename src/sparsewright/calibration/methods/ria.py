"""RIA, which compares each weight with the others of its row and its column."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.calibration.method import Layer, Method, Pruned
from sparsewright.core.structure import Structure
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.structures import Unstructured


def ria_score(layer: Layer, power: float) -> Tensor:
    """Return `(|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) * ||x_j||**power`."""
    size = layer.weight.abs()
    relative = _share(size, 1) + _share(size, 2)
    return relative * layer.inputs.norms.pow(power).unsqueeze(1)


def _share(size: Tensor, dim: int) -> Tensor:
    """Return each entry over the sum along a dimension; 0 where the sum is 0."""
    total = size.sum(dim, keepdim=True, dtype=torch.float64)
    return size / torch.where(total == 0, 1.0, total)


class RIA(Method):
    """Keep the weights with the largest relative importance and activation.

    The score is `(|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) * ||x_j||**power`, where the L2
    norm of input feature j is taken over all tokens. By default all entries of a weight compete.
    Weights do not change.

    Args:
        power: exponent of the activation norm, >= 0.

    Source: Y. Zhang et al., "Plug-and-play: an efficient post-training pruning method for large
    language models" (RIA), ICLR 2024.
    """

    name: ClassVar[str] = "ria"
    paper: ClassVar[str] = "ICLR 2024, Plug-and-Play"
    structure: ClassVar[Structure | None] = Unstructured()

    def __init__(self, power: float = 0.5) -> None:
        if isinstance(power, bool) or not isinstance(power, int | float):
            raise OptionTypeError("power", power, "a number >= 0")
        if not 0 <= power < float("inf"):
            raise OptionError("power", power, "a number >= 0")
        self.power = power

    def prune(self, layer: Layer) -> Pruned:
        """Return the mask of the largest scores."""
        return Pruned(layer.select(ria_score(layer, self.power)))
