"""Magnitude pruning, which keeps the largest weights."""

from __future__ import annotations

from typing import ClassVar

from sparsewright.calibration.method import Layer, Method, Pruned
from sparsewright.core.structure import Structure
from sparsewright.structures import Unstructured


class Magnitude(Method):
    """Keep the weights with the largest |w|; by default all entries of a weight compete."""

    name: ClassVar[str] = "magnitude"
    needs_inputs: ClassVar[bool] = False
    structure: ClassVar[Structure | None] = Unstructured()

    def prune(self, layer: Layer) -> Pruned:
        """Return the mask of the largest |w|."""
        return Pruned(layer.select(layer.weight.abs()))
