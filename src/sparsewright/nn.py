"""Documented import path of the compressed layers; they live in `layers`."""

from sparsewright.layers.csr_linear import SparseLinear

__all__ = ["SparseLinear"]
