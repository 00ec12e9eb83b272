"""Selection: mark the best units in every row of a weight, whether it is whole or sharded."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.structure import Structure
from sparsewright.errors import ScoreError, ShapeError
from sparsewright.kernels import sharded


class Selection(ABC):
    """The units of one weight, which compete in rows.

    Attributes:
        rows: number of rows; of a sharded weight whose rows lie whole on one rank, this rank's.
        n: units in each row, on all ranks together.
    """

    rows: int
    n: int
    _is_pooled: bool

    @abstractmethod
    def pool(self, tensor: Tensor) -> Tensor:
        """Return the units of a tensor that is shaped, and if sharded spread, like the weight."""

    @abstractmethod
    def expand(self, chosen: Tensor) -> Tensor:
        """Return units as a tensor that is shaped and spread like the weight."""

    @abstractmethod
    def count(self, chosen: Tensor) -> Tensor:
        """Return the number of True in each row: int64 `[rows]` on the CPU."""

    def select(
        self,
        score: Tensor,
        num: int | Tensor,
        among: Tensor | None = None,
        *,
        magnitude: bool = False,
    ) -> Tensor:
        """Mark the `num` largest scores of each row, among the candidates.

        Args:
            score: like the weight, floating point; complex only by magnitude.
            num: how many in each row, one number or int64 `[rows]`; a row with fewer candidates
                marks them all.
            among: bool units, the candidates; None: all.
            magnitude: rank by |score|; of single entries without making it.

        Returns:
            Bool units; of equal scores the lower flat index is marked.

        Raises:
            ScoreError: NaN among the candidates.
        """
        if magnitude and (self._is_pooled or score.is_complex()):
            score, magnitude = score.abs(), False
        try:
            return self._select(self.pool(score), num, among, magnitude)
        except kernels.NanError:
            raise ScoreError from None

    @abstractmethod
    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor: ...


def make_selection(structure: Structure, tensor: Tensor) -> Selection:
    """Return the selection among the units of a weight.

    Args:
        structure: which units compete.
        tensor: shaped, and if sharded spread, like the weight.

    Raises:
        ShapeError: the shape does not fit the structure, or the shards do not.
    """
    if not sharded.is_sharded(tensor):
        return _Whole(structure, tensor.shape)
    at, part = sharded.shards_of(tensor), sharded.local(tensor)
    share = structure.part(at.shape, at.first, part.shape[0])
    if share.units is None:
        return _WholeRows(share.structure, tensor)
    return _Spread(structure, share.structure, list(share.units), tensor)


class _Whole(Selection):
    """Of a whole weight; units are `[rows, n]`."""

    def __init__(self, structure: Structure, shape: torch.Size) -> None:
        self._structure, self._shape = structure, shape
        self.rows, self.n = structure.rows(shape)
        self._is_pooled = self.rows * self.n != shape.numel()

    def pool(self, tensor: Tensor) -> Tensor:
        return self._structure.pool(tensor)

    def expand(self, chosen: Tensor) -> Tensor:
        return self._structure.expand(chosen, self._shape)

    def count(self, chosen: Tensor) -> Tensor:
        return kernels.count_rows(chosen).cpu()

    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor:
        return kernels.select(score, num, among, magnitude)


class _WholeRows(Selection):
    """Of a sharded weight whose rows lie whole on one rank: each rank selects in its own."""

    def __init__(self, structure: Structure, like: Tensor) -> None:
        self._like, self._at = like, sharded.shards_of(like)
        self._own = _Whole(structure, sharded.local(like).shape)
        self.rows, self.n = self._own.rows, self._own.n
        self._is_pooled = self._own._is_pooled

    def pool(self, tensor: Tensor) -> Tensor:
        return self._own.pool(_own_part(tensor, self._at))

    def expand(self, chosen: Tensor) -> Tensor:
        return sharded.from_local(self._own.expand(chosen), self._like)

    def count(self, chosen: Tensor) -> Tensor:
        return self._own.count(chosen)

    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor:
        failed = torch.zeros((), dtype=torch.int64, device=score.device)
        mask = torch.empty(0, device=score.device)
        try:
            mask = kernels.select(score, num, among, magnitude)
        except kernels.NanError:
            failed += 1
        # All ranks raise, or none: otherwise the others would wait for this one.
        if int(sharded.sum_over(failed, self._at.group)):
            raise kernels.NanError("score is NaN at a candidate")
        return mask


class _Spread(Selection):
    """Of a sharded weight: units are this rank's, row after row, `lengths` of each."""

    def __init__(
        self, structure: Structure, within: Structure, lengths: list[int], like: Tensor
    ) -> None:
        self._like, self._at = like, sharded.shards_of(like)
        self._within, self._lengths = within, lengths
        self._part = sharded.local(like).shape
        self.rows, self.n = structure.rows(self._at.shape)
        self._is_pooled = self.rows * self.n != self._at.shape.numel()

    def pool(self, tensor: Tensor) -> Tensor:
        return self._within.pool(_own_part(tensor, self._at)).reshape(-1)

    def expand(self, chosen: Tensor) -> Tensor:
        own = chosen.reshape(self._within.rows(self._part))
        return sharded.from_local(self._within.expand(own, self._part), self._like)

    def count(self, chosen: Tensor) -> Tensor:
        return sharded.count_rows(chosen, self._lengths, self._at.group)

    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor:
        at, each = self._at, torch.as_tensor(num, device="cpu").expand(self.rows)
        return sharded.select(
            score, self._lengths, each.tolist(), among, magnitude, at.group, at.index
        )


def _own_part(tensor: Tensor, at: sharded.Shards) -> Tensor:
    """This rank's part of a tensor that must be spread as the weight is."""
    if not sharded.is_sharded(tensor) or tensor.shape != at.shape:
        raise ShapeError("a score", tensor.shape, f"the weight is sharded, {at.shape}")
    return sharded.local(tensor)
