"""Groups of input or output features; each group keeps the same number of entries."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.core.rows import RowStructure, Unstructured
from sparsewright.core.structure import Share
from sparsewright.errors import (
    ExclusiveOptionsError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
    ShapeError,
)
from sparsewright.structures.sides import check_side, divisors_around


class Groups(RowStructure):
    """Divide one dimension of a weight into equal groups; each group is a row.

    Give `inputs` or `outputs`, not both.

    Args:
        inputs: number of groups of input features; must divide the input dimension.
        outputs: number of groups of output features; must divide the output dimension.

    Raises:
        ExclusiveOptionsError: both `inputs` and `outputs` are given.
        MissingOptionError: neither `inputs` nor `outputs` is given.
        OptionError: the number is below 1.
        OptionTypeError: the number is not an integer.

    >>> rows, _ = Groups(inputs=2)(torch.arange(8).reshape(2, 4))
    >>> rows.tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    >>> Groups(outputs=2)(torch.arange(8).reshape(4, 2))[0].tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    """

    name: ClassVar[str] = "groups"

    def __init__(self, inputs: int | None = None, outputs: int | None = None) -> None:
        if inputs is not None and outputs is not None:
            raise ExclusiveOptionsError(["inputs", "outputs"], "structure 'groups'")
        if inputs is None and outputs is None:
            raise MissingOptionError(
                "'inputs' or 'outputs'", "structure 'groups'", "an integer >= 1"
            )
        self.inputs, self.outputs = inputs, outputs
        if inputs is not None:
            self._side, self._groups = "input", check_groups("inputs", inputs)
        else:
            self._side, self._groups = "output", check_groups("outputs", outputs)

    @property
    def _dim(self) -> int:
        """Return the dimension of the weight that is divided."""
        return self.in_dim if self._side == "input" else self.out_dim

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(groups, numel / groups)`."""
        size = check_side(shape, self._side, self._dim)
        if size % self._groups:
            raise ShapeError(
                "a weight",
                shape,
                f"its {self._side} dimension {size} cannot be divided into {self._groups} equal "
                f"groups; use {divisors_around(size, self._groups)}",
            )
        return self._groups, shape.numel() // self._groups

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `[groups, numel / groups]`."""
        rows = self.rows(tensor.shape)
        split: Tensor = tensor.unflatten(self._dim, self._split(tensor.shape))
        return split.movedim(self._dim, 0).reshape(rows)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[groups, numel / groups]` in the weight's shape."""
        groups, size = self._split(shape)
        rest = [*shape[: self._dim], size, *shape[self._dim + 1 :]]
        shaped = chosen.reshape(groups, *rest).movedim(0, self._dim)
        return shaped.flatten(self._dim, self._dim + 1).contiguous()

    def _split(self, shape: torch.Size) -> tuple[int, int]:
        return self._groups, shape[self._dim] // self._groups

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part's share of each group.

        Each part has entries of every group along dimension 1, but only of some groups along
        dimension 0.
        """
        rows, n = self.rows(shape)
        if self._dim == 1:
            return Share(self, [n * count // max(shape[0], 1)] * rows)
        starts = torch.arange(rows + 1, device="cpu") * (shape[0] // rows)
        within = (starts - first).clamp(0, count).diff() * shape[1:].numel()
        return Share(Unstructured(), within.tolist())

    def __repr__(self) -> str:
        return f"Groups({self._side}s={self._groups})"


def check_groups(what: str, groups: int | None) -> int:
    """Return a number of groups, or raise an error if it is not an integer >= 1."""
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise OptionTypeError(what, groups, "an integer >= 1")
    if groups < 1:
        raise OptionError(what, groups, "an integer >= 1")
    return groups
