"""The product with a compressed weight, for autograd and for `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from sparsewright.kernels import csr
from sparsewright.kernels.csr import Blocks, Layout

Factors = tuple[Tensor, Tensor]
"""x `[tokens, cols]` and dy `[tokens, rows]`: the dense gradient of the weight is `dyᵀ x`."""

# By the address of the layer's index, all that compiled code knows of a layer: whether factors
# are wanted is then nothing that it depends on, and an update step compiles nothing anew.
_capturing: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()


def capture_factors(layer: Any, wanted: bool) -> None:
    """Collect the factors of each backward pass in `layer.captured`, or forget them and stop.

    Args:
        layer: a `SparseLinear`; its `captured` becomes None, or a dict: backward pass -> factors.
        wanted: collect.
    """
    _capturing.pop(layer.layout.row_ptr.data_ptr(), None)
    layer.captured = None
    if wanted:
        layer.captured = {}
        _capturing[layer.layout.row_ptr.data_ptr()] = layer


def this_pass() -> int:
    """The number of the backward pass that is running; -1: none."""
    number: int = torch._C._current_graph_task_id()
    return number


def _capture(row_ptr: Tensor, x: Tensor, dy: Tensor, may_be_reused: bool) -> None:
    """Keep the factors of one product, if they are wanted."""
    layer: Any = _capturing.get(row_ptr.data_ptr())
    if layer is not None:
        pair = (x.detach(), dy.detach())
        # Compiled code writes to its buffers again once it has used them.
        pair = (pair[0].clone(), pair[1].clone()) if may_be_reused else pair
        layer.captured.setdefault(this_pass(), []).append(pair)


def sparse_linear(x: Tensor, values: Tensor, layout: Layout, bias: Tensor | None = None) -> Tensor:
    """`x Wᵀ + bias` with a compressed weight; differentiable in x, values and bias.

    Args:
        x: `[tokens, cols]`.
        values: `[nnz]`, the live values of W in CSR order.
        layout: the index of W `[rows, cols]`.
        bias: `[rows]` or None.

    Returns:
        `[tokens, rows]`, x's dtype.
    """
    if torch.compiler.is_compiling():
        y: Tensor = _op(x, values, bias, *_flatten(layout))
        return y
    return _apply(x, values, bias, layout)


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, values: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
        return csr.linear(x, values, layout, bias)

    # Apart from `forward`, for `torch.func.grad`.
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, values, bias, ctx.layout = inputs
        ctx.save_for_backward(x, values)
        ctx.has_bias = bias is not None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            _capture(ctx.layout.row_ptr, x, dy, may_be_reused=False)
        dx = csr.input_grad(dy, values, ctx.layout) if ctx.needs_input_grad[0] else None
        dvalues = csr.values_grad(dy, x, ctx.layout) if ctx.needs_input_grad[1] else None
        dbias = dy.sum(0, dtype=values.dtype) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return dx, dvalues, dbias, None


_apply: Callable[..., Tensor] = _SparseLinear.apply


def _flatten(layout: Layout) -> tuple[list[Tensor], list[int]]:
    """A layout as what a torch operator can take: tensors and integers."""
    f, t = layout.forward, layout.transposed
    tensors = [layout.row_ptr, layout.col_idx, f.seg_ptr, f.col, f.src, t.seg_ptr, t.col, t.src]
    sizes = [layout.rows, layout.cols, f.row_block, f.col_block, t.row_block, t.col_block]
    return tensors, sizes


def _unflatten(index: list[Tensor], sizes: list[int]) -> Layout:
    rows, cols, *blocks = sizes
    forward = Blocks(rows, cols, blocks[0], blocks[1], *index[2:5])
    transposed = Blocks(cols, rows, blocks[2], blocks[3], *index[5:8])
    return Layout(rows, cols, index[0], index[1], forward, transposed)


@torch.library.custom_op("sparsewright::sparse_linear", mutates_args=())
def _op(
    x: Tensor, values: Tensor, bias: Tensor | None, index: list[Tensor], sizes: list[int]
) -> Tensor:
    return csr.linear(x, values, _unflatten(index, sizes), bias)


@_op.register_fake
def _(x: Tensor, values: Tensor, bias: Any, index: list[Tensor], sizes: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], sizes[0])


@torch.library.custom_op("sparsewright::sparse_linear_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, values: Tensor, index: list[Tensor], sizes: list[int]
) -> tuple[Tensor, Tensor]:
    layout = _unflatten(index, sizes)
    _capture(layout.row_ptr, x, dy, may_be_reused=True)
    return csr.input_grad(dy, values, layout), csr.values_grad(dy, x, layout)


@_backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, values: Tensor, index: list[Tensor], sizes: list[int]
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(values)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, bias, ctx.index, ctx.sizes = inputs
    ctx.save_for_backward(x, values)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, values = ctx.saved_tensors
    dx, dvalues = _backward_op(dy, x, values, ctx.index, ctx.sizes)
    dbias = dy.sum(0, dtype=values.dtype) if ctx.has_bias else None
    return dx, dvalues, dbias, [None] * len(ctx.index), None


_op.register_autograd(_backward, setup_context=_setup)
