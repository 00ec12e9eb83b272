"""Structures, one class a file: which entries of a weight compete, and stand or fall together."""

from sparsewright.core.rows import RowStructure, Unstructured
from sparsewright.core.structure import Structure
from sparsewright.structures.groups import Groups

ALL: tuple[type[Structure], ...] = (Unstructured, Groups)

__all__ = ["ALL", "Groups", "RowStructure", "Structure", "Unstructured"]
