"""A plan: which weights become sparse, how sparse, when, and what a step then costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsewright.base import SparsityAlgorithm
from sparsewright.core.filters import (
    ParamFilter,
    default_sparse_param_filter,
    near_names,
    show_filter,
    why_dense_by_default,
)
from sparsewright.core.rows import as_structure
from sparsewright.dynamic import DynamicSparsityAlgorithm
from sparsewright.errors import OptionError, Report, SparsewrightError
from sparsewright.init import from_zeros, name_of_init_method
from sparsewright.layers import dense_form
from sparsewright.plan.forecast import Forecast
from sparsewright.session.route import check_place
from sparsewright.session.walk import named_weights


@dataclass(frozen=True)
class Entry:
    """One entry of the configuration: a filter and an algorithm.

    Attributes:
        place: where it is in the configuration.
        filter: what it picks.
        algorithm: the algorithm.
        forecast: what that will do.
    """

    place: str
    filter: ParamFilter
    algorithm: SparsityAlgorithm
    forecast: Forecast


@dataclass(frozen=True)
class Weight:
    """One parameter of the model.

    Attributes:
        name: full name.
        shape: its shape.
        dtype: its dtype.
        entry: the entry that it goes to; None: it stays dense.
        reason: why it stays dense.
        kept: live connections before the first step and after the last; None: not known before
            the weights are. Of a dense parameter all.
        is_compressed: whether only live values are stored.
        is_frozen: whether it has no gradient.
        tied_to: the name under which the same parameter came before; "" if it did not.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    entry: Entry | None
    reason: str
    kept: tuple[int | None, int | None]
    is_compressed: bool = False
    is_frozen: bool = False
    tied_to: str = ""

    @property
    def total(self) -> int:
        """Entries."""
        return self.shape.numel()


@dataclass
class Plan:
    """What a configuration will do to a model.

    Attributes:
        entries: the entries, in order.
        weights: all parameters, in the model's order.
        flops: name of a weight ("": everything else) -> FLOPs of a forward pass; None: not known.
        per: what `flops` are counted for.
        states: numbers that the optimizer keeps for each that it steps.
        notes: what could not be found out, and why.
    """

    entries: list[Entry]
    weights: list[Weight]
    flops: dict[str, int] = field(default_factory=dict)
    per: str = ""
    states: int = 2
    notes: list[str] = field(default_factory=list)

    @property
    def sparse(self) -> list[Weight]:
        """The weights that become sparse."""
        return [weight for weight in self.weights if weight.entry is not None]


class _Route:
    """An entry while parameters are routed; its parts are None if they are wrong."""

    def __init__(
        self, place: str, filter: ParamFilter | None, algorithm: SparsityAlgorithm | None
    ) -> None:
        self.place, self.filter, self.algorithm = place, filter, algorithm
        self.picked: list[str] = []

    def why_not(self, name: str, param: Tensor) -> str:
        """Why the filter leaves a parameter."""
        if self.filter is default_sparse_param_filter:
            return why_dense_by_default(name, param)
        return "no param_filter matches its name"


def make_plan(
    model: nn.Module,
    routes: Sequence[tuple[str, ParamFilter | None, SparsityAlgorithm | None]],
    forecasts: dict[int, Forecast],
    report: Report,
) -> Plan:
    """Route a model's parameters to the entries of a configuration.

    Args:
        model: the model; may be on the meta device, and is not changed.
        routes: place, filter and algorithm of each entry, in order; None: wrong, and reported.
        forecasts: by the algorithm's id.
        report: told of filters that pick nothing, and of parameters that cannot be sparse.
    """
    found = [_Route(*route) for route in routes]
    entries = {
        id(r): Entry(r.place, r.filter, r.algorithm, forecasts[id(r.algorithm)])
        for r in found
        if r.filter is not None and id(r.algorithm) in forecasts and r.algorithm is not None
    }
    weights: list[Weight] = []
    first: dict[int, str] = {}
    tied: list[tuple[str, Tensor, str]] = []
    for name, owner, param_name, param, reason in named_weights(model):
        dense = dense_form(owner, param)
        other = first.setdefault(id(param), name)
        tied_to = other if other != name else ""
        if tied_to:
            tied.append((name, dense, tied_to))
        chosen = None if reason else _choose(found, name, dense)
        if chosen is None:
            why = reason or _why_dense(found, name, dense)
            whole = 0 if is_lazy(param) else dense.numel()
            shape = torch.Size() if is_lazy(param) else dense.shape
            kept, is_frozen = (whole, whole), not param.requires_grad
            weights.append(
                Weight(
                    name, shape, param.dtype, None, why, kept, is_frozen=is_frozen, tied_to=tied_to
                )
            )
        elif chosen.algorithm is not None:
            try:
                chosen.algorithm.check_parameter(name, dense)
                check_place(owner, param_name, param, name)
            except SparsewrightError as error:
                report(chosen.place, error)
                continue
            if id(chosen) in entries:
                is_compressed = chosen.algorithm.storage == "compressed" and _can_compress(
                    owner, param_name
                )
                weights.append(_sparse(name, dense, param, entries[id(chosen)], is_compressed))
    _report_idle(found, list(first.values()), tied, report)
    return Plan(list(entries.values()), weights)


def _choose(routes: list[_Route], name: str, param: Tensor) -> _Route | None:
    """The first route whose filter picks a parameter."""
    for route in routes:
        if route.filter is not None and route.filter(name, param):
            route.picked.append(name)
            return route
    return None


def _why_dense(routes: list[_Route], name: str, param: Tensor) -> str:
    """Why no filter picks a parameter, once for each different reason."""
    reasons = [r.why_not(name, param) for r in routes if r.filter is not None]
    return "; ".join(dict.fromkeys(reasons)) or "there is no entry"


def _report_idle(
    routes: list[_Route], names: list[str], tied: list[tuple[str, Tensor, str]], report: Report
) -> None:
    """Report the filters that pick nothing; `tied`: name, parameter, the name that decides."""
    for route in routes:
        if route.filter is None or route.picked:
            continue
        near = near_names(route.filter, names)
        allowed = "a filter that matches a parameter no earlier entry takes"
        hint = f"; close names: {', '.join(near)}" if near else ""
        for name, param, other in tied:
            if route.filter(name, param):
                hint = f"; {name} is tied to {other}, under whose name it is decided"
                break
        report(route.place, OptionError("param_filter", _Shown(route.filter), allowed + hint))


class _Shown:
    """A filter in an error's sentence."""

    def __init__(self, param_filter: ParamFilter) -> None:
        self.text = show_filter(param_filter)

    def __repr__(self) -> str:
        return self.text


def _can_compress(owner: nn.Module, param_name: str) -> bool:
    """Whether `compress` takes a weight, as far as its layer tells."""
    weight = owner.get_parameter(param_name)
    is_weight = type(owner) is nn.Linear and param_name == "weight"
    return is_weight and weight.dtype == torch.float32


def _sparse(name: str, dense: Tensor, param: Tensor, entry: Entry, is_compressed: bool) -> Weight:
    forecast, algorithm = entry.forecast, entry.algorithm
    init = name_of_init_method(algorithm.init_method)
    start: int | None = _kept(algorithm, dense, forecast.level[0][1])
    if forecast.starts_sparse and (init == name_of_init_method(from_zeros) or callable(init)):
        start = None
    end = _kept(algorithm, dense, forecast.level[-1][1]) if forecast.updates else start
    is_frozen = not param.requires_grad
    return Weight(name, dense.shape, param.dtype, entry, "", (start, end), is_compressed, is_frozen)


def _kept(algorithm: SparsityAlgorithm, param: Tensor, level: float) -> int:
    """Live connections of a parameter at a level."""
    return as_structure(algorithm.score_shaper).num_kept(param.shape, level)


def needs_dense_gradient(weight: Weight) -> bool:
    """Whether update steps need the dense gradient of a weight."""
    algorithm = weight.entry and weight.entry.algorithm
    return isinstance(algorithm, DynamicSparsityAlgorithm) and algorithm.needs_dense_gradient
