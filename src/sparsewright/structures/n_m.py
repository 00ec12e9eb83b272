"""N:M sparsity, which keeps n of every m consecutive inputs."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.counts import Level, as_decimal, num_kept
from sparsewright.core.rows import Unstructured
from sparsewright.core.selection import make_selection, select_locally
from sparsewright.core.structure import (
    RowBlocks,
    Share,
    Structure,
    check_same_shape,
    check_shard,
)
from sparsewright.errors import LevelError, OptionError, OptionTypeError, ShapeError
from sparsewright.kernels import reference
from sparsewright.kernels.reference import SIDE

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

    With `transposable=True`, both the weight and its transpose are n:4, so the backward pass can
    use n:4 kernels too: a group is a tile of 4 outputs and 4 inputs with n live entries in each row
    and each column. Of all valid patterns, each tile gets the one with the largest sum of scores.
    A mask update drops as above. Each tile then gets the valid pattern that includes all its
    remaining connections and has the largest sum of growth scores. If there are connections
    outside of valid patterns, because training started dense or the level rises, a tile keeps
    those of the valid pattern that includes the most of them, and then the largest sum of |w|.

    Args:
        n: number of entries to keep in each group, 1..m.
        m: number of entries in a group; must divide the weight's input dimension.
        transposable: also keep n of every m consecutive outputs (dimension 0), which m must divide
            too. Requires m = 4.

    Raises:
        OptionError: a number is out of range, or m is not 4 for a transposable mask.
        OptionTypeError: a number is not an integer, or `transposable` is not a bool.

    >>> NM(2, 4).topk(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), 0.5)
    tensor([[False,  True,  True, False]])
    >>> NM(2, 4, transposable=True).topk(torch.arange(16.0).reshape(4, 4) % 5, 0.5).int()
    tensor([[0, 0, 1, 1],
            [1, 0, 0, 1],
            [1, 1, 0, 0],
            [0, 1, 1, 0]], dtype=torch.int32)

    Source: A. Zhou et al., "Learning N:M fine-grained structured sparse neural networks from
    scratch", arXiv:2102.04010; for transposable masks I. Hubara et al., "Accelerated sparse neural
    training: a provable and efficient method to find N:M transposable masks", arXiv:2102.08124.
    """

    name: ClassVar[str] = "n_m"
    has_one_level: ClassVar[bool] = True

    def __init__(self, n: int, m: int, transposable: bool = False) -> None:
        for what, value in (("n", n), ("m", m)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise OptionTypeError(f"{what} of an n:m structure", value, "an integer >= 1")
        if m < 1:
            raise OptionError("m of an n:m structure", m, "an integer >= 1")
        if not 1 <= n <= m:
            raise OptionError("n of an n:m structure", n, f"between 1 and m = {m}")
        if not isinstance(transposable, bool):
            raise OptionTypeError("transposable", transposable, "True or False")
        if transposable and m != SIDE:
            advice = "The best pattern is found by trying all patterns of a 4x4 tile."
            raise OptionError("m of a transposable structure", m, f"{SIDE}", advice=advice)
        self.n, self.m, self.transposable = n, m, transposable
        self._own = (m - n) / m

    @property
    def _groups(self) -> _Neighbours | _Tiles:
        """Return the groups for this structure's dimensions."""
        return _Tiles(self.out_dim) if self.transposable else _Neighbours(self.m, self.in_dim)

    def _best(self, score: Tensor, among: Tensor | None, *, magnitude: bool) -> Tensor:
        """Mark the entries of the best valid mask, or those of them that are in `among`."""
        return self._select(score, among, "among", magnitude)

    def _fill(self, score: Tensor, kept: Tensor, *, magnitude: bool) -> Tensor:
        """Add the best entries to those that are kept, until the mask is valid."""
        return self._select(score, kept, "kept", magnitude)

    def _select(self, score: Tensor, mask: Tensor | None, role: str, magnitude: bool) -> Tensor:
        if magnitude and score.is_complex():
            score, magnitude = score.abs(), False

        def select(part: Tensor, given: Tensor | None) -> Tensor:
            among, kept = (given, None) if role == "among" else (None, given)
            if self.transposable:
                return kernels.select_tiles(part, self.n, among, kept, magnitude)
            return kernels.select_n_m(part, self.n, self.m, self.in_dim, among, kept, magnitude)

        return select_locally(self, select, score, mask)

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(groups, m)`, or `(tiles, 16)` for a transposable mask."""
        return self._groups.rows(shape)

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the tensor as `[groups, m]`, or as `[tiles, 16]` for a transposable mask."""
        return self._groups.pool(tensor)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return the units from `pool` in the weight's shape."""
        return self._groups.expand(chosen, shape)

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part with its own groups; each group must lie on one rank."""
        self.rows(shape)
        if self.transposable or self.in_dim == 0:
            check_shard(shape, first, count, self.m, "tiles" if self.transposable else "groups")
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
        self.rows(shape)
        if self._is_own(sparsity):
            return shape.numel() // self.m * self.n
        if as_decimal(sparsity) > self._own:
            asked = float(as_decimal(sparsity))
            raise LevelError("sparsity", asked, f"at most {self._own:g}, the level of {self}")
        return num_kept(sparsity, shape.numel())

    def topk(self, score: Tensor, sparsity: Level, *, magnitude: bool = False) -> Tensor:
        """Keep the n highest scores of each group; below `1 - n/m`, also the highest others."""
        self.num_kept(score.shape, sparsity)
        winners = self._best(score, None, magnitude=magnitude)
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
        check_same_shape(score, mask)
        target = self.num_kept(score.shape, sparsity)
        filled = self._fill(score, mask, magnitude=magnitude)
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
        whole = make_selection(_WHOLE, weight)
        live, best = whole.pool(mask), whole.pool(self._best(weight, mask, magnitude=True))
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
        return f"NM({self.n}, {self.m}{', transposable=True' if self.transposable else ''})"


class _Neighbours:
    """Groups of m consecutive entries along the input dimension."""

    def __init__(self, m: int, dim: int) -> None:
        self._m, self._dim = m, dim

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        if len(shape) < 2:
            raise ShapeError("a weight", shape, "it has no input dimension")
        size = shape[self._dim]
        if size % self._m:
            raise ShapeError(
                "a weight",
                shape,
                f"its input dimension {size} is not divisible by m = {self._m}",
            )
        return shape.numel() // self._m, self._m

    def pool(self, tensor: Tensor) -> Tensor:
        self.rows(tensor.shape)
        return reference.pool_groups(tensor, self._m, self._dim)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        return reference.expand_groups(chosen, shape, self._dim)


class _Tiles:
    """Tiles of 4 outputs and 4 inputs (dimensions 0 and 1)."""

    def __init__(self, out_dim: int) -> None:
        self._sides = ("input", "output") if out_dim else ("output", "input")

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        if len(shape) < 2:
            raise ShapeError("a weight", shape, "it has no input dimension")
        for side, size in zip(self._sides, shape, strict=False):
            if size % SIDE:
                problem = (
                    f"its {side} dimension {size} is not divisible by {SIDE}, the size of a tile"
                )
                raise ShapeError("a weight", shape, problem)
        return shape.numel() // SIDE**2, SIDE**2

    def pool(self, tensor: Tensor) -> Tensor:
        self.rows(tensor.shape)
        return reference.pool_tiles(tensor)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        return reference.expand_tiles(chosen, shape)
