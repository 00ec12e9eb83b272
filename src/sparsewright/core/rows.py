"""Structures with independent rows: their base class, `Unstructured` and `ShaperRows`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.counts import Level, num_kept, num_kept_each
from sparsewright.core.selection import Selection, make_selection
from sparsewright.core.structure import (
    RowBlocks,
    ScoreShaper,
    Share,
    Structure,
    check_same_shape,
)
from sparsewright.errors import MissingOptionError, OptionTypeError, ScoreError, ShapeError


class RowStructure(Structure):
    """Keep the best `num_kept(level, n)` of the n units in each row.

    A subclass implements `rows`, `pool`, `expand`, `part` and `__repr__`.
    """

    @abstractmethod
    def __repr__(self) -> str:
        """Return the constructor call."""

    def level(self, asked: Level | None) -> Level:
        """Return the requested level; every level works, because counts are rounded down."""
        if asked is None:
            raise MissingOptionError(
                "sparsity", allowed="a number from 0 to 1, a schedule, a list or a function"
            )
        return asked

    def num_kept(self, shape: torch.Size, sparsity: Level) -> int | None:
        """Return the number of entries that a weight of this shape keeps at a level."""
        _, n = self.rows(shape)
        return num_kept(sparsity, n) * shape.numel() // max(n, 1)

    def topk(self, score: Tensor, sparsity: Level, *, magnitude: bool = False) -> Tensor:
        """Keep the `num_kept(sparsity, n)` highest scores of each row."""
        selection = make_selection(self, score)
        kept = num_kept(sparsity, selection.n)
        return selection.expand(selection.select(score, kept, magnitude=magnitude))

    def drop(
        self, score: Tensor, mask: Tensor, drop_fraction: Level, *, magnitude: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Keep `floor((1 - drop_fraction) * live)` of the live units of each row."""
        check_same_shape(score, mask)
        selection = make_selection(self, score)
        live = selection.pool(mask)
        kept = num_kept_each(drop_fraction, selection.count(live), selection.n)
        chosen = selection.select(score, kept, live, magnitude=magnitude)
        new = selection.expand(chosen)
        if selection.is_pooled:  # pruned entries of a live unit stay pruned
            new = new.logical_and(mask)
        return new, kept.to(mask.device)

    def grow(
        self,
        score: Tensor,
        mask: Tensor,
        sparsity: Level,
        *,
        live: Tensor | int | None = None,
        magnitude: bool = False,
    ) -> Tensor:
        """Fill each row to `num_kept(sparsity, n)`; a row that has more does not change."""
        check_same_shape(score, mask)
        selection = make_selection(self, score)
        kept = selection.pool(mask)
        counts = selection.count(kept) if live is None else torch.as_tensor(live, device="cpu")
        missing = (num_kept(sparsity, selection.n) - counts.expand(selection.rows)).clamp(min=0)
        grown = selection.select(score, missing, ~kept, magnitude=magnitude)
        return selection.expand(grown.logical_or_(kept))

    def drop_and_grow(
        self,
        weight: Tensor,
        mask: Tensor,
        sparsity: Level,
        drop_fraction: Level,
        grow_score: Tensor | RowBlocks,
    ) -> Tensor:
        """Drop live units of each row, then grow the row to `num_kept(sparsity, n)`.

        The drop keeps `min(floor((1 - drop_fraction) * live), num_kept(sparsity, n))` live units.
        The minimum matters when the level rises, and at the first update of a weight that starts
        dense.
        """
        check_same_shape(weight, mask)
        selection = make_selection(self, weight)
        live, target = selection.pool(mask), num_kept(sparsity, selection.n)
        stay = num_kept_each(drop_fraction, selection.count(live), selection.n).clamp(max=target)
        kept = selection.select(weight, stay, live, magnitude=True)
        grown = _grown(selection, grow_score, target - stay, ~kept)
        return selection.expand(kept.logical_or_(grown))


def _grown(selection: Selection, score: Tensor | RowBlocks, num: Tensor, among: Tensor) -> Tensor:
    """Mark the `num` largest |score| of each row."""
    if not isinstance(score, Tensor):
        if selection.rows == 1 and not selection.is_pooled:
            return _select_blocks(score, int(num), among)
        score = score.dense()
    return selection.select(score, num, among, magnitude=True)


def _select_blocks(score: RowBlocks, num: int, among: Tensor) -> Tensor:
    """Mark the `num` largest |score| of a whole matrix, block by block; bool `[1, numel]`."""
    cols = score.shape[1]
    best = torch.empty(0, dtype=torch.float32, device="cpu")
    where = torch.empty(0, dtype=torch.int64, device="cpu")
    for start, block in score.row_blocks():
        size, begin = block.abs_().reshape(-1), start * cols
        if bool(size.sum().isnan()):
            raise ScoreError("dense gradient")
        candidates = among[0, begin : begin + len(size)]
        if len(best) < max(num, 1):
            found = kernels.select(size.unsqueeze(0), [num], candidates.unsqueeze(0))[0]
        else:
            found = (size > best.min()).logical_and_(candidates)
        # For a million entries, torch's nonzero takes 8 ms and numpy's takes 1 ms.
        positions = torch.from_numpy(np.flatnonzero(found.numpy()))
        best, where = torch.cat([best, size[positions]]), torch.cat([where, positions + begin])
        if len(best) > num:
            # Positions stay in ascending order, so the lower index wins ties here too.
            winners = kernels.select(best.unsqueeze(0), [num])[0]
            best, where = best[winners], where[winners]
    mask = torch.zeros_like(among)
    mask[0, where] = True
    return mask


class Unstructured(RowStructure):
    """Let all entries of a weight compete in one row.

    >>> rows, back = Unstructured()(torch.zeros(2, 3))
    >>> rows.shape, back(rows).shape
    (torch.Size([1, 6]), torch.Size([2, 3]))
    """

    name: ClassVar[str] = "unstructured"

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(1, numel)`."""
        return 1, shape.numel()

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `[1, numel]`."""
        return tensor.reshape(1, -1)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[1, numel]` in the weight's shape."""
        return chosen.reshape(shape)

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part's share of the single row."""
        return Share(self, [count * shape[1:].numel()])

    def __repr__(self) -> str:
        return "Unstructured()"


class ShaperRows(RowStructure):
    """Let entries compete in the rows of a score shaper.

    Args:
        shaper: a `ScoreShaper`.
    """

    name: ClassVar[str] = "score_shaper"

    def __init__(self, shaper: ScoreShaper) -> None:
        self.shaper = shaper

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return the shape of the shaper's result."""
        rows, n = self.shaper(torch.empty(shape, device="meta"))[0].shape
        return rows, n

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the tensor in the shaper's rows."""
        return self.shaper(tensor)[0]

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return the shaper's rows in the weight's shape."""
        return self.shaper(chosen.new_empty(shape))[1](chosen)

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Raise ShapeError: the shaper does not tell how its rows are spread over shards."""
        raise ShapeError(
            "a sharded weight",
            shape,
            f"{self!r} does not support sharded weights; use a structure from "
            "sparsewright.structures, or a Structure with a `part` method",
        )

    def __repr__(self) -> str:
        return repr(self.shaper)


def as_structure(shaper: ScoreShaper | None) -> Structure:
    """Return the structure for a score shaper; None means that all entries compete."""
    if shaper is None:
        return Unstructured()
    if not callable(shaper):
        raise OptionTypeError("score_shaper", shaper, "a structure, such as structures.NM(2, 4)")
    return shaper if isinstance(shaper, Structure) else ShaperRows(shaper)
