"""Selection of the best units in every row of a weight, sharded or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.structure import Structure
from sparsewright.errors import ScoreError, ShapeError
from sparsewright.kernels import sharded


class Selection(ABC):
    """Select among the units of one weight, which compete in rows.

    Attributes:
        rows: number of rows. If each row of a sharded weight lies on one rank, it counts only
            the rows on this rank.
        n: number of units in each row, over all ranks.
        is_pooled: whether a unit can have several entries.
        group: ranks among which the rows are divided; None: this rank counts all rows.
    """

    rows: int
    n: int
    is_pooled: bool
    group: dist.ProcessGroup | None = None

    @abstractmethod
    def pool(self, tensor: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return the units of a tensor, or of its magnitude.

        Args:
            tensor: shaped and sharded like the weight.
            magnitude: pool |tensor|.
        """

    @abstractmethod
    def expand(self, chosen: Tensor) -> Tensor:
        """Return units as a tensor with the weight's shape and sharding."""

    @abstractmethod
    def count(self, chosen: Tensor) -> Tensor:
        """Return the number of True entries in each row: int64 `[rows]` on the CPU."""

    def select(
        self,
        score: Tensor,
        num: int | Tensor,
        among: Tensor | None = None,
        *,
        magnitude: bool = False,
    ) -> Tensor:
        """Mark the `num` candidates with the largest scores in each row.

        Args:
            score: shaped and sharded like the weight, floating point; complex scores require
                `magnitude`.
            num: number to mark in each row, one number or int64 `[rows]`. In a row with fewer
                candidates, all candidates are marked.
            among: bool units, True for candidates; None: all units.
            magnitude: rank by |score|; if units are single entries, without allocating it.

        Returns:
            Bool units; on ties the lower flat index is marked.

        Raises:
            ScoreError: a candidate's score is NaN.
        """
        if magnitude and score.is_complex():
            score, magnitude = score.abs(), False
        units = self.pool(score, magnitude=magnitude and self.is_pooled)
        try:
            return self._select(units, num, among, magnitude and not self.is_pooled)
        except kernels.NanError:
            raise ScoreError from None

    @abstractmethod
    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor: ...


def make_selection(structure: Structure, tensor: Tensor) -> Selection:
    """Return the selection for a weight.

    Args:
        structure: defines which units compete.
        tensor: has the weight's shape and sharding.

    Raises:
        ShapeError: the structure does not support the weight's shape or its sharding.
    """
    if not sharded.is_sharded(tensor):
        return _Whole(structure, tensor.shape)
    at, part = sharded.shards_of(tensor), sharded.local(tensor)
    # The last ranks have smaller parts, which may fit when those of the others do not. Each rank
    # checks the first part, so that all raise the same error.
    structure.part(at.shape, 0, at.height)
    share = structure.part(at.shape, at.first, part.shape[0])
    if share.norm is not None:
        return _Divided(structure, share.structure, share.norm, tensor)
    if share.units is None:
        return _WholeRows(share.structure, tensor)
    return _Spread(structure, share.structure, list(share.units), tensor)


def select_locally(
    structure: Structure, kernel: Callable[..., Tensor], score: Tensor, mask: Tensor | None
) -> Tensor:
    """Select with a kernel for a structure whose rows each lie on one rank.

    Args:
        structure: defines which units compete.
        kernel: a function of this rank's part of the scores and of the mask; it returns a mask.
        score: has the weight's shape and sharding.
        mask: bool, shaped and sharded like `score`, or None.

    Returns:
        The kernel's result with the weight's sharding.

    Raises:
        ScoreError: the kernel raises NanError on any rank.
        ShapeError: the structure does not support the weight's shape or its sharding.
    """
    try:
        if not sharded.is_sharded(score):
            structure.rows(score.shape)
            return kernel(score, mask)
        make_selection(structure, score)  # raises ShapeError if a row lies on several ranks
        at, part = sharded.shards_of(score), sharded.local(score)
        own = None if mask is None else _own_part(mask, at)
        return sharded.from_local(
            _on_all_ranks(partial(kernel, part, own), part.device, at.group), score
        )
    except kernels.NanError:
        raise ScoreError from None


def _on_all_ranks(
    select: Callable[[], Tensor], device: torch.device, group: dist.ProcessGroup | None
) -> Tensor:
    """Select on each rank for itself; raise NanError on every rank if one does.

    The other ranks would otherwise wait for it in the next collective.
    """
    failed = torch.zeros((), dtype=torch.int64, device=device)
    mask = torch.empty(0, device=device)
    try:
        mask = select()
    except kernels.NanError:
        failed += 1
    if int(sharded.sum_over(failed, group)):
        raise kernels.NanError("score is NaN at a candidate")
    return mask


class _AllUnits(Selection):
    """Select if this rank has the scores of all units."""

    def count(self, chosen: Tensor) -> Tensor:
        return kernels.count_rows(chosen).cpu()

    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor:
        return kernels.select(score, num, among, magnitude)


class _Whole(_AllUnits):
    """Select in a weight that is not sharded; units are `[rows, n]`."""

    def __init__(self, structure: Structure, shape: torch.Size) -> None:
        self._structure, self._shape = structure, shape
        self.rows, self.n = structure.rows(shape)
        self.is_pooled = self.rows * self.n != shape.numel()

    def pool(self, tensor: Tensor, *, magnitude: bool = False) -> Tensor:
        return _pool(self._structure, tensor, magnitude)

    def expand(self, chosen: Tensor) -> Tensor:
        return self._structure.expand(chosen, self._shape)


class _WholeRows(Selection):
    """Select in a sharded weight if each row lies on one rank, so ranks select independently."""

    def __init__(self, structure: Structure, like: Tensor) -> None:
        self._like, self._at = like, sharded.shards_of(like)
        self._own = _Whole(structure, sharded.local(like).shape)
        self.rows, self.n = self._own.rows, self._own.n
        self.is_pooled, self.group = self._own.is_pooled, self._at.group

    def pool(self, tensor: Tensor, *, magnitude: bool = False) -> Tensor:
        return self._own.pool(_own_part(tensor, self._at), magnitude=magnitude)

    def expand(self, chosen: Tensor) -> Tensor:
        return sharded.from_local(self._own.expand(chosen), self._like)

    def count(self, chosen: Tensor) -> Tensor:
        return self._own.count(chosen)

    def _select(
        self, score: Tensor, num: int | Tensor, among: Tensor | None, magnitude: bool
    ) -> Tensor:
        return _on_all_ranks(
            partial(kernels.select, score, num, among, magnitude), score.device, self._at.group
        )


class _Spread(Selection):
    """Select in a sharded weight if its rows are spread over ranks.

    Units are those on this rank, row after row; `lengths` has their number in each row.
    """

    def __init__(
        self, structure: Structure, within: Structure, lengths: list[int], like: Tensor
    ) -> None:
        self._like, self._at = like, sharded.shards_of(like)
        self._within, self._lengths = within, lengths
        self._part = sharded.local(like).shape
        self.rows, self.n = structure.rows(self._at.shape)
        self.is_pooled = self.rows * self.n != self._at.shape.numel()

    def pool(self, tensor: Tensor, *, magnitude: bool = False) -> Tensor:
        return _pool(self._within, _own_part(tensor, self._at), magnitude).reshape(-1)

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


class _Divided(_AllUnits):
    """Select in a sharded weight if each rank has a part of every unit.

    Each rank computes the scores of all units and makes the same choice.
    """

    def __init__(self, structure: Structure, within: Structure, norm: float, like: Tensor) -> None:
        self._like, self._at = like, sharded.shards_of(like)
        self._within, self._norm = within, norm
        self._part = sharded.local(like).shape
        self.rows, self.n = structure.rows(self._at.shape)
        self.is_pooled = True

    def pool(self, tensor: Tensor, *, magnitude: bool = False) -> Tensor:
        own = _pool(self._within, _own_part(tensor, self._at), magnitude)
        if own.dtype == torch.bool:
            return sharded.sum_over(own.long(), self._at.group) > 0
        return sharded.norm_over(own, self._norm, self._at.group)

    def expand(self, chosen: Tensor) -> Tensor:
        return sharded.from_local(self._within.expand(chosen, self._part), self._like)


def _pool(structure: Structure, tensor: Tensor, magnitude: bool) -> Tensor:
    return structure.pool_magnitude(tensor) if magnitude else structure.pool(tensor)


def _own_part(tensor: Tensor, at: sharded.Shards) -> Tensor:
    """Return this rank's part of a tensor that must be sharded like the weight."""
    if not sharded.is_sharded(tensor) or tensor.shape != at.shape:
        raise ShapeError(
            "a score",
            tensor.shape,
            f"expected a DTensor of shape {tuple(at.shape)}, sharded like the weight",
        )
    return sharded.local(tensor)
