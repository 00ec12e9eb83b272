"""Structures, which define the entries of a weight that compete with each other."""

from sparsewright.core.rows import RowStructure, Unstructured
from sparsewright.core.structure import Structure
from sparsewright.structures.block import Block
from sparsewright.structures.channel import Channel
from sparsewright.structures.fan_in import FanIn
from sparsewright.structures.groups import Groups
from sparsewright.structures.make_structure import ALL, StructureLike, make_structure
from sparsewright.structures.n_m import NM

__all__ = [
    "ALL",
    "NM",
    "Block",
    "Channel",
    "FanIn",
    "Groups",
    "RowStructure",
    "Structure",
    "StructureLike",
    "Unstructured",
    "make_structure",
]
