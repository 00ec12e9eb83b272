"""A linear layer that stores and multiplies only its live connections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewright.errors import AttachError, ShapeError
from sparsewright.init import InitMethod, call_init_method, make_init_method
from sparsewright.kernels import csr
from sparsewright.layers.compressed_layer import (
    Carry,
    CompressedLayer,
    PutIndex,
    other_buffers,
    replace_both,
)
from sparsewright.layers.csr_product import (
    compiled_sparse_linear,
    give_token,
    new_token,
    sparse_linear,
)
from sparsewright.layers.kind import Cost, LayerKind
from sparsewright.taps.captured import CapturedTap, FactoredTap
from sparsewright.torch_private import is_recorded, is_transformed, move_hooks


class SparseLinear(CompressedLayer, nn.Linear):
    """Apply `y = x Wᵀ + b` with a weight that is stored as `[nnz]` values and an index.

    The parameter is `values`. Optimizers, gradient clipping and data parallelism see it as an
    ordinary small dense tensor. `state_dict` contains `weight` and `weight_mask` instead, like a
    masked `nn.Linear`'s, and `load_state_dict` accepts them, so checkpoints are interchangeable.
    The layer runs on the CPU. Values are float32; activations are float32 or bfloat16 (other types
    take a slower path).

    Under `torch.compile`, a mask update causes no recompilation while the number of connections
    stays the same. A changed number recompiles each time; to recompile only once, set
    `torch._dynamo.config.force_parameter_static_shapes = False`. An average of `values` over
    different masks is meaningless: load each `state_dict` into a masked model, and average those
    models.

    Args:
        in_features: columns of the weight.
        out_features: rows of the weight.
        bias: whether to add a bias.
        sparsity: sparsity level of the weight, 0..1.
        init_method: initializer that chooses the live connections, as in a sparsity algorithm.

    Attributes:
        values: float32 `[nnz]`, in CSR order.
        bias: float32 `[out]`, or None.
        layout: the index.
    """

    tap: FactoredTap | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        sparsity: float = 0.9,
        init_method: str | InitMethod = "random",
    ) -> None:
        nn.Module.__init__(self)
        bound = 1 / math.sqrt(in_features) if in_features else 0.0
        weight = _float32(out_features, in_features).uniform_(-bound, bound)
        mask = call_init_method(make_init_method(init_method), weight, sparsity)
        layout = csr.layout_from_mask(mask)
        values = nn.Parameter(csr.gather_dense(weight, layout))
        self._take(values, layout, None)
        if bias:
            self.bias = nn.Parameter(_float32(out_features).uniform_(-bound, bound))

    def _take(self, values: nn.Parameter, layout: csr.Layout, bias: nn.Parameter | None) -> None:
        self.in_features, self.out_features = layout.cols, layout.rows
        self.weight_shape = torch.Size([layout.rows, layout.cols])
        self.values, self.layout = values, layout
        self.register_parameter("bias", bias)
        self.token = new_token()

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Tensor) -> SparseLinear:
        """Convert a dense layer to a compressed one.

        The weight's Parameter becomes `values`: it remains the same object, with other data, so
        optimizers that have it keep it. The gradient and the user's hooks move with it. `linear`
        must not be used afterwards.

        Args:
            linear: a float32 layer on the CPU.
            mask: bool `[out, in]`.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layout, weight = csr.layout_from_mask(mask), linear.get_parameter("weight")
        replace_both(weight, lambda t: csr.gather_dense(t, layout))
        layer._take(weight, layout, linear.bias)
        move_hooks(linear, layer)
        layer._buffers = other_buffers(linear)
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """Convert this layer to an `nn.Linear`; `values` becomes its `weight`.

        The Parameter remains the same object. The gradient and the user's hooks move with it. This
        layer must not be used afterwards.
        """
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = self.values
        replace_both(linear.weight, self.scatter)
        linear.register_parameter("bias", self.bias)
        move_hooks(self, linear)
        linear._buffers = other_buffers(self)
        return linear.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle: without the tap, and with a new token."""
        return {**super().__getstate__(), "token": new_token()}

    def gather(self, dense: Tensor) -> Tensor:
        """Return the live entries `[nnz]` of a dense tensor `[out, in]`."""
        return csr.gather_dense(dense, self.layout)

    def scatter(self, values: Tensor) -> Tensor:
        """Return `[nnz]` values as a dense tensor `[out, in]`; differentiable."""
        is_traced = torch.compiler.is_compiling() or is_recorded()
        has_graph = torch.is_grad_enabled() and values.requires_grad
        if not (is_traced or has_graph or is_transformed(values)):
            return csr.scatter_dense(values, self.layout)
        flat, positions = (
            values.new_zeros(self.weight_shape.numel()),
            csr.flat_positions(self.layout),
        )
        return flat.index_put((positions,), values).reshape(self.weight_shape)

    @property
    def index(self) -> object:
        """Return the layout."""
        return self.layout

    @property
    def weight_mask(self) -> Tensor:
        """Return a new bool mask `[out, in]`."""
        return csr.dense_mask(self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x Wᵀ + b` of shape `[..., out]` for x of shape `[..., in]`.

        Raises:
            AttachError: the layer or its input is not on the CPU, or the input's dtype is not
                floating-point.
            ShapeError: the input's last dimension is not `in_features`.
        """
        if is_recorded():
            return self._forward_dense(x)
        if x.device.type != "cpu" or self.values.device.type != "cpu":
            raise AttachError(
                "SparseLinear",
                "its kernels run only on the CPU; keep layer and input there, or call "
                "sparsewright.decompress(model) first",
            )
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ShapeError("input", x.shape, f"its last dimension must be {self.in_features}")
        if not x.is_floating_point():
            problem = f"its input is {x.dtype}; pass float32 or another floating-point dtype"
            raise AttachError("SparseLinear", problem)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        flat = x.flatten(0, -2) if x.ndim > 1 else x.unsqueeze(0)
        if torch.compiler.is_compiling():
            y = compiled_sparse_linear(flat, self.values, self.layout, self.bias, self.token)
        else:
            y = sparse_linear(flat, self.values, self.layout, self.bias, self.tap)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _forward_dense(self, x: Tensor) -> Tensor:
        """Compute the forward pass with PyTorch operations only."""
        if torch.onnx.is_in_onnx_export():
            problem = (
                "ONNX does not support this layer; call sparsewright.decompress(copy) on a copy "
                "of the model, and export the copy"
            )
            raise AttachError("SparseLinear", problem)
        return F.linear(x, self.scatter(self.values), self.bias)

    def reindex(self, mask: Tensor) -> tuple[PutIndex, Carry]:
        """Build the index of a mask `[out, in]`."""
        new = csr.layout_from_mask(mask)
        return partial(setattr, self, "layout", new), carry_over(self.layout, new)

    def extra_repr(self) -> str:
        """Return the shape and the number of live connections, as text."""
        total = self.in_features * self.out_features
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, kept={self.layout.nnz} of {total}"
        )


def carry_over(old: csr.Layout, new: csr.Layout) -> Carry:
    """Return a function that converts a tensor `[nnz]` to another index, with 0 at new entries."""
    source = csr.match_entries(old, new)
    is_new, source = source < 0, source.clamp_(min=0)

    def carry(tensor: Tensor) -> Tensor:
        if not old.nnz:
            return tensor.new_zeros(new.nnz)
        return tensor.index_select(0, source).masked_fill_(is_new, 0)

    return carry


def _float32(*shape: int) -> Tensor:
    """Return an uninitialized float32 tensor on the CPU, regardless of PyTorch's defaults."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


class SparseLinearKind(LayerKind):
    """Compress `nn.Linear` layers in float32 on the CPU, with native kernels."""

    dense: ClassVar[type[nn.Module]] = nn.Linear
    compressed: ClassVar[type[CompressedLayer]] = SparseLinear

    def why_not(self, module: nn.Module) -> str:
        """Return why a layer cannot be compressed; "" if it can."""
        reason = super().why_not(module)
        if reason:
            return reason
        weight = module.get_parameter("weight")
        if weight.device.type != "cpu":
            return f"its weight is on {weight.device.type}; the kernels run only on the CPU"
        if weight.dtype != torch.float32:
            return f"its weight is {weight.dtype}; the kernels require float32"
        return ""

    def compress(self, module: nn.Module, mask: Tensor) -> SparseLinear:
        """Convert the layer to a `SparseLinear`; `weight` becomes its `values`."""
        assert isinstance(module, nn.Linear)
        return SparseLinear.from_linear(module, mask)

    def decompress(self, layer: CompressedLayer) -> nn.Linear:
        """Convert the layer to an `nn.Linear`; `values` becomes its `weight`."""
        assert isinstance(layer, SparseLinear)
        return layer.to_linear()

    def tap(self, layer: CompressedLayer) -> CapturedTap:
        """Return a tap that collects the factors x and dy."""
        assert isinstance(layer, SparseLinear)
        layer.tap = FactoredTap(layer.values, layer.weight_shape)
        give_token(layer.token, layer.tap)
        return layer.tap

    def cost(self, shape: Sequence[int], kept: int, dtype: torch.dtype) -> Cost:
        """Return the bytes of values and index, and the FLOPs of the live connections."""
        rows, cols = shape
        return Cost(kept * dtype.itemsize, _index_bytes(rows, cols, kept), 2 * kept)


def _index_bytes(rows: int, cols: int, kept: int) -> int:
    """Return the bytes of an index: CSR arrays, and blocks of the matrix and of its transpose."""
    density = kept / max(1, rows * cols)
    width = 160 if density > 0.15 else 192 if density > 0.07 else 256
    segments = 0
    for height, length in ((rows, cols), (cols, rows)):
        segments += height * math.ceil(length / min(width, max(1, length))) + 1
    return 4 * (rows + 1) + 4 * kept + 4 * segments + 2 * (2 + 4) * kept
