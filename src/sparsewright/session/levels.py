"""Levels per weight: the distribution divides the schedule's level among an algorithm's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.counts import as_decimal
from sparsewright.distributions import Distribution
from sparsewright.errors import StateError
from sparsewright.init import score_of
from sparsewright.session.parameter import SparseParameter
from sparsewright.wording import show


class Levels:
    """Compute the level of each weight, and cache the levels while the schedule's level is equal.

    Args:
        distribution: divides a level among weights.
    """

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution
        self._asked: float | None = None
        self._levels: dict[str, float] = {}
        self._seen: tuple[float, dict[str, float]] | None = None
        self._bounds_of: tuple[float, ...] | None = None
        self._bounds: dict[str, list[float]] = {}

    def set(self, asked: Tensor, among: Callable[[], Iterable[SparseParameter]]) -> None:
        """Compute the levels for a mask update, if the schedule's level has changed.

        Args:
            asked: the schedule's level, 0..1; a 0-d tensor.
            among: returns all weights of the algorithm.
        """
        self._seen = None
        level, weights = self._level(asked), list(among())
        if level != self._asked or any(p.name not in self._levels for p in weights):
            self._levels, self._asked = self._divide(level, weights), level

    def _level(self, asked: Tensor) -> float:
        # A distribution that does not use the level runs only once.
        return float(as_decimal(asked)) if self.distribution.uses_level else 0.0

    def of(
        self,
        parameter: SparseParameter,
        asked: Tensor,
        among: Callable[[], Iterable[SparseParameter]],
    ) -> Tensor:
        """Return the level of a weight.

        For a level other than that of the last `set`, the weights of this moment count, and
        later updates do not use the result.

        Args:
            parameter: the weight.
            asked: the schedule's level, 0..1; a 0-d tensor.
            among: returns all weights of the algorithm.
        """
        if self.distribution.is_uniform:
            return asked
        level, levels = self._level(asked), self._levels
        if level != self._asked or parameter.name not in levels:
            if self._seen is None or self._seen[0] != level or parameter.name not in self._seen[1]:
                self._seen = level, self._divide(level, list(among()))
            levels = self._seen[1]
        return torch.tensor(levels[parameter.name], dtype=torch.float64, device="cpu")

    def rename(self, new: Mapping[str, str]) -> None:
        """Rename weights: old full name -> new full name."""
        self._levels = {new.get(name, name): level for name, level in self._levels.items()}
        self._seen = None
        self._bounds = {new.get(name, name): levels for name, levels in self._bounds.items()}

    def _divide(self, level: float, among: Sequence[SparseParameter]) -> dict[str, float]:
        shapes = {parameter.name: parameter.shape for parameter in among}
        return dict(self.distribution(shapes, level, Weights(among)))

    def bounds(
        self,
        parameter: SparseParameter,
        levels: Sequence[float],
        among: Callable[[], Iterable[SparseParameter]],
    ) -> Sequence[float]:
        """Return a weight's level for each given level; `[]` if it depends on weight values.

        Raises:
            LevelError: the distribution cannot reach a level.
        """
        if self.distribution.is_uniform:
            return levels
        if self._bounds_of != tuple(levels) or parameter.name not in self._bounds:
            self._bounds, self._bounds_of = self._find_bounds(levels, list(among())), tuple(levels)
        return self._bounds[parameter.name]

    def _find_bounds(
        self, levels: Sequence[float], weights: Sequence[SparseParameter]
    ) -> dict[str, list[float]]:
        if self.distribution.needs_weights:
            shapes = {weight.name: weight.shape for weight in weights}
            for level in levels:
                self.distribution.check(shapes, level)
            return {name: [] for name in shapes}
        asked = levels if self.distribution.uses_level else [0.0] * len(levels)
        tables = {level: self._divide(level, weights) for level in dict.fromkeys(asked)}
        return {weight.name: [tables[level][weight.name] for level in asked] for weight in weights}

    def state_dict(self) -> dict[str, Any]:
        """Return the levels that depend on the weights of an earlier step.

        The entry `levels` is `[schedule's level, [[name, level], ...]]`, or an empty list if no
        levels were computed yet. It is not a dict because `torch.distributed.checkpoint` loads
        only those keys of a dict that already exist.
        """
        if not self.distribution.needs_weights:
            return {}
        if self._asked is None:
            return {"levels": []}
        return {"levels": [self._asked, [[name, level] for name, level in self._levels.items()]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises:
            StateError: the entry `levels` has another form, or a level is not a float in 0..1.
        """
        saved = state.get("levels", [])  # absent if levels do not depend on the weights
        if isinstance(saved, list) and not saved:
            self._asked, self._levels = None, {}
            return
        if not _is_pair(saved) or not _is_list_of_pairs(saved[1]):
            allowed = "[level, [[name, level], ...]]"
            raise StateError("the levels", f"expected {allowed}, got {show(saved)}")
        asked, of = saved
        for name, level in [*of, ["asked", asked]]:
            if not isinstance(name, str) or type(level) is not float or not 0 <= level <= 1:
                problem = f"expected a float in 0..1 for {show(name)}, got {show(level)}"
                raise StateError("the levels", problem)
        self._asked, self._levels = asked, dict(of)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _is_list_of_pairs(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_pair, value))


class Weights:
    """Weights of an algorithm, for distributions that use their values.

    Until all weights have their first masks, their scores are those of the init method.
    """

    def __init__(self, parameters: Sequence[SparseParameter]) -> None:
        self._parameters = {parameter.name: parameter for parameter in parameters}
        self._are_first = not all(parameter.is_initialized for parameter in parameters)

    def weight(self, name: str) -> Tensor:
        """Return a weight in its dense shape, by full name."""
        return self._parameters[name].storage.weight().detach()

    def score(self, name: str) -> Tensor | None:
        """Return the scores that rank a weight's entries among all entries, by full name."""
        if not self._are_first:
            return None
        return score_of(self._parameters[name].rule.init_method, name, self.weight(name))
