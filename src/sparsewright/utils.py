"""Documented import path of schedules, score shapers and mask builders, which live elsewhere."""

from sparsewright.core.make_schedule import make_hyperparam_schedule
from sparsewright.core.masks import (
    make_mask_drop_minimum,
    make_mask_grow_maximum,
    make_mask_topk_sparsity,
)
from sparsewright.core.schedules import (
    Constant,
    Cosine,
    Cubic,
    Cycling,
    Exp,
    HyperParameterSchedule,
    Lambda,
    Linear,
    Power,
)
from sparsewright.core.structure import ScoreShaper
from sparsewright.core.update_schedules import (
    FreqSchedule,
    ListSchedule,
    UpdateSchedule,
    make_update_schedule,
)
from sparsewright.structures.shapers import (
    InputGroupScoreShaper,
    OutputGroupScoreShaper,
    ScoreFlattener,
)

__all__ = [
    "Constant",
    "Cosine",
    "Cubic",
    "Cycling",
    "Exp",
    "FreqSchedule",
    "HyperParameterSchedule",
    "InputGroupScoreShaper",
    "Lambda",
    "Linear",
    "ListSchedule",
    "OutputGroupScoreShaper",
    "Power",
    "ScoreFlattener",
    "ScoreShaper",
    "UpdateSchedule",
    "make_hyperparam_schedule",
    "make_mask_drop_minimum",
    "make_mask_grow_maximum",
    "make_mask_topk_sparsity",
    "make_update_schedule",
]
