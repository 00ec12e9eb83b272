"""Documented import paths of compressed layers, which live in `layers`, and of their conversion."""

from sparsewright.layers import SparseLinear

__all__ = ["SparseLinear"]
