"""The base class of one-shot methods, and what they know about a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sparsewright.calibration.input_statistics import InputStatistics
from sparsewright.calibration.inputs import LayerInputs
from sparsewright.core.counts import Level
from sparsewright.core.structure import Structure


class Pruned(NamedTuple):
    """The result of a method for one layer.

    Attributes:
        mask: bool `[groups, outputs, features]`.
        weight: the new weight in the same shape; None if it does not change.
    """

    mask: Tensor
    weight: Tensor | None = None


@dataclass
class Layer:
    """One weight to prune, as matrices `[groups, outputs, features]`.

    Attributes:
        name: full name of the weight.
        weight: the matrices, float32 or float64.
        shapes: converts between the matrices and the weight.
        level: fraction of entries to prune, 0..1.
        structure: structure of the mask, with the dimensions of this weight; None: the method
            divides the weight itself.
        statistics: statistics of the inputs; None if the method needs none.
    """

    name: str
    weight: Tensor
    shapes: LayerInputs
    level: Level
    structure: Structure | None
    statistics: InputStatistics | None

    @property
    def inputs(self) -> InputStatistics:
        """Return the statistics of the inputs, which the method must need."""
        assert self.statistics is not None
        return self.statistics

    def select(self, score: Tensor) -> Tensor:
        """Return the mask of the highest scores in the layer's structure.

        Args:
            score: `[groups, outputs, features]`.

        Returns:
            Bool mask in the same shape.
        """
        assert self.structure is not None
        masks = [self.structure.topk(part, self.level) for part in self.parts(score)]
        return self.joined(masks)

    def parts(self, matrix: Tensor) -> Sequence[Tensor]:
        """Return the tensors in which a structure selects: the weight, or each one of a stack."""
        weight = self.shapes.weight(matrix)
        return list(weight) if self.shapes.is_stack else [weight]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return parts from `parts` as `[groups, outputs, features]`."""
        weight = torch.stack(list(parts)) if self.shapes.is_stack else parts[0]
        return self.shapes.matrix(weight)


class Method(ABC):
    """Choose the mask of a layer after training, and perhaps new weights.

    A subclass has options with defaults in its constructor.

    Attributes:
        name: value of `method` in a config.
        paper: the source, such as `"arXiv:2306.11695"`; "" if it needs no source.
        needs_inputs: whether the method needs statistics of the inputs.
        needs_products: whether the statistics include products of features.
        structure: structure if the user gives none; None: the method divides the weight itself.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_inputs: ClassVar[bool] = True
    needs_products: ClassVar[bool] = False
    structure: ClassVar[Structure | None]

    def check_structure(self, structure: Structure, shape: torch.Size) -> None:
        """Raise an error if the method does not work with a structure.

        Args:
            structure: the structure.
            shape: shape of a weight, or of one matrix of a stack.
        """
        return

    @abstractmethod
    def prune(self, layer: Layer) -> Pruned:
        """Return the mask of a layer.

        Args:
            layer: the layer, with statistics if the method needs them.

        Raises:
            ScoreError: the weight contains NaN.
        """
