"""Distributions, which assign a level to each layer."""

from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.distributions.er import ER, er
from sparsewright.distributions.erk import ERK, erk
from sparsewright.distributions.given import Layers
from sparsewright.distributions.global_ import GlobalMagnitude, global_magnitude
from sparsewright.distributions.lamp import LAMP, lamp
from sparsewright.distributions.make_distribution import ALL, DistributionLike, make_distribution
from sparsewright.distributions.owl import owl
from sparsewright.distributions.uniform import Uniform, uniform
from sparsewright.distributions.uniform_plus import UniformPlus, uniform_plus

__all__ = [
    "ALL",
    "ER",
    "ERK",
    "LAMP",
    "Distribution",
    "DistributionLike",
    "GlobalMagnitude",
    "Layers",
    "Statistics",
    "Uniform",
    "UniformPlus",
    "er",
    "erk",
    "global_magnitude",
    "lamp",
    "make_distribution",
    "owl",
    "uniform",
    "uniform_plus",
]
