"""Compressed layers, one file per kind, and functions that other packages use to query them.

To add a kind, write a file with a `LayerKind` and add a line to `KINDS`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsewright.layers.compressed_layer import CompressedLayer
from sparsewright.layers.csr_linear import SparseLinear, SparseLinearKind
from sparsewright.layers.dims import dims_of_layer
from sparsewright.layers.kind import LayerKind

__all__ = [
    "KINDS",
    "CompressedLayer",
    "LayerKind",
    "SparseLinear",
    "as_compressed",
    "dense_form",
    "dims_of",
    "kind_of",
    "shown_name",
    "why_not_compress",
]

KINDS: tuple[LayerKind, ...] = (SparseLinearKind(),)


def as_compressed(module: nn.Module) -> CompressedLayer | None:
    """Return the module itself if it is a compressed layer, else None."""
    return module if isinstance(module, CompressedLayer) else None


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a layer, dense or compressed; None if it has no kind."""
    found = (kind for kind in KINDS if type(module) in (kind.dense, kind.compressed))
    return next(found, None)


def why_not_compress(module: nn.Module, param_name: str = "weight") -> str:
    """Return why a dense layer cannot be compressed; "" if it can."""
    kind = kind_of(module)
    if kind is None:
        return f"no kernel for {type(module).__name__} layers"
    if param_name != "weight":
        return f"the kernel for {type(module).__name__} layers compresses only `weight`"
    return kind.why_not(module)


def shown_name(module: nn.Module, param_name: str) -> str:
    """Return a parameter's name in `state_dict`, which shows live values as the weight."""
    layer = as_compressed(module)
    return "weight" if layer is not None and param_name == "values" else param_name


def dense_form(module: nn.Module, param: nn.Parameter) -> Tensor:
    """Return a parameter as filters see it: live values have the shape of their weight."""
    layer = as_compressed(module)
    if layer is not None and param is layer.values:
        return torch.empty(layer.weight_shape, dtype=param.dtype, device="meta")
    return param


def dims_of(module: nn.Module, param_name: str) -> tuple[int, int]:
    """Return the output and the input dimension of a weight of a layer, dense or compressed."""
    kind = kind_of(module) if as_compressed(module) is not None else None
    return dims_of_layer(type(module) if kind is None else kind.dense, param_name)
