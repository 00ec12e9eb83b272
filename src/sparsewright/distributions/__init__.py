"""Distributions, which assign a level to each layer."""

from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.distributions.erk import ERK, erk
from sparsewright.distributions.given import Layers
from sparsewright.distributions.global_ import GlobalMagnitude, global_magnitude
from sparsewright.distributions.make_distribution import ALL, DistributionLike, make_distribution
from sparsewright.distributions.uniform import Uniform, uniform

__all__ = [
    "ALL",
    "ERK",
    "Distribution",
    "DistributionLike",
    "GlobalMagnitude",
    "Layers",
    "Statistics",
    "Uniform",
    "erk",
    "global_magnitude",
    "make_distribution",
    "uniform",
]
