"""A linear layer that stores and multiplies only its live connections."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.core.errors import AttachError, ShapeError
from sparsewright.core.packing import read_mask
from sparsewright.init import InitMethod, call_init_method, make_init_method
from sparsewright.kernels import csr
from sparsewright.nn.functional import Factors, capture_factors, sparse_linear

# All that `register_forward_hook` and its like write to.
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


class SparseLinear(nn.Module):
    """`y = x Wᵀ + b` with a weight that is `[nnz]` values and their index.

    The parameter is `values`, an ordinary small dense tensor to optimizers, clipping and data
    parallelism. `state_dict` gives `weight` and `weight_mask` instead, as a masked `nn.Linear`
    does, and takes them: checkpoints are interchangeable. On the CPU; values are float32,
    activations float32 or bfloat16 (others take a slower path).

    Under `torch.compile` a mask update compiles nothing anew while the number of connections stays.
    Where it changes, set `torch._dynamo.config.force_parameter_static_shapes = False`, which makes
    that once instead of each time. Averages of `values` over different masks mean nothing: average
    a masked model that loads the `state_dict`.

    Args:
        in_features: columns of the weight.
        out_features: its rows.
        bias: whether there is a bias.
        sparsity: fraction of the weight that is not there, 0..1.
        init_method: which connections live, as for a sparsity algorithm.

    Attributes:
        values: float32 `[nnz]`, in CSR order.
        bias: float32 `[out]` or None.
        layout: the index.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        sparsity: float = 0.9,
        init_method: str | InitMethod = "random",
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features) if in_features else 0.0
        weight = _float32(out_features, in_features).uniform_(-bound, bound)
        mask = call_init_method(make_init_method(init_method), weight, sparsity)
        layout = csr.layout_from_mask(mask)
        self._take(nn.Parameter(csr.gather_dense(weight, layout)), layout, None)
        if bias:
            self.bias = nn.Parameter(_float32(out_features).uniform_(-bound, bound))

    def _take(self, values: nn.Parameter, layout: csr.Layout, bias: nn.Parameter | None) -> None:
        self.in_features, self.out_features = layout.cols, layout.rows
        self.values, self.layout = values, layout
        self.register_parameter("bias", bias)
        self.captured: dict[int, list[Factors]] | None = None

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Tensor) -> SparseLinear:
        """The same layer compressed.

        The weight's Parameter becomes `values`, the very same object with other data, so that
        optimizers which have it keep it. The gradient and the user's hooks follow. `linear` must
        not be used any more.

        Args:
            linear: a layer on the CPU, float32.
            mask: bool `[out, in]`.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layout = csr.layout_from_mask(mask)
        weight = linear._parameters["weight"]
        assert weight is not None
        _replace_both(weight, lambda t: csr.gather_dense(t, layout))
        layer._take(weight, layout, linear._parameters["bias"])
        _move_hooks(linear, layer)
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """The same layer as an `nn.Linear`; `values` becomes its weight, the same object.

        The gradient and the user's hooks follow. This layer must not be used any more.
        """
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = self.values
        _replace_both(linear.weight, lambda t: csr.scatter_dense(t, self.layout))
        linear.register_parameter("bias", self.bias)
        _move_hooks(self, linear)
        return linear.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The dense weight `[out, in]`, made anew and detached.

        Writing to it changes nothing, and a term of the loss that is made of it (weight decay, a
        norm) has no gradient: make it of `values`.
        """
        return csr.scatter_dense(self.values, self.layout)

    @property
    def weight_mask(self) -> Tensor:
        """The mask, bool `[out, in]`, made anew."""
        return csr.dense_mask(self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`.

        Raises:
            AttachError: the layer or its input is not on the CPU.
        """
        if x.device.type != "cpu" or self.values.device.type != "cpu":
            raise AttachError("SparseLinear", "its kernels run on the CPU; decompress() it first")
        if x.shape[-1] != self.in_features:
            raise ShapeError("input", x.shape, f"its last dimension must be {self.in_features}")
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        flat = x.reshape(-1, self.in_features)
        y = sparse_linear(flat, self.values, self.layout, self.bias)
        return y.reshape(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """Change which connections live: values that stay are carried over, new ones are 0.

        Args:
            mask: bool `[out, in]`.

        Returns:
            A function that carries over any other tensor that belongs to the values, `[nnz]`; the
            gradient is carried over already.
        """
        is_capturing = self.captured is not None
        capture_factors(self, False)
        old, self.layout = self.layout, csr.layout_from_mask(mask)
        capture_factors(self, is_capturing)
        carry = carry_over(old, self.layout)
        _replace_both(self.values, carry)
        return carry

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "weight"] = self.weight
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()
        destination[prefix + "weight_mask"] = self.weight_mask

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        rest = local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, *rest)
        shape = torch.Size([self.out_features, self.in_features])
        known = {prefix + name for name in ("weight", "weight_mask", "bias")}
        if strict:
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
        weight, bias = state_dict.get(prefix + "weight"), state_dict.get(prefix + "bias")
        if weight is None:
            missing_keys.append(prefix + "weight")
        elif _shape(weight) != shape:
            error_msgs.append(f"size mismatch for {prefix}weight: {_shape(weight)}, not {shape}")
            return
        if prefix + "weight_mask" in state_dict:
            try:
                mask = read_mask(state_dict[prefix + "weight_mask"], shape)
            except ShapeError as error:
                error_msgs.append(f"{prefix}weight_mask: {error}")
                return
            if not torch.equal(mask, self.weight_mask):
                self.set_mask(mask)
        if weight is not None:
            self.values.copy_(csr.gather_dense(weight.to(self.values.dtype), self.layout))
        if self.bias is not None:
            if bias is None:
                missing_keys.append(prefix + "bias")
            elif _shape(bias) != self.bias.shape:
                error_msgs.append(f"size mismatch for {prefix}bias: {_shape(bias)}")
            else:
                self.bias.copy_(bias)

    def extra_repr(self) -> str:
        """Shape, live connections and level."""
        total = self.in_features * self.out_features
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, kept={self.layout.nnz} of {total}"
        )


def carry_over(old: csr.Layout, new: csr.Layout) -> Callable[[Tensor], Tensor]:
    """A function that carries a tensor `[nnz]` from one index to another: what is new is 0."""
    source = csr.match_entries(old, new)
    is_new, source = source < 0, source.clamp_(min=0)

    def carry(tensor: Tensor) -> Tensor:
        if not old.nnz:
            return tensor.new_zeros(new.nnz)
        return tensor.index_select(0, source).masked_fill_(is_new, 0)

    return carry


def _float32(*shape: int) -> Tensor:
    """What the kernels take, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _shape(value: object) -> object:
    """A tensor's shape; of anything else, what it is."""
    return value.shape if isinstance(value, Tensor) else type(value).__name__


def replace_data(param: nn.Parameter, data: Tensor) -> None:
    """Give a Parameter other data, perhaps of another shape.

    Data of the same shape is copied: data-parallel wrappers hold on to the node that accumulates
    the Parameter's gradient. Data of another shape must not meet that node, which remembers the
    old one and lives as long as any graph of an earlier step (a loss that the loop holds on to). A
    change of dtype makes autograd drop it; hooks stay.
    """
    if data.shape == param.shape:
        with torch.no_grad():
            param.copy_(data)
        return
    param.data = param.data.new_empty(0, dtype=torch.float16)
    param.data = data


def _replace_both(param: nn.Parameter, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace a Parameter's data and gradient by `fn` of them."""
    grad, param.grad = param.grad, None
    replace_data(param, fn(param.data))
    if grad is not None:
        param.grad = fn(grad)


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a layer the user's hooks on another (the same dicts: handles stay good)."""
    for hooks in _HOOKS:
        setattr(new, hooks, getattr(old, hooks))


def check_compressible(module: nn.Module) -> str:
    """Why a module cannot be compressed; "" if it can."""
    if type(module) is not nn.Linear:
        return f"no kernel for {type(module).__name__} layers"
    weight = module.weight
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device.type}; the kernels run on the CPU"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}; the kernels take float32"
    if "weight" not in module._parameters:
        return "its weight is computed by a parametrization"
    return ""
