"""Documented import paths of compressed layers, their conversion and their checkpoints."""

from sparsewright.layers import SparseLinear

__all__ = ["SparseLinear"]
