"""Wanda, which weighs each connection with the norm of its input."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparsewright.calibration.method import Layer, Method, Pruned
from sparsewright.core.structure import Structure
from sparsewright.structures import FanIn


def wanda_score(layer: Layer) -> Tensor:
    """Return `|w_ij| * ||x_j||`, where the L2 norm of feature j is taken over all inputs."""
    return layer.weight.abs() * layer.inputs.norms.unsqueeze(1)


class Wanda(Method):
    """Keep the weights with the largest `|w_ij| * ||x_j||`; by default each output competes alone.

    `||x_j||` is the L2 norm of input feature j over all tokens of the calibration data. Weights do
    not change.

    Source: M. Sun et al., "A simple and effective pruning approach for large language models"
    (Wanda), arXiv:2306.11695.
    """

    name: ClassVar[str] = "wanda"
    paper: ClassVar[str] = "arXiv:2306.11695"
    structure: ClassVar[Structure | None] = FanIn()

    def prune(self, layer: Layer) -> Pruned:
        """Return the mask of the largest scores."""
        return Pruned(layer.select(wanda_score(layer)))
