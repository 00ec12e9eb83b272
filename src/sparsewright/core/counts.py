"""Sparsity levels, and the number of entries that a level keeps."""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

import numpy as np
import torch
from torch import Tensor

from sparsewright.errors import LevelError, OptionTypeError

Level = float | Tensor
"""Fraction of entries pruned, 0..1, as a number or a 0-d tensor."""

_MICRO = Decimal("0.000001")


def as_decimal(level: object, what: str = "sparsity") -> Decimal:
    """Return a level as the shortest decimal that identifies it in its own dtype.

    Args:
        level: a number, a numpy scalar or a 0-d tensor; 0..1.
        what: name of the level in error messages.

    Raises:
        OptionTypeError: `level` is not a number.
        LevelError: `level` is outside 0..1 or NaN.

    >>> as_decimal(0.9), as_decimal(torch.tensor(0.9)), as_decimal(torch.tensor(0.9).double())
    (Decimal('0.9'), Decimal('0.9'), Decimal('0.8999999761581421'))
    """
    if isinstance(level, Tensor) and level.numel() == 1:
        level = level.detach().cpu()
        level = (level if level.dtype != torch.bfloat16 else level.float()).numpy().reshape(())[()]
    if isinstance(level, bool | np.bool_) or not isinstance(level, int | float | np.number):
        raise OptionTypeError(what, level, "a number or a 0-d tensor")
    if not 0 <= level <= 1:
        raise LevelError(what, level)
    return Decimal(str(level))


def as_number(value: Tensor) -> float:
    """Return a 0-d tensor as the float with the shortest decimal that identifies it in its dtype.

    >>> as_number(torch.tensor(0.9)), as_number(torch.tensor(1e30)), torch.tensor(0.9).item()
    (0.9, 1e+30, 0.8999999761581421)
    >>> as_number(torch.tensor(0.9).half())
    0.9
    """
    value = value.detach().cpu()
    return float(str((value if value.dtype != torch.bfloat16 else value.float()).numpy()))


def num_kept(level: Level, n: int) -> int:
    """Return the number of entries kept out of `n`: `floor(round((1 - level) * n, 6))`.

    The product is exact. `level` is read as the shortest decimal that identifies it in its own
    dtype, so 0.9 keeps the same number of entries in float32 and float64, at any `n`.

    Args:
        level: fraction pruned, 0..1.
        n: number of competing entries.

    >>> num_kept(0.9, 100), num_kept(torch.tensor(0.9), 100), num_kept(0.3333, 7)
    (10, 10, 4)
    >>> num_kept(0.0, 5), num_kept(1.0, 5)
    (5, 0)
    """
    exact = (1 - as_decimal(level)) * n
    return int(exact.quantize(_MICRO, ROUND_HALF_EVEN).to_integral_value(ROUND_FLOOR))


def num_kept_each(level: Level, counts: Tensor, n: int) -> Tensor:
    """Return `num_kept(level, count)` for each of many counts.

    Args:
        level: fraction pruned, 0..1.
        counts: int64 `[rows]` on the CPU, each 0..n.
        n: upper bound for the counts.

    >>> num_kept_each(0.3, torch.tensor([4, 0, 10]), 10)
    tensor([2, 0, 7])
    """
    if len(counts) <= n:
        kept = [num_kept(level, count) for count in counts.tolist()]
        return torch.tensor(kept, dtype=torch.int64, device="cpu")
    # N:M has millions of short rows, so compute each possible count once.
    table = [num_kept(level, count) for count in range(n + 1)]
    return torch.tensor(table, dtype=torch.int64, device="cpu")[counts]
