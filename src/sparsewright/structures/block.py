"""Blocks of a weight, each kept or pruned as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.rows import RowStructure
from sparsewright.core.structure import Share, check_shard
from sparsewright.errors import OptionError, OptionTypeError, ShapeError
from sparsewright.structures.sides import check_side, divisors_around

_POOLS = {"mean": "sum", "max": "max", "l2": "squares", "sum": "sum"}


class Block(RowStructure):
    """Keep or prune rectangular blocks of outputs and inputs; all blocks of a weight compete.

    Block `(i, j)` has the outputs `h*i .. h*i + h - 1` and the inputs `w*j .. w*j + w - 1`, with
    all their kernel positions. Of B blocks, the `num_kept(level, B)` with the highest scores stay.
    The score pools the scores s of the block's n entries, which algorithms pass as |w| or |g|:

    - `mean`: `sum(s) / n`
    - `max`: the largest s
    - `l2`: `sqrt(sum(s**2))`, which ignores the sign
    - `sum`: `sum(s)`, the same order as `mean`

    Sums are float64. Entries are always added in the same order, so scores do not depend on the
    device.

    Args:
        shape: height h and width w of a block, in outputs and inputs; h must divide the weight's
            output dimension, and w its input dimension.
        pool: `"mean"`, `"max"`, `"l2"` or `"sum"`.

    Raises:
        OptionError: a side is below 1, or the pool is unknown.
        OptionTypeError: `shape` is not a pair of integers.

    >>> weight = torch.tensor([[1.0, 1.0, 0.0, 3.0], [1.0, 1.0, 0.0, 0.0]])
    >>> Block((2, 2)).topk(weight, 0.5).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0]], dtype=torch.int32)
    >>> Block((2, 2), pool="max").topk(weight, 0.5).int()
    tensor([[0, 0, 1, 1],
            [0, 0, 1, 1]], dtype=torch.int32)

    Source: S. Narang, E. Undersander, G. Diamos, "Block-sparse recurrent neural networks",
    arXiv:1711.02782, for `max`.
    """

    name: ClassVar[str] = "block"

    def __init__(self, shape: Sequence[int] = (4, 4), pool: str = "mean") -> None:
        self.shape = _check_shape(shape)
        if pool not in _POOLS:
            raise OptionError("pool", pool, list(_POOLS))
        self.pooling = pool

    def rows(self, shape: torch.Size) -> tuple[int, int]:
        """Return `(1, number of blocks)`."""
        sides = zip(("output", "input"), (self.out_dim, self.in_dim), self.shape, strict=True)
        for side, dim, size in sides:
            whole = check_side(shape, side, dim)
            if whole % size:
                raise ShapeError(
                    "a weight",
                    shape,
                    f"its {side} dimension {whole} cannot be divided into blocks of {size}; use "
                    f"{divisors_around(whole, size)}",
                )
        return 1, shape.numel() // self._entries(shape) if shape.numel() else 0

    def pool(self, tensor: Tensor) -> Tensor:
        """Return the blocks' scores as `[1, blocks]`; for a mask, whether an entry is live."""
        return self._pool(tensor, magnitude=False)

    def pool_magnitude(self, tensor: Tensor) -> Tensor:
        """Return the blocks' scores of |tensor| as `[1, blocks]`."""
        return self._pool(tensor, magnitude=True)

    def _pool(self, tensor: Tensor, *, magnitude: bool) -> Tensor:
        self.rows(tensor.shape)
        blocks = tensor.reshape(self._split(tensor.shape))
        units = kernels.pool_blocks(blocks, _POOLS[self.pooling], magnitude)
        if tensor.dtype != torch.bool:
            if self.pooling == "mean":
                units = units / self._entries(tensor.shape)
            elif self.pooling == "l2":
                units = units.sqrt()
        return units.reshape(1, -1)

    def expand(self, chosen: Tensor, shape: torch.Size) -> Tensor:
        """Return `[1, blocks]` in the weight's shape."""
        down, high, across, wide = self._split(shape)
        return kernels.expand_blocks(chosen.reshape(down, across), high, wide).reshape(shape)

    def _split(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """Return the weight's shape as rows of blocks, height, blocks in a row, and width."""
        high, wide = self._stored()
        if not shape.numel():
            return 0, high, 0, wide
        return shape[0] // high, high, shape[1] // wide, wide * shape[2:].numel()

    def part(self, shape: torch.Size, first: int, count: int) -> Share:
        """Return the part's own blocks; a rank must have whole blocks only."""
        _, blocks = self.rows(shape)
        check_shard(shape, first, count, self._stored()[0], "blocks")
        return Share(self, [blocks * count // max(shape[0], 1)])

    def _stored(self) -> tuple[int, int]:
        """Return the size of a block in dimensions 0 and 1."""
        high, wide = self.shape
        return (high, wide) if self.out_dim == 0 else (wide, high)

    def _entries(self, shape: torch.Size) -> int:
        """Return the number of entries of a block."""
        return self.shape[0] * self.shape[1] * shape[2:].numel()

    def __repr__(self) -> str:
        pool = "" if self.pooling == "mean" else f", pool={self.pooling!r}"
        return f"Block({self.shape}{pool})"


def _check_shape(shape: object) -> tuple[int, int]:
    """Return the height and the width of a block.

    Raises:
        OptionError: a side is below 1.
        OptionTypeError: `shape` is not a pair of integers.
    """
    allowed = "two integers >= 1, the outputs and the inputs of a block"
    sides = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in sides):
        raise OptionTypeError("shape", shape, allowed)
    if min(sides) < 1:
        raise OptionError("shape", shape, allowed)
    return sides[0], sides[1]
