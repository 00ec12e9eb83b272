"""Kernels for compressed weights, one function per operation, native or in plain torch.

A weight `[rows, cols]` consists of its live values, float32 `[nnz]` in CSR order, and a `Layout`.
Activations are row-major and float32 or bfloat16. Sums are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsewright.kernels import native
from sparsewright.kernels.reference import products

# Up to this many tokens, a pass over the CSR rows is faster than packing activations into tiles.
_SKINNY_TOKENS = 8


@dataclass(frozen=True)
class Blocks:
    """Live entries, sorted by cell; a cell is a row block times a column block.

    Attributes:
        rows, cols: shape of the matrix.
        row_block, col_block: shape of a cell.
        seg_ptr: int32 `[rows * ceil(cols / col_block) + 1]`, start of each row's entries in each
            column block.
        col: uint16 `[nnz]`, column within the cell.
        src: int32 `[nnz]`, position of the entry in `values`.
    """

    rows: int
    cols: int
    row_block: int
    col_block: int
    seg_ptr: Tensor
    col: Tensor
    src: Tensor

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with `col` as int16: only `torch.save` supports uint16."""
        return {**self.__dict__, "col": self.col.view(torch.int16)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state from a pickle."""
        self.__dict__.update(state, col=state["col"].view(torch.uint16))


@dataclass(frozen=True)
class Layout:
    """Index tensors of a weight `[rows, cols]`, computed from its mask.

    Attributes:
        rows, cols: shape of the weight.
        row_ptr: int32 `[rows + 1]`.
        col_idx: int32 `[nnz]`, ascending within a row.
        forward: blocks of the weight.
        transposed: blocks of the weight's transpose.
    """

    rows: int
    cols: int
    row_ptr: Tensor
    col_idx: Tensor
    forward: Blocks
    transposed: Blocks

    @property
    def nnz(self) -> int:
        """Return the number of live entries."""
        return self.col_idx.numel()

    @property
    def nbytes(self) -> int:
        """Return the size of all index tensors in bytes."""
        tensors = [self.row_ptr, self.col_idx]
        for blocks in (self.forward, self.transposed):
            tensors += [blocks.seg_ptr, blocks.col, blocks.src]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def layout_from_mask(mask: Tensor) -> Layout:
    """Build the layout of a bool mask `[rows, cols]` on the CPU."""
    mask, module = mask.contiguous(), native.module()
    if module is None:
        row_ptr, col_idx = products.csr_from_mask(mask)
    else:
        threads = torch.get_num_threads()
        row_ptr = mask.new_empty(mask.shape[0] + 1, dtype=torch.int32)
        col_idx = row_ptr.new_empty(module.build_row_ptr(mask, row_ptr, threads))
        module.build_col_idx(mask, row_ptr, col_idx, threads)
    return layout_from_csr(row_ptr, col_idx, mask.shape[1])


def layout_from_csr(row_ptr: Tensor, col_idx: Tensor, cols: int) -> Layout:
    """Check CSR arrays and build their layout.

    Args:
        row_ptr: int32 `[rows + 1]`.
        col_idx: int32 `[nnz]`.
        cols: number of columns of the weight.

    Raises:
        ValueError: the arrays are not a CSR index of such a weight: a pointer decreases, or
            columns are out of range or not ascending within a row.
    """
    rows = row_ptr.numel() - 1
    products.validate(row_ptr, col_idx, cols)
    module = native.module()
    if module is None:
        t_row_ptr, t_col_idx, perm = products.transpose_index(row_ptr, col_idx, cols)
    else:
        t_row_ptr = row_ptr.new_empty(cols + 1)
        t_col_idx, perm = torch.empty_like(col_idx), torch.empty_like(col_idx)
        module.transpose_index(row_ptr, col_idx, t_row_ptr, t_col_idx, perm)
    return Layout(
        rows,
        cols,
        row_ptr,
        col_idx,
        _build_blocks(row_ptr, col_idx, None, cols),
        _build_blocks(t_row_ptr, t_col_idx, perm, rows),
    )


def _build_blocks(row_ptr: Tensor, col_idx: Tensor, perm: Tensor | None, cols: int) -> Blocks:
    rows, nnz = row_ptr.numel() - 1, col_idx.numel()
    density = nnz / max(1, rows * cols)
    # Use wider blocks at higher sparsity, so that a row's segment has a dozen entries or more.
    col_block = 160 if density > 0.15 else 192 if density > 0.07 else 256
    row_block, col_block = 512, min(col_block, max(1, cols))
    module = native.module()
    if module is None:
        arrays = products.build_blocks(row_ptr, col_idx, perm, cols, row_block, col_block)
        return Blocks(rows, cols, row_block, col_block, *arrays)
    seg_ptr = row_ptr.new_empty(rows * -(-cols // col_block) + 1)
    col, src = col_idx.new_empty(nnz, dtype=torch.uint16), col_idx.new_empty(nnz)
    threads = torch.get_num_threads()
    module.build_blocks(
        row_ptr, col_idx, perm, cols, row_block, col_block, seg_ptr, col, src, threads
    )
    return Blocks(rows, cols, row_block, col_block, seg_ptr, col, src)


def gather_dense(weight: Tensor, layout: Layout) -> Tensor:
    """Gather the live values of a dense weight `[rows, cols]` in CSR order: `[nnz]`, its dtype."""
    module = native.module()
    if module is None or weight.dtype != torch.float32 or native.why_not(weight):
        return products.gather_dense(weight, layout.row_ptr, layout.col_idx)
    values = weight.new_empty(layout.nnz)
    weight = weight.detach().contiguous()
    threads = torch.get_num_threads()
    module.gather_dense(weight, layout.row_ptr, layout.col_idx, values, threads)
    return values


def scatter_dense(values: Tensor, layout: Layout) -> Tensor:
    """Build the dense weight `[rows, cols]` from live values `[nnz]`, in their dtype."""
    module = native.module()
    if module is None or values.dtype != torch.float32 or native.why_not(values):
        row_ptr, col_idx = layout.row_ptr, layout.col_idx
        return products.scatter_dense(values.detach(), row_ptr, col_idx, layout.cols)
    weight = values.new_empty(layout.rows, layout.cols)
    values, threads = values.detach().contiguous(), torch.get_num_threads()
    module.scatter_dense(values, layout.row_ptr, layout.col_idx, weight, threads)
    return weight


def flat_positions(layout: Layout) -> Tensor:
    """Return the flat index of each live value in the dense weight: int64 `[nnz]`."""
    rows = torch.arange(layout.rows, device="cpu")
    counts = layout.row_ptr.diff().long()
    row = torch.repeat_interleave(rows, counts, output_size=layout.nnz)
    return row * layout.cols + layout.col_idx


def dense_mask(layout: Layout) -> Tensor:
    """Build the mask of a layout, bool `[rows, cols]`."""
    module = native.module()
    if module is None:
        ones = torch.ones_like(layout.col_idx, dtype=torch.bool)
        return products.scatter_dense(ones, layout.row_ptr, layout.col_idx, layout.cols)
    mask = layout.col_idx.new_empty(layout.rows, layout.cols, dtype=torch.bool)
    module.scatter_mask(layout.row_ptr, layout.col_idx, mask, torch.get_num_threads())
    return mask


def match_entries(old: Layout, new: Layout) -> Tensor:
    """Return the position in `old` of each entry of `new`, or -1: int32 `[new.nnz]`."""
    module = native.module()
    if module is None:
        positions = torch.arange(1, old.nnz + 1, dtype=torch.int32, device="cpu")
        dense = products.scatter_dense(positions, old.row_ptr, old.col_idx, old.cols)
        return products.gather_dense(dense, new.row_ptr, new.col_idx) - 1
    source, threads = torch.empty_like(new.col_idx), torch.get_num_threads()
    module.match_entries(old.row_ptr, old.col_idx, new.row_ptr, new.col_idx, source, threads)
    return source


def linear(x: Tensor, values: Tensor, layout: Layout, bias: Tensor | None) -> Tensor:
    """Compute `x Wᵀ + bias`.

    Args:
        x: `[tokens, cols]`, float32 or bfloat16.
        values: float32 `[nnz]`.
        layout: layout of the weight.
        bias: float32 `[rows]` or None.

    Returns:
        `[tokens, rows]`, x's dtype.
    """
    module = _module_for("linear", [x], [values, bias])
    if module is None:
        return products.linear(x, values, layout.row_ptr, layout.col_idx, bias)
    x = x.detach().contiguous()
    if x.shape[0] > _SKINNY_TOKENS:
        return _spmm(module, values, layout.forward, x, bias)
    y, threads = x.new_empty(x.shape[0], layout.rows), torch.get_num_threads()
    row_ptr, col_idx = layout.row_ptr, layout.col_idx
    module.spmm_skinny(values, row_ptr, col_idx, x, bias, y, threads, native.isa())
    return y


def input_grad(dy: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """Compute `dy W`, from `[tokens, rows]` to `[tokens, cols]`, in dy's dtype."""
    module = _module_for("input_grad", [dy], [values])
    if module is None:
        row_ptr, col_idx = layout.row_ptr, layout.col_idx
        return products.input_grad(dy, values, row_ptr, col_idx, layout.cols)
    return _spmm(module, values, layout.transposed, dy.detach().contiguous(), None)


def values_grad(dy: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """Compute `dyᵀ x` for the live entries: float32 `[nnz]`.

    Args:
        dy: `[tokens, rows]`, float32 or bfloat16.
        x: `[tokens, cols]`, float32 or bfloat16.
        layout: layout of the weight.
    """
    module = _module_for("values_grad", [dy, x])
    if module is None:
        return products.sampled_product(x, dy, layout.row_ptr, layout.col_idx)
    blocks, threads = layout.forward, torch.get_num_threads()
    grad = torch.empty(layout.nnz, dtype=torch.float32, device="cpu")
    module.sddmm(
        blocks.seg_ptr, blocks.col, blocks.src, blocks.row_block, blocks.col_block,
        x.detach().contiguous(), dy.detach().contiguous(), grad, threads, native.isa(),
    )  # fmt: skip
    return grad


def _module_for(
    operation: str, activations: Sequence[Tensor], weights: Sequence[Tensor | None] = ()
) -> Any:
    """Return the compiled module if it supports the tensors, else None."""
    given = [tensor for tensor in weights if tensor is not None]
    odd = [t.dtype for t in activations if t.dtype not in (torch.float32, torch.bfloat16)]
    odd += [t.dtype for t in given if t.dtype is not torch.float32]
    reason = f"dtype {odd[0]}" if odd else native.why_not(*activations, *given)
    if reason:
        native.note_fallback(operation, reason)
    return None if reason else native.module()


def _spmm(module: Any, values: Tensor, b: Blocks, x: Tensor, bias: Tensor | None) -> Tensor:
    threads = torch.get_num_threads()
    arranged, y = torch.empty_like(values), x.new_empty(x.shape[0], b.rows)
    module.gather_values(values, b.src, arranged, threads)
    module.spmm(
        arranged, b.seg_ptr, b.col, b.src, b.row_block, b.col_block, x, bias, y, threads,
        native.isa(),
    )  # fmt: skip
    return y
