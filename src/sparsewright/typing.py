"""Type names of options, hooks and functions, for annotations in your own code.

::

    from sparsewright.typing import LevelLike, UpdateLike
"""

from sparsewright.configure import ConfigLike
from sparsewright.core.counts import Level
from sparsewright.core.filters import FilterLike, ParamFilter
from sparsewright.core.hooks import MaskUpdateHook, Removable, SparsityHook
from sparsewright.core.step import Step
from sparsewright.distributions import DistributionLike
from sparsewright.init import InitMethod
from sparsewright.metrics import LogFunction
from sparsewright.schedules import ScheduleLike, UpdateLike
from sparsewright.session.replicas import ReplicaGroup
from sparsewright.session.settings import Choices, LevelLike
from sparsewright.structures import StructureLike

__all__ = [
    "Choices",
    "ConfigLike",
    "DistributionLike",
    "FilterLike",
    "InitMethod",
    "Level",
    "LevelLike",
    "LogFunction",
    "MaskUpdateHook",
    "ParamFilter",
    "Removable",
    "ReplicaGroup",
    "ScheduleLike",
    "SparsityHook",
    "Step",
    "StructureLike",
    "UpdateLike",
]
