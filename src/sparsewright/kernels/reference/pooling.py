"""Reference kernels that reduce blocks of a weight to one value each, and expand them again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

_SLAB = {"cpu": 1 << 17, "other": 1 << 24}
"""Entries that are pooled at a time; temporaries that stay in the cache are three times as fast."""


def check_blocks(tensor: Tensor, pooling: str) -> None:
    """Raise an error unless the tensor has four dimensions and real numbers, and pooling a name."""
    if tensor.dim() != 4:
        raise ValueError(
            f"blocks must have shape [down, high, across, wide]; got {tuple(tensor.shape)}"
        )
    if tensor.is_complex():
        raise TypeError(f"scores must be real numbers; got {tensor.dtype}")
    if pooling not in ("sum", "squares", "max"):
        raise ValueError(f"pooling must be 'sum', 'squares' or 'max'; got {pooling!r}")


def pool_blocks(tensor: Tensor, pooling: str = "sum", magnitude: bool = True) -> Tensor:
    """Combine the entries of each block, neighbors first."""
    check_blocks(tensor, pooling)
    tensor = tensor.detach()
    down, high, across, wide = tensor.shape
    is_mask = tensor.dtype == torch.bool
    dtype = torch.bool if is_mask else torch.float64
    out = torch.zeros(down, across, dtype=dtype, device=tensor.device)
    if not tensor.numel():
        return out
    combine = torch.logical_or if is_mask else torch.maximum if pooling == "max" else torch.add
    slab = _SLAB.get(tensor.device.type, _SLAB["other"])
    columns = max(slab // (high * wide), 1)
    rows = max(columns // across, 1)
    for row, column in product(range(0, down, rows), range(0, across, columns)):
        part = (slice(row, row + rows), slice(column, column + columns))
        values = tensor[part[0], :, part[1]]
        if not is_mask:
            values = (values.abs() if magnitude else values).double()
            values = values.square() if pooling == "squares" else values
        shape = out[part].shape
        pooled = _fold(values.reshape(shape[0], high, -1), combine)
        out[part] = _fold(pooled.reshape(-1, wide, 1), combine).reshape(shape)
    return out


def _fold(tensor: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine the n slices of a tensor `[a, n, b]`, to `[a, b]`.

    Neighbors are combined first, then neighboring results. A last slice without a neighbor is
    carried over to the next round. A reduction by torch adds in an order of its own for each device
    and layout.
    """
    while (n := tensor.shape[1]) > 1:
        pairs = combine(tensor[:, 0 : n - 1 : 2], tensor[:, 1:n:2])
        tensor = torch.cat([pairs, tensor[:, n - 1 :]], 1) if n % 2 else pairs
    return tensor[:, 0]


def expand_blocks(chosen: Tensor, high: int, wide: int) -> Tensor:
    """Repeat each flag for all entries of its block."""
    down, across = chosen.shape
    return chosen.reshape(down, 1, across, 1).expand(down, high, across, wide).contiguous()
