"""Count the connections that a configuration entry keeps in each weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.counts import num_kept
from sparsewright.core.structure import Structure
from sparsewright.init import InitMethod, from_zeros, name_of_init_method, score_of
from sparsewright.plan.forecast import Forecast
from sparsewright.schedules.schedule import constant_value


@dataclass(frozen=True)
class Counts:
    """Live connections of an entry's weights at one time.

    Attributes:
        each: count by full name; None if it depends on the weights' values.
        total: count over all weights; None if it is unknown.
        levels: level by full name; None if it depends on the weights' values.
    """

    each: Mapping[str, int | None]
    total: int | None
    levels: Mapping[str, float | None]

    def estimate(self, weights: Mapping[str, Tensor], level: float) -> dict[str, int]:
        """Return the count of each weight; for an unknown count, the count of its level.

        Args:
            weights: all weights of the entry by full name.
            level: level of the weights whose own level is unknown, 0..1.
        """
        found = {}
        for name, count in self.each.items():
            own = self.levels[name]
            at_level = num_kept(level if own is None else own, weights[name].numel())
            found[name] = at_level if count is None else count
        return found


class _Given:
    """The weights and scores that a distribution can read."""

    def __init__(self, weights: Mapping[str, Tensor], init_method: InitMethod) -> None:
        self._weights, self._init_method = weights, init_method

    def weight(self, name: str) -> Tensor:
        """Return the weight of this name."""
        return self._weights[name].detach()

    def score(self, name: str) -> Tensor | None:
        """Return the scores of this name for the first masks."""
        return score_of(self._init_method, name, self.weight(name))


@dataclass(frozen=True)
class Course:
    """Levels and live connections of an entry's weights over a run.

    Attributes:
        start: counts before the first step.
        end: counts after the last step.
        estimates: estimated counts by full name: before the first step, after the last step, and
            in each stretch of the forecast.
    """

    start: Counts
    end: Counts
    estimates: Sequence[Mapping[str, int]]


def count_kept(
    algorithm: SparsityAlgorithm,
    forecast: Forecast,
    weights: Mapping[str, Tensor],
    structures: Mapping[str, Structure],
) -> Course:
    """Return the live connections of each weight and of all weights over a run.

    Args:
        algorithm: the entry's algorithm.
        forecast: the algorithm's forecast.
        weights: all weights of the entry by full name; may be on the meta device.
        structures: structure of each weight.

    Raises:
        LevelError: the structure, or the distribution over these weights, cannot reach a level.
        OptionError: a glob of the distribution matches no weight.
    """
    are_there = not any(weight.is_meta for weight in weights.values())
    first, last = forecast.level[0][1], forecast.level[-1][1]
    start = _at_start(algorithm, forecast, weights, structures, are_there)
    end = start
    if forecast.updates:
        # The distribution runs again only when the level changes. With a constant level, the
        # layer levels computed from the initial weights stay.
        is_fixed = constant_value(algorithm.schedules["sparsity"]) is not None
        is_known = are_there and is_fixed and forecast.starts_sparse
        end = _at(algorithm, last, weights, structures, is_known)
    estimates = [start.estimate(weights, first), end.estimate(weights, last)]
    for stretch in forecast.stretches:
        if stretch.level is None:
            counts = _dense(weights)
        elif stretch.level == last:
            counts = end
        else:
            counts = _at(algorithm, stretch.level, weights, structures, are_known=False)
        estimates.append(counts.estimate(weights, last if stretch.level is None else stretch.level))
    return Course(start, end, estimates)


def why_levels(
    algorithm: SparsityAlgorithm, forecast: Forecast, weights: Mapping[str, Tensor]
) -> dict[str, str]:
    """Return why each weight has its level at the end of the run, as `{name: phrase}`.

    The phrase is "" if the weight has the requested level.
    """
    distribution = algorithm.distribution
    if distribution.is_uniform or not weights:
        return dict.fromkeys(weights, "")
    shapes = {name: weight.shape for name, weight in weights.items()}
    reasons = distribution.reasons(shapes, forecast.level[-1][1])
    return {name: reasons.get(name, f"by {distribution.name}") for name in weights}


def _at_start(
    algorithm: SparsityAlgorithm,
    forecast: Forecast,
    weights: Mapping[str, Tensor],
    structures: Mapping[str, Structure],
    are_there: bool,
) -> Counts:
    """Count the connections of the initial masks.

    The count is unknown if a user's function, or the zeros in the weights, set the masks.
    """
    if not forecast.starts_sparse:
        return _dense(weights)
    init = name_of_init_method(algorithm.init_method)
    if init == name_of_init_method(from_zeros) or callable(init):
        return _unknown(weights)
    return _at(algorithm, forecast.level[0][1], weights, structures, are_there)


def _dense(weights: Mapping[str, Tensor]) -> Counts:
    sizes = {name: weight.numel() for name, weight in weights.items()}
    return Counts(sizes, sum(sizes.values()), dict.fromkeys(weights, 0.0))


def _unknown(names: Iterable[str], total: int | None = None) -> Counts:
    return Counts(dict.fromkeys(names), total, dict.fromkeys(names))


def _at(
    algorithm: SparsityAlgorithm,
    level: float,
    weights: Mapping[str, Tensor],
    structures: Mapping[str, Structure],
    are_known: bool,
) -> Counts:
    """Count the connections of the masks at one level.

    `are_known` means that the distribution will see exactly these weights.
    """
    distribution = algorithm.distribution
    shapes = {name: weight.shape for name, weight in weights.items()}
    if distribution.needs_weights and not are_known:
        distribution.check(shapes, level)
        is_plain = all(
            structures[n].rows(shape) == (1, shape.numel()) for n, shape in shapes.items()
        )
        is_exact = distribution.has_exact_total and is_plain
        whole = sum(shape.numel() for shape in shapes.values())
        return _unknown(shapes, num_kept(level, whole) if is_exact else None)
    levels: Mapping[str, float] = dict.fromkeys(shapes, level)
    if not distribution.is_uniform:
        levels = distribution(shapes, level, _Given(weights, algorithm.init_method))
    counts = {n: structures[n].num_kept(shape, levels[n]) for n, shape in shapes.items()}
    known = [count for count in counts.values() if count is not None]
    return Counts(counts, sum(known) if len(known) == len(counts) else None, levels)
