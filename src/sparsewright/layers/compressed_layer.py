"""The base class of compressed layers, which store `[nnz]` values and save dense checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.core.inference import outside_inference_mode
from sparsewright.core.interrupts import finish
from sparsewright.core.packing import read_mask
from sparsewright.errors import AttachError, SparsewrightError
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.layers.dense_weight import DenseWeight, dense_weight, tracked
from sparsewright.taps.captured import CapturedTap
from sparsewright.torch_private import (
    call_load_hooks,
    is_recorded,
    is_transformed,
    not_compiled,
    saved_buffers,
)

_WEIGHT, _MASK = "weight", "weight" + MASK_SUFFIX

Carry = Callable[[Tensor], Tensor]
"""A function that converts a tensor `[nnz]`, with one entry per value, to another mask."""

PutIndex = Callable[[], None]
"""A function that installs a new index."""


class CompressedLayer(nn.Module, ABC):
    """A layer that stores only the live values of its weight.

    The parameter is `values`. Optimizers, gradient clipping and data parallelism see it as an
    ordinary small dense tensor. `state_dict` contains `weight` and `weight_mask` instead, like a
    masked layer's, and `load_state_dict` accepts them, so checkpoints are interchangeable.

    Attributes:
        values: live values `[nnz]`.
        weight_shape: shape of the dense weight.
        tap: tap that collects the dense gradient, while an algorithm follows the layer.
        loaded: after another mask was loaded, the values' previous shape, and a function that
            converts a tensor of that shape to the new mask.
    """

    values: nn.Parameter
    weight_shape: torch.Size
    tap: CapturedTap | None = None
    loaded: tuple[torch.Size, Carry] | None = None

    @abstractmethod
    def gather(self, dense: Tensor) -> Tensor:
        """Return the live entries `[nnz]` of a dense tensor of the weight's shape."""

    @abstractmethod
    def scatter(self, values: Tensor) -> Tensor:
        """Return `[nnz]` values as a dense tensor, with zeros elsewhere; differentiable."""

    @property
    @abstractmethod
    def index(self) -> object:
        """Return the object that stores the values' positions; each mask has a new one."""

    @property
    def weight(self) -> Tensor:
        """Return the dense weight as a new `DenseWeight`, differentiable in `values`."""
        is_exported = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
        if is_exported or is_recorded():
            return self.scatter(self.values)
        return self._read_weight()

    @weight.setter
    def weight(self, dense: Tensor) -> None:
        """Set the weight to a dense tensor that is zero where the mask is False.

        Raises:
            AttachError: the tensor is nonzero where the mask is False, or has a gradient, which
                would be lost.
        """
        has_graph = dense.requires_grad and not isinstance(dense, DenseWeight)
        if has_graph or is_transformed(dense):
            problem = (
                "the assigned tensor's gradient would be lost; "
                "pass `values` instead, as in named_parameters()"
            )
            raise AttachError(f"weight of a {type(self).__name__}", problem)
        self.weight.data = dense

    @not_compiled  # compiled code would miss writes to the weight, and the tap
    def _read_weight(self) -> Tensor:
        with tracked():
            dense = self.scatter(self.values)
            if self.tap is not None and self.tap.is_armed and dense.requires_grad:
                dense.register_hook(self.tap.capture)
            return dense if is_transformed(dense) else dense_weight(self, self.values, dense)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter other than the weight.

        Raises:
            AttachError: the name is "weight", which this layer stores as `values`.
        """
        if name == _WEIGHT:
            raise AttachError(
                f"weight of a {type(self).__name__}",
                "no other Parameter can replace it; assign a tensor, or call "
                "sparsewright.decompress(model) first",
            )
        super().register_parameter(name, param)

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse `torch.jit.script`.

        Raises:
            AttachError: always, because TorchScript does not support compressed layers.
        """
        problem = (
            "TorchScript does not support this layer; call sparsewright.decompress(copy) on a "
            "copy of the model, and script the copy"
        )
        raise AttachError(type(self).__name__, problem)

    @property
    @abstractmethod
    def weight_mask(self) -> Tensor:
        """Return a new bool mask of the weight's shape."""

    @abstractmethod
    def reindex(self, mask: Tensor) -> tuple[PutIndex, Carry]:
        """Return a function that installs a mask's index, and one that converts tensors to it."""

    @outside_inference_mode()
    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> Carry:
        """Change the live connections; those that stay keep their values, new ones start at 0.

        Args:
            mask: bool mask of the weight's shape.

        Returns:
            A function that converts any other tensor `[nnz]`, with one entry per value, to the new
            mask. The gradient is already converted.
        """
        put_index, carry = self.reindex(mask)
        data, grad = carried(self.values, carry)
        loaded = self.values.shape, carry

        def commit() -> None:
            put_index()
            replace_with(self.values, data, grad)
            self.loaded = loaded

        finish(commit)
        return carry

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle, without the tap."""
        return {**vars(self), "tap": None, "loaded": None}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        with torch.set_grad_enabled(keep_vars and torch.is_grad_enabled()):
            weight = self.weight
        destination[prefix + _WEIGHT] = weight if keep_vars else weight.detach()
        for name, tensor in self._others():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        destination[prefix + _MASK] = self.weight_mask

    def _others(self) -> list[tuple[str, Tensor]]:
        """Return parameters other than the weight, such as a bias, and saved buffers."""
        both = [*self._parameters.items(), *saved_buffers(self).items()]
        return [(name, t) for name, t in both if t is not None and t is not self.values]

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
        call_load_hooks(self, state_dict, prefix, *rest)
        known = {prefix + name for name in (_WEIGHT, _MASK, *(n for n, _ in self._others()))}
        if strict:
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
        weight = state_dict.get(prefix + _WEIGHT)
        if weight is None:
            missing_keys.append(prefix + _WEIGHT)
        elif _shape(weight) != self.weight_shape:
            error_msgs.append(
                f"size mismatch for {prefix}weight: expected {self.weight_shape}, "
                f"got {_shape(weight)}"
            )
            return
        if prefix + _MASK in state_dict:
            try:
                mask = read_mask(state_dict[prefix + _MASK], self.weight_shape)
            except SparsewrightError as error:
                error_msgs.append(f"{prefix}weight_mask: {error}")
                return
            if not torch.equal(mask, self.weight_mask):
                self.set_mask(mask)
        if weight is not None:
            self.values.copy_(self.gather(weight.to(self.values.dtype)))
        for name, own in self._others():
            given = state_dict.get(prefix + name)
            if given is None:
                missing_keys.append(prefix + name)
            elif _shape(given) != own.shape:
                error_msgs.append(
                    f"size mismatch for {prefix}{name}: expected {own.shape}, got {_shape(given)}"
                )
            else:
                own.copy_(given)


def _shape(value: object) -> object:
    """Return a tensor's shape, or the type's name of any other value."""
    return value.shape if isinstance(value, Tensor) else type(value).__name__


def other_buffers(layer: nn.Module) -> dict[str, Tensor | None]:
    """Return a layer's buffers other than the mask of its weight, such as the mask of a bias."""
    return {name: buffer for name, buffer in layer._buffers.items() if name != _MASK}


def replace_data(param: nn.Parameter, data: Tensor) -> None:
    """Replace a Parameter's data, possibly by data of another shape.

    Data of the same shape is copied, because data-parallel wrappers hold a reference to the node
    that accumulates the Parameter's gradient. Data of another shape needs a new node: the old one
    checks the old shape, and lives as long as the graph of any earlier step (such as a loss that
    the loop keeps). A change of dtype makes autograd drop the node; hooks stay.
    """
    if data.shape == param.shape:
        with torch.no_grad():
            param.copy_(data)
        return
    param.data = param.data.new_empty(0, dtype=torch.float16)
    param.data = data


def carried(param: nn.Parameter, fn: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return `fn` of a Parameter's data and of its gradient."""
    return fn(param.data), None if param.grad is None else fn(param.grad)


def replace_with(param: nn.Parameter, data: Tensor, grad: Tensor | None) -> None:
    """Replace a Parameter's data and gradient; after an interrupt, it can be called again."""
    param.grad = None
    replace_data(param, data)
    param.grad = grad


def replace_both(param: nn.Parameter, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace a Parameter's data and gradient by `fn` of them."""
    data, grad = carried(param, fn)
    finish(lambda: replace_with(param, data, grad))
