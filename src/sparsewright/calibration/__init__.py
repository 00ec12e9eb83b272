"""Calibration, which uses data to measure a model: one-shot pruning after training."""

from sparsewright.calibration.oneshot import oneshot

__all__ = ["oneshot"]
