"""Construction of distributions from user options: a name, a dict or a function."""

from __future__ import annotations

from collections.abc import Mapping

from sparsewright.core.distribution import Distribution
from sparsewright.core.options import make_of_type
from sparsewright.distributions.erk import ERK
from sparsewright.distributions.given import FromFunction, Layers, LevelFunction
from sparsewright.distributions.global_ import GlobalMagnitude
from sparsewright.distributions.uniform import Uniform
from sparsewright.errors import OptionTypeError

ALL: tuple[type[Distribution], ...] = (Uniform, ERK, GlobalMagnitude, Layers)
"""The distributions that a config can name. To add one, write its file and add it here."""

_ALIASES = {"global_magnitude": GlobalMagnitude.name}

DistributionLike = str | Mapping[str, object] | Distribution | LevelFunction | None
"""A name, a dict with `type`, `{"layers": {glob: level}}`, a function, a Distribution or None."""


def make_distribution(distribution: DistributionLike) -> Distribution:
    """Build a distribution from a user option.

    Args:
        distribution: a name, in upper or lower case; a dict `{"type": name, ...}` with the
            constructor arguments, or `{"layers": {glob: level}}`; a function
            `(shapes, level) -> {name: level}`; a Distribution; None: uniform.

    Raises:
        OptionError: the type or an argument is unknown, or an argument is missing.
        OptionTypeError: `distribution` has any other type.

    >>> make_distribution({"type": "erk", "power": 0.5})
    ERK(power=0.5, dense=(), budget='sparse')
    """
    if distribution is None:
        return Uniform()
    if isinstance(distribution, Distribution):
        return distribution
    if isinstance(distribution, str):
        distribution = {"type": distribution}
    if isinstance(distribution, Mapping):
        kind = {"type": Layers.name} if "layers" in distribution else {}
        return make_of_type("distribution", kind | dict(distribution), ALL, _ALIASES)
    if callable(distribution) and not isinstance(distribution, type):
        return FromFunction(distribution)
    raise OptionTypeError(
        "distribution",
        distribution,
        "a name, a dict with 'type' or 'layers', or a function (shapes, level) -> {name: level}",
    )
