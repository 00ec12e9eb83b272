"""Calibration, which uses data to measure a model: scores of its weights before training."""

from sparsewright.calibration.force import force
from sparsewright.calibration.grasp import grasp
from sparsewright.calibration.snip import snip
from sparsewright.calibration.synflow import synflow

__all__ = ["force", "grasp", "snip", "synflow"]
