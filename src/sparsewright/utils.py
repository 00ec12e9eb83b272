"""Public import path for schedules, score shapers and mask builders."""

from sparsewright.core.masks import (
    make_mask_drop_minimum,
    make_mask_grow_maximum,
    make_mask_topk_sparsity,
)
from sparsewright.core.structure import ScoreShaper
from sparsewright.schedules import (
    Constant,
    Cosine,
    Cubic,
    Cycling,
    Exp,
    FreqSchedule,
    HyperParameterSchedule,
    Lambda,
    Linear,
    ListSchedule,
    Power,
    ScheduleLike,
    UpdateLike,
    UpdateSchedule,
)
from sparsewright.schedules.parse import make_hyperparam_schedule, make_update_schedule
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
    "ScheduleLike",
    "ScoreFlattener",
    "ScoreShaper",
    "UpdateLike",
    "UpdateSchedule",
    "make_hyperparam_schedule",
    "make_mask_drop_minimum",
    "make_mask_grow_maximum",
    "make_mask_topk_sparsity",
    "make_update_schedule",
]
