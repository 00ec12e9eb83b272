"""Construction of distributions from user options: a name, a dict or a function."""

from __future__ import annotations

from collections.abc import Mapping

from sparsewright.core.distribution import Distribution
from sparsewright.core.options import make_of_type
from sparsewright.distributions.er import ER
from sparsewright.distributions.erk import ERK
from sparsewright.distributions.given import FromFunction, Layers, LevelFunction
from sparsewright.distributions.global_ import GlobalMagnitude
from sparsewright.distributions.lamp import LAMP
from sparsewright.distributions.uniform import Uniform
from sparsewright.distributions.uniform_plus import UniformPlus
from sparsewright.errors import OptionError, OptionTypeError

ALL: tuple[type[Distribution], ...] = (
    *(Uniform, ER, ERK, UniformPlus, GlobalMagnitude, LAMP),
    Layers,
)
"""The distributions that a config can name. To add one, write its file and add it here."""

_ALIASES = {"global_magnitude": GlobalMagnitude.name}

_FROM_SCORES = {
    "owl": "owl(scores, sparsity) needs scores from calibration data, which an algorithm does not "
    "have. For a trained model, call sparsewright.oneshot with this distribution. Or call "
    "sparsewright.distributions.owl yourself, and pass its levels as "
    "{'layers': {'<block>.*': level}}."
}
"""Functions that a config cannot name, with the advice to give: `{name: advice}`."""

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
    ERK(power=0.5, dense=(), budget='each')
    """
    if distribution is None:
        return Uniform()
    if isinstance(distribution, Distribution):
        return distribution
    if isinstance(distribution, str):
        distribution = {"type": distribution}
    if isinstance(distribution, Mapping):
        kind = {"type": Layers.name} if "layers" in distribution else {}
        _check_has_scores(distribution.get("type"))
        return make_of_type("distribution", kind | dict(distribution), ALL, _ALIASES)
    if callable(distribution) and not isinstance(distribution, type):
        return FromFunction(distribution)
    raise OptionTypeError(
        "distribution",
        distribution,
        "a name, a dict with 'type' or 'layers', or a function (shapes, level) -> {name: level}",
    )


def _check_has_scores(kind: object) -> None:
    """Raise OptionError if a distribution needs scores, which only its function can receive."""
    advice = _FROM_SCORES.get(kind.lower()) if isinstance(kind, str) else None
    if advice is not None:
        names = ", ".join(member.name for member in ALL)
        raise OptionError("distribution", kind, f"one of {names}", advice=advice)
