"""Levels given by the user, with globs or with a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsewright.core.counts import Level, as_decimal
from sparsewright.core.distribution import Distribution, Statistics
from sparsewright.core.filters import matched
from sparsewright.errors import MissingOptionError, OptionError, OptionTypeError

LevelFunction = Callable[[Mapping[str, torch.Size], float], Mapping[str, float]]
"""A function `(shapes, level) -> {name: level}`."""


@dataclass
class Layers(Distribution):
    """Set levels by glob. A layer that matches no glob gets the requested level.

    Args:
        layers: `{glob: level}`, levels 0..1; the first glob that matches a layer counts.

    Raises:
        LevelError: a level is outside 0..1.
        OptionTypeError: `layers` is not a dict from globs to numbers.
    """

    name: ClassVar[str] = "layers"

    layers: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Mapping):
            raise OptionTypeError("layers", self.layers, "a dict {glob: level}")
        for glob, level in self.layers.items():
            if not isinstance(glob, str):
                raise OptionTypeError("a key of layers", glob, "a glob")
            as_decimal(level, f"layers[{glob!r}]")
        self.has_one_level = not any(self.layers.values())

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the level of each layer.

        Raises:
            OptionError: a glob matches no layer.
        """
        found = matched("a key of layers", self.layers, list(shapes))
        asked = float(as_decimal(level))
        return {
            name: float(self.layers[found[name]]) if name in found else asked for name in shapes
        }

    def reasons(self, shapes: Mapping[str, torch.Size], level: Level) -> Mapping[str, str]:
        """Return the glob that sets each layer's level."""
        found = matched("a key of layers", self.layers, list(shapes))
        return {name: f"matches {found[name]!r}" if name in found else "" for name in shapes}


class FromFunction(Distribution):
    """Compute levels with a user's function.

    Args:
        function: `(shapes, level) -> {name: level}`; called each time the requested level changes.
    """

    name: ClassVar[str] = "function"

    def __init__(self, function: LevelFunction) -> None:
        self.function = function

    def __call__(
        self, shapes: Mapping[str, torch.Size], level: Level, statistics: Statistics
    ) -> Mapping[str, float]:
        """Return the levels that the function returns, after checking them.

        Raises:
            LevelError: a level is outside 0..1.
            OptionError: a name is missing, or is not in `shapes`.
            OptionTypeError: the function did not return `{name: level}`.
        """
        source = f"the distribution {getattr(self.function, '__name__', repr(self))}"
        levels = self.function(shapes, float(as_decimal(level)))
        if not isinstance(levels, Mapping):
            raise OptionTypeError(f"the result of {source}", levels, "a dict {name: level}")
        for name in levels:
            if name not in shapes:
                raise OptionError("layer", name, list(shapes), where=f"the result of {source}")
        for name in shapes:
            if name not in levels:
                raise MissingOptionError(
                    f"a level for {name!r}", f"the result of {source}", value=levels
                )
        return {
            name: float(as_decimal(levels[name], f"the level for {name!r} from {source}"))
            for name in shapes
        }

    def reasons(self, shapes: Mapping[str, torch.Size], level: Level) -> Mapping[str, str]:
        """Return the name of the function for each layer."""
        return dict.fromkeys(shapes, repr(self))

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))
