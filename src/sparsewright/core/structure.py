"""Structures: which entries of a weight compete for a place, and which stand or fall together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sparsewright.core.counts import Level
from sparsewright.errors import ShapeError

Unshaper = Callable[[Tensor], Tensor]


class ScoreShaper(ABC):
    """Reshapes scores into rows of entries that compete."""

    @abstractmethod
    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Shape a tensor into its rows.

        Args:
            tensor: scores or a mask, shaped like the weight.

        Returns:
            The tensor as `[rows, n]`, entries of a row in ascending flat index, and a function
            that takes a tensor of that shape back to the weight's shape.

        Raises:
            ShapeError: the weight's shape does not fit.
        """


class RowBlocks(Protocol):
    """Scores of a matrix that come one block of rows after the other."""

    shape: torch.Size

    def row_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row, and the scores `[block, cols]`, of each block."""

    def dense(self) -> Tensor:
        """Return the whole matrix."""


@dataclass(frozen=True)
class Share:
    """How the rows of a sharded weight lie in the part that one rank holds.

    Attributes:
        structure: pools and expands the part.
        units: how many units of each row of the weight the part has, in the order in which
            `structure` pools them; None: every row lies whole on one rank.
    """

    structure: Structure
    units: Sequence[int] | None


class Structure(ScoreShaper):
    """Says which units of a weight compete, and chooses among them.

    A unit is one entry, or several that stand or fall together. Units compete in rows. Of equal
    scores the lower flat index wins, on every device and on any number of ranks.

    `RowStructure` implements the choice for structures whose rows do not depend on each other.

    Attributes:
        name: the `type` in a config.
        has_one_level: whether it holds one constant level only.
    """

    name: ClassVar[str]
    has_one_level: ClassVar[bool] = False

    @abstractmethod
    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return the number of rows, and of units in each, of a weight of this shape.

        Raises:
            ShapeError: the shape does not fit.
        """

    @abstractmethod
    def pool(self, tensor: Tensor) -> Tensor:
        """Return the units of a tensor shaped like the weight, `[rows, units]`.

        Args:
            tensor: scores, from which each unit gets one; or a bool mask: a unit is live if one
                of its entries is.

        Raises:
            ShapeError: the shape does not fit.
        """

    @abstractmethod
    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[rows, units]` shaped like the weight: every entry has the value of its unit."""

    @abstractmethod
    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return how the rows lie in the part of a sharded weight that one rank holds.

        Args:
            shape: the whole weight's shape.
            first: where the part begins in dimension 0.
            count: its size in dimension 0, perhaps 0.

        Raises:
            ShapeError: this structure cannot be chosen over such parts; the message says why.
        """

    @abstractmethod
    def level(self, asked: Level | None) -> Level:
        """Return the level to hold if a constant level is asked for.

        Args:
            asked: fraction pruned, 0..1; None: no level was given.

        Raises:
            LevelError: the structure cannot hold that level; names the nearest that it can.
            OptionError: no level was given, and the structure has none of its own.
        """

    @abstractmethod
    def num_kept(self, shape: torch.Size, sparsity: Level) -> int:
        """Return how many entries a weight of this shape keeps at a level."""

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
            ScoreError: NaN among the scores.
        """

    @abstractmethod
    def drop(
        self, score: Tensor, mask: Tensor, drop_fraction: Level, *, magnitude: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Drop a fraction of the live units: those with the lowest scores.

        Returns:
            The new mask, a subset of `mask`, and the number kept per row: int64 `[rows]`; of a
            sharded weight whose rows lie whole on one rank, this rank's rows.
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
            mask: bool, shaped like `score`; what is live in it stays.
            sparsity: level, 0..1.
            live: live units of `mask` per row, if they are known.
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

        What was just dropped may grow again.
        """

    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Return the units `[rows, units]`, and the way back to the weight's shape."""
        shape = tensor.shape
        return self.pool(tensor), lambda chosen: self.expand(chosen, shape)


def check_same_shape(score: Tensor, mask: Tensor) -> None:
    """Raise where a mask is not shaped like its scores.

    Raises:
        ShapeError: as said.
    """
    if score.shape != mask.shape:
        raise ShapeError("a mask", mask.shape, f"the score has shape {tuple(score.shape)}")
