"""Calibration, which measures a model with data: scores before training, pruning after training."""

from sparsewright.calibration.force import force
from sparsewright.calibration.grasp import grasp
from sparsewright.calibration.input_statistics import InputStatistics
from sparsewright.calibration.measure import statistics
from sparsewright.calibration.snip import snip
from sparsewright.calibration.synflow import synflow

__all__ = ["InputStatistics", "force", "grasp", "snip", "statistics", "synflow"]
