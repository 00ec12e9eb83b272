"""The product with a compressed weight, for autograd and for `torch.compile`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from sparsewright.kernels import csr
from sparsewright.kernels.csr import Blocks, Layout
from sparsewright.taps.captured import FactoredTap

# Compiled code knows a layer by its tensors alone. A token, a 0-d tensor whose number the operator
# reads, leads to the tap; arming one compiles nothing anew.
_taps: WeakValueDictionary[int, FactoredTap] = WeakValueDictionary()
_NO_TAP = 0
_numbers = itertools.count(_NO_TAP + 1)


def new_token() -> Tensor:
    """Return a token that leads to no tap."""
    return torch.tensor(_NO_TAP, device="cpu")


def give_token(token: Tensor, tap: FactoredTap) -> None:
    """Let a token lead to a tap, as long as that lives."""
    number = next(_numbers)
    _taps[number] = tap
    token.fill_(number)


def sparse_linear(
    x: Tensor,
    values: Tensor,
    layout: Layout,
    bias: Tensor | None = None,
    tap: FactoredTap | None = None,
) -> Tensor:
    """Return `x Wᵀ + bias` with a compressed weight; differentiable in x, values and bias.

    Args:
        x: `[tokens, cols]`.
        values: `[nnz]`, the live values of W in CSR order.
        layout: the index of W `[rows, cols]`.
        bias: `[rows]` or None.
        tap: what captures x and dy in the backward pass, once it is armed; None: nobody.

    Returns:
        `[tokens, rows]`, x's dtype.
    """
    return _apply(x, values, bias, layout, tap)


def compiled_sparse_linear(
    x: Tensor, values: Tensor, layout: Layout, bias: Tensor | None, token: Tensor
) -> Tensor:
    """Return the same as a custom operator, with the tap that a token leads to."""
    y: Tensor = _op(x, values, bias, token, *_flatten(layout))
    return y


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, values: Tensor, bias: Tensor | None, layout: Layout, tap: FactoredTap | None
    ) -> Tensor:
        return csr.linear(x, values, layout, bias)

    # Apart from `forward`, for `torch.func.grad`.
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, values, bias, ctx.layout, ctx.tap = inputs
        # Detached: a checkpoint that unpacks a saved parameter drops its hooks, up to torch 2.9.
        ctx.save_for_backward(x, values.detach())
        ctx.has_bias = bias is not None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        if ctx.needs_input_grad[1] and ctx.tap is not None and ctx.tap.is_armed:
            ctx.tap.capture(x, dy)
        dx = csr.input_grad(dy, values, ctx.layout) if ctx.needs_input_grad[0] else None
        dvalues = csr.values_grad(dy, x, ctx.layout) if ctx.needs_input_grad[1] else None
        dbias = dy.sum(0, dtype=values.dtype) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return dx, dvalues, dbias, None, None


_apply: Callable[..., Tensor] = _SparseLinear.apply


def _flatten(layout: Layout) -> tuple[list[Tensor], list[int]]:
    """A layout as what a torch operator can take: tensors and integers."""
    f, t = layout.forward, layout.transposed
    tensors = [layout.row_ptr, layout.col_idx, f.seg_ptr, f.col, f.src, t.seg_ptr, t.col, t.src]
    sizes = [layout.rows, layout.cols, f.row_block, f.col_block, t.row_block, t.col_block]
    return tensors, sizes


def _unflatten(index: Sequence[Tensor], sizes: Sequence[int]) -> Layout:
    rows, cols, *blocks = sizes
    forward = Blocks(rows, cols, blocks[0], blocks[1], *index[2:5])
    transposed = Blocks(cols, rows, blocks[2], blocks[3], *index[5:8])
    return Layout(rows, cols, index[0], index[1], forward, transposed)


@torch.library.custom_op("sparsewright::sparse_linear", mutates_args=())
def _op(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    token: Tensor,
    index: Sequence[Tensor],
    sizes: Sequence[int],
) -> Tensor:
    return csr.linear(x, values, _unflatten(index, sizes), bias)


@_op.register_fake
def _(
    x: Tensor, values: Tensor, bias: Any, token: Tensor, index: Any, sizes: Sequence[int]
) -> Tensor:
    return x.new_empty(x.shape[0], sizes[0])


@torch.library.custom_op("sparsewright::sparse_linear_backward", mutates_args=())
def _backward_op(
    dy: Tensor,
    x: Tensor,
    values: Tensor,
    token: Tensor,
    index: Sequence[Tensor],
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    layout = _unflatten(index, sizes)
    tap = _taps.get(int(token))
    if tap is not None and tap.is_armed:
        tap.capture(x.clone(), dy.clone())  # compiled code writes to its buffers again
    return csr.input_grad(dy, values, layout), csr.values_grad(dy, x, layout)


@_backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, values: Tensor, token: Tensor, index: Any, sizes: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(values)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, bias, ctx.token, ctx.index, ctx.sizes = inputs
    ctx.save_for_backward(x, values)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, values = ctx.saved_tensors
    dx, dvalues = _backward_op(dy, x, values, ctx.token, ctx.index, ctx.sizes)
    dbias = dy.sum(0, dtype=values.dtype) if ctx.has_bias else None
    return dx, dvalues, dbias, None, [None] * len(ctx.index), None


_op.register_autograd(_backward, setup_context=_setup)
