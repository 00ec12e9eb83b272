"""Reference kernels for compressed weights and their index; products build the dense weight."""

from __future__ import annotations

import torch
from torch import Tensor


def validate(row_ptr: Tensor, col_idx: Tensor, cols: int) -> None:
    """Check that arrays are a valid CSR index.

    Raises:
        ValueError: the arrays are not a valid CSR index; the message gives the reason.
    """
    for name, array in (("row_ptr", row_ptr), ("col_idx", col_idx)):
        if array.dtype != torch.int32 or array.ndim != 1 or array.device.type != "cpu":
            raise ValueError(f"{name} must be a one-dimensional int32 tensor on the CPU")
    nnz = col_idx.numel()
    if row_ptr.numel() < 1 or int(row_ptr[0]) != 0 or int(row_ptr[-1]) != nnz:
        raise ValueError(f"row_ptr must start at 0 and end at the {nnz} entries of col_idx")
    if bool((row_ptr.diff() < 0).any()):
        raise ValueError("row_ptr must not decrease")
    if nnz and not (int(col_idx.min()) >= 0 and int(col_idx.max()) < cols):
        raise ValueError(f"col_idx must be in 0..{cols - 1}")
    rises = col_idx.diff() > 0
    starts = row_ptr[1:-1].long()
    starts = starts[(starts > 0) & (starts < nnz)]
    rises[starts - 1] = True
    if not bool(rises.all()):
        raise ValueError("col_idx must ascend within each row")


def csr_from_mask(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return `row_ptr` and `col_idx` of a bool mask `[rows, cols]`."""
    row_ptr = mask.new_zeros(mask.shape[0] + 1, dtype=torch.int32)
    row_ptr[1:] = mask.sum(1).cumsum(0)
    return row_ptr, mask.nonzero()[:, 1].to(torch.int32)


def row_idx(row_ptr: Tensor) -> Tensor:
    """Return the row of each entry, int64 `[nnz]`."""
    rows = torch.arange(row_ptr.numel() - 1, device=row_ptr.device)
    return torch.repeat_interleave(rows, row_ptr.diff().long())


def transpose_index(row_ptr: Tensor, col_idx: Tensor, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return CSR arrays of the transpose, and the original position of each of its entries."""
    perm = torch.argsort(col_idx, stable=True)
    t_row_ptr = row_ptr.new_zeros(cols + 1)
    t_row_ptr[1:] = torch.bincount(col_idx, minlength=cols).cumsum(0)
    return t_row_ptr, row_idx(row_ptr)[perm].to(torch.int32), perm.to(torch.int32)


def build_blocks(
    row_ptr: Tensor,
    col_idx: Tensor,
    perm: Tensor | None,
    cols: int,
    row_block: int,
    col_block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `seg_ptr`, `col` and `src`, ordered by row block, column block, row and column."""
    rows, blocks = row_ptr.numel() - 1, -(-cols // col_block)
    row, col = row_idx(row_ptr), col_idx.long()
    row_cell, col_cell = row // row_block, col // col_block
    height = (rows - row_cell * row_block).clamp(max=row_block)
    segment = row_cell * row_block * blocks + col_cell * height + row % row_block
    order = torch.argsort(segment, stable=True)
    seg_ptr = row_ptr.new_zeros(rows * blocks + 1)
    seg_ptr[1:] = torch.bincount(segment, minlength=rows * blocks).cumsum(0)
    src = order.to(torch.int32) if perm is None else perm[order]
    return seg_ptr, (col - col_cell * col_block)[order].to(torch.uint16), src


def scatter_dense(values: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    """Return the dense weight for live values."""
    weight = values.new_zeros(row_ptr.numel() - 1, cols)
    weight[row_idx(row_ptr), col_idx.long()] = values
    return weight


def gather_dense(weight: Tensor, row_ptr: Tensor, col_idx: Tensor) -> Tensor:
    """Return the live values of a dense weight."""
    return weight.detach()[row_idx(row_ptr), col_idx.long()]


def linear(
    x: Tensor, values: Tensor, row_ptr: Tensor, col_idx: Tensor, bias: Tensor | None
) -> Tensor:
    """Compute `x Wᵀ + bias` in x's dtype; sums use the wider dtype of `x` and `values`."""
    wide = torch.promote_types(x.dtype, values.dtype)
    weight = scatter_dense(values.to(wide), row_ptr, col_idx, x.shape[1])
    y = x.to(wide) @ weight.T
    return (y if bias is None else y + bias).to(x.dtype)


def input_grad(dy: Tensor, values: Tensor, row_ptr: Tensor, col_idx: Tensor, cols: int) -> Tensor:
    """Compute `dy W` in dy's dtype; sums use the wider dtype of `dy` and `values`."""
    wide = torch.promote_types(dy.dtype, values.dtype)
    weight = scatter_dense(values.to(wide), row_ptr, col_idx, cols)
    return (dy.to(wide) @ weight).to(dy.dtype)


def sampled_product(x: Tensor, dy: Tensor, row_ptr: Tensor, col_idx: Tensor) -> Tensor:
    """Compute `dyᵀ x` for the live entries, in float32 (float64 if `x` is float64)."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (dy.to(wide).T @ x.to(wide))[row_idx(row_ptr), col_idx.long()]
