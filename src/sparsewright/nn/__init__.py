"""Layers whose weights are really sparse: only live connections are stored and multiplied."""

from sparsewright.nn.linear import SparseLinear

__all__ = ["SparseLinear"]
