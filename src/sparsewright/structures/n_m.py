"""N:M sparsity, which keeps n of every m consecutive inputs."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright.core.counts import Level, as_decimal, num_kept
from sparsewright.core.rows import RowStructure, Unstructured
from sparsewright.core.selection import make_selection
from sparsewright.core.structure import (
    RowBlocks,
    Share,
    Structure,
    check_same_shape,
    check_shard,
)
from sparsewright.errors import LevelError, OptionError, OptionTypeError, ShapeError

_ROUNDING = Decimal("0.000001")  # tolerance for levels that were computed in float32
_WHOLE = Unstructured()


class NM(Structure):
    """Keep n of every m consecutive entries along the input dimension.

    In a convolution, a group is m input channels at one output channel and one kernel position.
    The level is `1 - n/m`, and you can leave it out. A schedule can also rise to this level. At a
    lower level, the weight keeps `num_kept(level, numel)` entries: first the n best entries of
    each group, then the best of the other entries.

    `drop_fraction` applies to all live connections of the weight, not to each group, because a
    group with two live connections cannot drop 30% of them. Growth then fills each group.

    Args:
        n: number of entries to keep in each group, 1..m.
        m: number of entries in a group; must divide the weight's input dimension.

    Raises:
        OptionError: a number is out of range.
        OptionTypeError: a number is not an integer.

    >>> NM(2, 4).topk(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), 0.5)
    tensor([[False,  True,  True, False]])

    Source: A. Zhou et al., "Learning N:M fine-grained structured sparse neural networks from
    scratch", arXiv:2102.04010.
    """

    name: ClassVar[str] = "n_m"
    has_one_level: ClassVar[bool] = True

    def __init__(self, n: int, m: int) -> None:
        for what, value in (("n", n), ("m", m)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise OptionTypeError(what, value, "an integer >= 1")
        if m < 1:
            raise OptionError("m", m, "an integer >= 1")
        if not 1 <= n <= m:
            raise OptionError("n", n, f"between 1 and m = {m}")
        self.n, self.m = n, m
        self._own = (m - n) / m

    @property
    def _groups(self) -> _Neighbours:
        """Return the groups as rows that compete independently."""
        return _Neighbours(self.m).with_dims(self.out_dim, self.in_dim)

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(groups, m)`."""
        return self._groups.rows(shape)

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `[groups, m]`."""
        return self._groups.pool(tensor)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[groups, m]` in the weight's shape."""
        return self._groups.expand(chosen, shape)

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part with its own groups; each group must lie on one rank."""
        self._groups.part(shape, first, count)
        return Share(self, None)

    def level(self, asked: Level | None) -> Level:
        """Return `1 - n/m`.

        Raises:
            LevelError: another constant level is requested.
        """
        if asked is None or self._is_own(asked):
            return self._own
        raise LevelError(
            "sparsity", asked, f"{self._own:g}, the level of {self}, or a schedule that rises to it"
        )

    def _is_own(self, level: Level) -> bool:
        """Return whether a level is `1 - n/m`, except for rounding."""
        return abs(as_decimal(level) - Decimal(self.m - self.n) / self.m) <= _ROUNDING

    def num_kept(self, shape: torch.Size, sparsity: Level) -> int:
        """Return the number of entries that a weight of this shape keeps at a level.

        Raises:
            LevelError: the level is above `1 - n/m`.
        """
        groups, _ = self.rows(shape)
        if self._is_own(sparsity):
            return groups * self.n
        if as_decimal(sparsity) > self._own:
            raise LevelError("sparsity", sparsity, f"at most {self._own:g}, the level of {self}")
        return num_kept(sparsity, shape.numel())

    def topk(self, score: Tensor, sparsity: Level, *, magnitude: bool = False) -> Tensor:
        """Keep the n highest scores of each group; below `1 - n/m`, also the highest others."""
        self.num_kept(score.shape, sparsity)
        winners = self._groups.topk(score, self._own, magnitude=magnitude)
        if self._is_own(sparsity):
            return winners
        return _WHOLE.grow(score, winners, sparsity, magnitude=magnitude)

    def drop(
        self, score: Tensor, mask: Tensor, drop_fraction: Level, *, magnitude: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Keep `floor((1 - drop_fraction) * live)` live connections of the whole weight."""
        new, _ = _WHOLE.drop(score, mask, drop_fraction, magnitude=magnitude)
        groups = make_selection(self, new)
        return new, groups.count(groups.pool(new)).to(mask.device)

    def grow(
        self,
        score: Tensor,
        mask: Tensor,
        sparsity: Level,
        *,
        live: Tensor | int | None = None,
        magnitude: bool = False,
    ) -> Tensor:
        """Fill each group to n; below `1 - n/m`, then fill the whole weight to the level."""
        target = self.num_kept(score.shape, sparsity)
        filled = self._groups.grow(score, mask, self._own, live=live, magnitude=magnitude)
        if self._is_own(sparsity):
            return filled
        whole = make_selection(_WHOLE, score)
        before, after = whole.pool(mask), whole.pool(filled)
        if int(whole.count(after)) <= target:
            return _WHOLE.grow(score, filled, sparsity, magnitude=magnitude)
        missing = (target - whole.count(before)).clamp(min=0)
        grown = whole.select(score, missing, after & ~before, magnitude=magnitude)
        return whole.expand(before | grown)

    def drop_and_grow(
        self,
        weight: Tensor,
        mask: Tensor,
        sparsity: Level,
        drop_fraction: Level,
        grow_score: Tensor | RowBlocks,
    ) -> Tensor:
        """Drop connections from the whole weight, first those above n in a group, then `grow`."""
        check_same_shape(weight, mask)
        target, places = (self.num_kept(weight.shape, s) for s in (sparsity, self._own))
        groups, whole = make_selection(self, weight), make_selection(_WHOLE, weight)
        first = groups.select(weight, self.n, groups.pool(mask), magnitude=True)
        live, best = whole.pool(mask), whole.pool(groups.expand(first))
        num_best = int(whole.count(best))
        # Leave room for growth to fill every group to n.
        stay = num_kept(drop_fraction, int(whole.count(live)))
        stay = min(stay, target - (places - num_best))
        kept = whole.select(weight, stay, best, magnitude=True)
        if stay > num_best:
            kept |= whole.select(weight, stay - num_best, live & ~best, magnitude=True)
        score = grow_score if isinstance(grow_score, Tensor) else grow_score.dense()
        return self.grow(score, whole.expand(kept), sparsity, magnitude=True)

    def __repr__(self) -> str:
        return f"NM({self.n}, {self.m})"


class _Neighbours(RowStructure):
    """Rows of m consecutive entries along the input dimension."""

    name: ClassVar[str] = "neighbours"

    def __init__(self, m: int) -> None:
        self._m = m

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        if len(shape) < 2:
            raise ShapeError("a weight", shape, "it has no input dimension")
        size = shape[self.in_dim]
        if size % self._m:
            raise ShapeError(
                "a weight",
                shape,
                f"its input dimension {size} is not divisible by m = {self._m}",
            )
        return shape.numel() // self._m, self._m

    def pool(self, tensor: Tensor) -> Tensor:
        rows = self.rows(tensor.shape)
        return tensor.movedim(self.in_dim, -1).reshape(rows)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        dim = self.in_dim
        last = [*shape[:dim], *shape[dim + 1 :], shape[dim]]
        return chosen.reshape(last).movedim(-1, dim).contiguous()

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        self.rows(shape)
        if self.in_dim == 0:
            check_shard(shape, first, count, self._m, "groups")
        return Share(self, None)

    def __repr__(self) -> str:
        return f"_Neighbours({self._m})"
