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

# Compiled code receives only a layer's tensors, so it finds the tap through a token: a 0-d tensor
# with a number that the operator reads. Arming a tap therefore does not recompile anything.
_taps: WeakValueDictionary[int, FactoredTap] = WeakValueDictionary()
_NO_TAP = 0
_numbers = itertools.count(_NO_TAP + 1)


def new_token() -> Tensor:
    """Return a token that leads to no tap."""
    return torch.tensor(_NO_TAP, device="cpu")


def give_token(token: Tensor, tap: FactoredTap) -> None:
    """Make a token lead to a tap, for the tap's lifetime."""
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
        layout: index of W `[rows, cols]`.
        bias: `[rows]`, or None.
        tap: tap that captures x and dy in the backward pass while it is armed; None: no tap.

    Returns:
        `[tokens, rows]`, in x's dtype.
    """
    # The alias keeps the parameter's hooks: torch 2.9 and earlier drop them when a checkpoint
    # unpacks a saved parameter.
    return _product(x, values.view_as(values), None, bias, layout, tap)


def compiled_sparse_linear(
    x: Tensor, values: Tensor, layout: Layout, bias: Tensor | None, token: Tensor
) -> Tensor:
    """Return `x Wᵀ + bias` from a custom operator, with the tap that a token leads to."""
    y: Tensor = _op(x, values, bias, token, *_flatten(layout))
    return y


class _Product(torch.autograd.Function):
    """Differentiate `sum(dy * (x Wᵀ))` with respect to x, values or dy, whichever is None.

    The derivative is `dy W` for x, `dyᵀ x` at the live positions for values, and `x Wᵀ` for dy. The
    sum is linear in each of the three, so each derivative of such a product is again such a
    product.
    """

    @staticmethod
    def forward(
        x: Any, values: Any, dy: Any, bias: Tensor | None, layout: Layout, tap: FactoredTap | None
    ) -> Tensor:
        if x is None:
            return csr.input_grad(dy, values, layout)
        if values is None:
            return csr.values_grad(dy, x, layout)
        return csr.linear(x, values, layout, bias)

    # `torch.func` requires `setup_context` to be separate from `forward`.
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *factors, bias, ctx.layout, ctx.tap = inputs
        ctx.save_for_backward(*factors)
        ctx.save_for_forward(*factors)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.shape = output.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs, layout = ctx.needs_input_grad, ctx.layout
        factors = ctx.saved_tensors  # read once: a checkpoint does not return them twice
        # If no values were saved, `values` below is a gradient, which no tap follows.
        tap = None if factors[1] is None else ctx.tap
        x, values, dy = (grad if factor is None else factor for factor in factors)
        if needs[1] and tap is not None and tap.is_armed:
            tap.capture(x, dy)
        # Calling `forward` directly saves 0.1 ms for each product that autograd need not record.
        product = _product if torch.is_grad_enabled() else _Product.forward
        by_x = product(None, values, dy, None, layout, tap) if needs[0] else None
        by_values = product(x, None, dy, None, layout, tap) if needs[1] else None
        by_dy = product(x, values, None, None, layout, tap) if needs[2] else None
        by_bias = grad.sum(0, dtype=ctx.bias_dtype) if needs[3] else None
        return by_x, by_values, by_dy, by_bias, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        *by_factor, by_bias, _, _ = tangents
        total, factors = None if by_bias is None else by_bias.expand(ctx.shape), ctx.saved_tensors
        for place, tangent in enumerate(by_factor):
            if tangent is not None:
                others = [*factors[:place], tangent, *factors[place + 1 :]]
                term = _product(*others, None, ctx.layout, None if place == 1 else ctx.tap)
                total = term if total is None else (total + term).to(term.dtype)
        assert total is not None
        return total

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        x, values, dy, bias, *rest = inputs
        if values is None or dims[1] is not None or dims[3] is not None:
            return _each_in_turn(info.batch_size, dims, inputs), 0
        # Rows of x or dy are independent, so a batch can be flattened to more rows.
        given, dim = (dy, dims[2]) if x is None else (x, dims[0])
        batch = given.movedim(dim, 0)
        flat = batch.flatten(0, 1)
        factors = (None, values, flat) if x is None else (flat, values, None)
        return _product(*factors, bias, *rest).unflatten(0, batch.shape[:2]), 0


def _each_in_turn(size: int, dims: Sequence[int | None], inputs: Sequence[Any]) -> Tensor:
    """Return the product of each sample of a batch, stacked."""
    if not size:  # compute one sample of zeros to get the shape of a sample
        inputs = [
            t if dim is None else t.new_zeros(t.shape[:dim] + (1,) + t.shape[dim + 1 :])
            for t, dim in zip(inputs, dims, strict=True)
        ]
    samples = [
        [t if dim is None else t.select(dim, index) for t, dim in zip(inputs, dims, strict=True)]
        for index in range(size or 1)
    ]
    return torch.stack([_product(*sample) for sample in samples])[:size]


_product: Callable[..., Tensor] = _Product.apply


def _flatten(layout: Layout) -> tuple[list[Tensor], list[int]]:
    """Return a layout as arguments that torch operators accept: tensors and integers."""
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
        tap.capture(x.clone(), dy.clone())  # compiled code reuses its buffers
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
