"""The sparsity algorithms."""

from sparsewright.algorithms.ste import STE
from sparsewright.base import SparsityAlgorithm
from sparsewright.gmp import GMP
from sparsewright.rigl import RigL
from sparsewright.set import SET
from sparsewright.static import Static

__all__ = ["ALL", "GMP", "SET", "STE", "RigL", "Static"]

ALL: tuple[type[SparsityAlgorithm], ...] = (Static, GMP, SET, RigL, STE)
"""The algorithms that a configuration can refer to by `name`."""
