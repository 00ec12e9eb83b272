"""Calibration, which uses data to measure a model: one-shot pruning after training."""

from sparsewright.calibration.input_statistics import InputStatistics
from sparsewright.calibration.measure import statistics

__all__ = ["InputStatistics", "statistics"]
