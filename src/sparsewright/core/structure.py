"""The base classes of structures, which define the entries that compete with each other."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from sparsewright.core.counts import Level
from sparsewright.errors import ShapeError

if TYPE_CHECKING:
    from typing_extensions import Self

Unshaper = Callable[[Tensor], Tensor]


class ScoreShaper(ABC):
    """Reshape scores into rows of competing entries."""

    @abstractmethod
    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Reshape a tensor into rows.

        Args:
            tensor: scores or a mask, shaped like the weight.

        Returns:
            The tensor as `[rows, n]`, with the entries of a row in ascending flat index, and a
            function that reshapes `[rows, n]` to the weight's shape.

        Raises:
            ShapeError: the shaper does not support the weight's shape.
        """


class RowBlocks(Protocol):
    """Scores of a matrix, available in blocks of rows."""

    shape: torch.Size

    def row_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the scores `[block, cols]` of each block."""

    def dense(self) -> Tensor:
        """Return the whole matrix."""


@dataclass(frozen=True)
class Share:
    """Rows of a sharded weight, as seen by one rank.

    Attributes:
        structure: structure that pools and expands this rank's part.
        units: number of units that this part has of each row of the weight, in the order in which
            `structure` pools them; None: each row lies on one rank.
        norm: set if this part has some entries of every unit. The score of a unit is then the norm
            of this order, a number > 0 or inf, over the scores of its parts on all ranks.
    """

    structure: Structure
    units: Sequence[int] | None
    norm: float | None = None


class Structure(ScoreShaper):
    """Define which units of a weight compete, and select among them.

    A unit is one entry, or several entries that are kept or pruned together. Units compete in
    rows. On ties the lower flat index wins, on every device and any number of ranks.

    `RowStructure` implements the selection for structures with independent rows.

    Attributes:
        name: value of `type` in a config.
        has_one_level: whether the structure supports only one constant level.
        out_dim: dimension of the weight that holds the outputs.
        in_dim: dimension of the weight that holds the inputs.
    """

    name: ClassVar[str]
    has_one_level: ClassVar[bool] = False
    out_dim: int = 0
    in_dim: int = 1

    def with_dims(self, out_dim: int, in_dim: int) -> Self:
        """Return this structure for weights with outputs and inputs in the given dimensions.

        Args:
            out_dim: dimension of the outputs, 0 or 1.
            in_dim: dimension of the inputs, the other one of the two.
        """
        if (out_dim, in_dim) == (self.out_dim, self.in_dim):
            return self
        other = copy.copy(self)
        other.out_dim, other.in_dim = out_dim, in_dim
        return other

    @abstractmethod
    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return the number of rows and the units per row for a weight of this shape.

        Raises:
            ShapeError: the structure does not support the shape.
        """

    def check_shape(self, shape: torch.Size) -> None:
        """Raise ShapeError if the structure does not fit a whole weight of this shape."""
        self.rows(shape)

    @abstractmethod
    def pool(self, tensor: Tensor) -> Tensor:
        """Return the units of a tensor as `[rows, units]`.

        Args:
            tensor: shaped like the weight; either scores, which are reduced to one score per
                unit, or a bool mask, where a unit is live if one of its entries is live.

        Raises:
            ShapeError: the structure does not support the shape.
        """

    def pool_magnitude(self, tensor: Tensor) -> Tensor:
        """Return `pool(tensor.abs())`.

        A structure whose units have several entries can override it to avoid the copy.
        """
        return self.pool(tensor.abs())

    @abstractmethod
    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[rows, units]` in the weight's shape; each entry gets the value of its unit."""

    @abstractmethod
    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return how the rows of a sharded weight are spread over one rank's part.

        Args:
            shape: shape of the whole weight.
            first: first index of the part in dimension 0.
            count: size of the part in dimension 0; it can be 0.

        Raises:
            ShapeError: the structure does not support this sharding; the message gives the reason.
        """

    @abstractmethod
    def level(self, asked: Level | None) -> Level:
        """Return the constant level to use for a requested level.

        Args:
            asked: requested fraction pruned, 0..1; None: no level was given.

        Raises:
            LevelError: the structure does not support the level; the message names the nearest
                level that it supports.
            OptionError: no level was given, and the structure has no default level.
        """

    @abstractmethod
    def num_kept(self, shape: torch.Size, sparsity: Level) -> int | None:
        """Return the number of entries that a weight of this shape keeps at a level.

        None means that the number also depends on the scores.
        """

    def for_weights(self, names: Sequence[str]) -> Mapping[str, Structure]:
        """Return the structure of each weight of an algorithm, by default this one for all.

        Args:
            names: full names of all the weights.

        Raises:
            OptionError: a glob of the structure matches no name.
        """
        return dict.fromkeys(names, self)

    @abstractmethod
    def topk(self, score: Tensor, sparsity: Level, *, magnitude: bool = False) -> Tensor:
        """Keep the highest scores.

        Args:
            score: shaped like the weight.
            sparsity: level, 0..1.
            magnitude: rank by |score|.

        Returns:
            Bool mask, shaped like `score`.

        Raises:
            ScoreError: a score is NaN.
        """

    def sample(self, score: Tensor, sparsity: Level) -> Tensor:
        """Keep the highest of scores that say nothing about the weight, such as random numbers.

        Initial masks use this method. By default it is `topk`.
        """
        return self.topk(score, sparsity)

    @abstractmethod
    def drop(
        self, score: Tensor, mask: Tensor, drop_fraction: Level, *, magnitude: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Drop the given fraction of the live units, starting with the lowest scores.

        Returns:
            The new mask, a subset of `mask`, and the number of units kept per row, int64
            `[rows]`. If each row of a sharded weight lies on one rank, the rows are those of
            this rank.
        """

    @abstractmethod
    def grow(
        self,
        score: Tensor,
        mask: Tensor,
        sparsity: Level,
        *,
        live: Tensor | int | None = None,
        magnitude: bool = False,
    ) -> Tensor:
        """Grow the pruned units with the highest scores until a level is met.

        Args:
            score: shaped like the weight.
            mask: bool, shaped like `score`; its live units all stay.
            sparsity: level, 0..1.
            live: number of live units in each row of `mask`, if known.
            magnitude: rank by |score|.
        """

    @abstractmethod
    def drop_and_grow(
        self,
        weight: Tensor,
        mask: Tensor,
        sparsity: Level,
        drop_fraction: Level,
        grow_score: Tensor | RowBlocks,
    ) -> Tensor:
        """Drop the smallest |weight|, then grow the largest |grow_score| until a level is met.

        Units that were just dropped can grow again.
        """

    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Return the units `[rows, units]`, and a function that restores the weight's shape."""
        shape = tensor.shape
        return self.pool(tensor), lambda chosen: self.expand(chosen, shape)


def check_same_shape(score: Tensor, mask: Tensor) -> None:
    """Check that a mask and its scores have the same shape.

    Raises:
        ShapeError: the shapes differ.
    """
    if score.shape != mask.shape:
        raise ShapeError("a mask", mask.shape, f"the score has shape {tuple(score.shape)}")


def check_shard(shape: torch.Size, first: int, count: int, size: int, what: str) -> None:
    """Check that a shard starts and ends between units.

    Args:
        shape: shape of the whole weight.
        first: first index of the shard in dimension 0.
        count: size of the shard in dimension 0.
        size: size of a unit in dimension 0.
        what: plural noun for the units in the error message.

    Raises:
        ShapeError: a unit lies on several ranks.
    """
    if first % size or count % size:
        raise ShapeError(
            "a sharded weight",
            shape,
            f"its shards have {count} rows, which cuts {what} of {size} rows apart; use a size "
            f"that divides {count}, or another number of ranks",
        )
