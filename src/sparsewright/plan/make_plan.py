"""Decide which weights become sparse, and when, how sparse and in which storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
)
from sparsewright.core.structure import Structure
from sparsewright.errors import OptionError, Report, SparsewrightError
from sparsewright.layers import dense_form, kind_of
from sparsewright.plan.contents import Entry, Plan, Weight
from sparsewright.plan.forecast import Forecast
from sparsewright.plan.held import storage_of
from sparsewright.plan.kept import Course, count_kept, why_levels
from sparsewright.session.choice import check_place, why_misfit
from sparsewright.session.convert import Surroundings
from sparsewright.session.placed import weight_dims
from sparsewright.session.roles import Picker
from sparsewright.session.walk import named_weights


@dataclass
class _Found:
    """A parameter of the model in the form that filters see."""

    name: str
    owner: nn.Module
    param_name: str
    dims: tuple[int, int]
    param: nn.Parameter
    dense: Tensor
    tied_to: str
    why_dense: str


@dataclass
class _Route:
    """A configuration entry with its parameters; an invalid filter or algorithm is None."""

    place: str
    filter: ParamFilter | None
    algorithm: SparsityAlgorithm | None
    picked: list[str] = field(default_factory=list)
    taken: dict[str, Tensor] = field(default_factory=dict)
    why_level: dict[str, str] = field(default_factory=dict)
    structures: dict[str, Structure] = field(default_factory=dict)

    def why_not(self, name: str, picker: Picker) -> str:
        """Return why the filter does not select a parameter."""
        if self.filter is default_sparse_param_filter:
            return picker.why_not(name).reason
        return "no param_filter matches its name"


def make_plan(
    model: nn.Module,
    routes: Sequence[tuple[str, ParamFilter | None, SparsityAlgorithm | None]],
    forecasts: dict[int, Forecast],
    report: Report,
) -> Plan:
    """Route a model's parameters to the entries of a configuration.

    Args:
        model: the model, which is not changed; may be on the meta device.
        routes: place, filter and algorithm of each entry, in order; None for an invalid part that
            has been reported.
        forecasts: forecasts by the algorithm's id.
        report: called for each filter that selects nothing, each parameter that cannot be sparse
            and each level that is out of reach.
    """
    entries = [_Route(*route) for route in routes]
    found = _parameters(model)
    picker = Picker(model, [entry.filter for entry in entries])
    takers = [_take(entries, each, picker, report) for each in found]
    _report_idle(entries, found, report)
    made: dict[int, tuple[Entry, Course]] = {}
    for route in entries:
        entry = _make_entry(route, forecasts, report)
        if entry is not None:
            made[id(route)] = entry
    surroundings = Surroundings(model)
    weights = []
    for each, taker in zip(found, takers, strict=True):
        if taker is None:
            weights.append(_dense(each))
        elif id(taker) in made and each.name in taker.taken:
            weights.append(_sparse(each, taker, *made[id(taker)], surroundings))
    plan = Plan([entry for entry, _ in made.values()], weights)
    plan.notes = [note for entry, course in made.values() for note in _unknown(entry, course)]
    return plan


def _unknown(entry: Entry, course: Course) -> Iterator[str]:
    """Yield a sentence for each reason why numbers of connections are unknown before training."""
    if None in course.end.levels.values():
        yield (
            f"{entry.place}: the number of connections kept per weight depends on the weights' "
            "values; costs assume the same level for every weight"
        )
    elif None in course.end.each.values():
        structure = entry.algorithm.structure
        yield (
            f"{entry.place}: {structure!r} decides during training how many connections a weight "
            "keeps; costs assume the count that the level allows"
        )


def _parameters(model: nn.Module) -> list[_Found]:
    """Return every named parameter, with the reason if it must stay dense."""
    found, first = [], dict[int, str]()
    for name, owner, param_name, param, why_dense in named_weights(model):
        other = first.setdefault(id(param), name)
        tied_to = other if other != name else ""
        dense = dense_form(owner, param)
        reason = why_dense.reason if why_dense else ""
        dims = weight_dims(owner, param_name, model)
        found.append(_Found(name, owner, param_name, dims, param, dense, tied_to, reason))
    return found


def _take(routes: list[_Route], found: _Found, picker: Picker, report: Report) -> _Route | None:
    """Return the route that selects a parameter, or set `why_dense` and return None."""
    if found.why_dense:
        return None
    name, dense = found.name, found.dense
    place = picker.first(name, dense)
    if place is None:
        reasons = [route.why_not(name, picker) for route in routes if route.filter is not None]
        found.why_dense = "; ".join(dict.fromkeys(reasons)) or "the configuration has no entry"
        return None
    route = routes[place]
    route.picked.append(name)
    if route.algorithm is None or route.filter is None:
        return route
    structure = route.algorithm.structure.with_dims(*found.dims)
    try:
        found.why_dense = why_misfit(route.algorithm, structure, name, dense, route.filter)
        if found.why_dense:
            return None
        check_place(found.owner, found.param_name, found.param, name)
        route.taken[name], route.structures[name] = dense, structure
    except SparsewrightError as error:
        report(route.place, error)
    return route


def _report_idle(routes: list[_Route], found: list[_Found], report: Report) -> None:
    """Report the filters that select nothing."""
    names = [each.name for each in found if not each.tied_to]
    for route in routes:
        if route.filter is None or route.picked:
            continue
        near = near_names(route.filter, names)
        advice = f"Similar names: {', '.join(near)}." if near else ""
        for each in found:
            if each.tied_to and route.filter(each.name, each.dense):
                advice = f"{each.name} is tied to {each.tied_to}; match that name instead."
                break
        allowed = "a filter that matches a parameter which no earlier entry matches"
        shown = _Shown(route.filter)
        report(route.place, OptionError("param_filter", shown, allowed, advice=advice))


class _Shown:
    """A filter whose repr fits into an error message."""

    def __init__(self, param_filter: ParamFilter) -> None:
        self.text = show_filter(param_filter)

    def __repr__(self) -> str:
        return self.text


def _make_entry(
    route: _Route, forecasts: dict[int, Forecast], report: Report
) -> tuple[Entry, Course] | None:
    """Return a route's entry and the connections it keeps over a run, or None after an error."""
    algorithm, forecast = route.algorithm, forecasts.get(id(route.algorithm))
    if route.filter is None or algorithm is None or forecast is None:
        return None
    try:
        own = algorithm.structure.for_weights(list(route.taken))
        structures = {
            name: own[name].with_dims(each.out_dim, each.in_dim)
            for name, each in route.structures.items()
        }
        course = count_kept(algorithm, forecast, route.taken, structures)
        route.why_level = why_levels(algorithm, forecast, route.taken)
    except Exception as error:  # runs a user's distribution; the plan lists its error
        report(route.place, error)
        return None
    whole = sum(weight.numel() for weight in route.taken.values())
    kept = course.start.total, course.end.total
    return Entry(route.place, route.filter, algorithm, forecast, whole, kept), course


def _dense(found: _Found) -> Weight:
    shape = torch.Size() if is_lazy(found.param) else found.dense.shape
    whole = 0 if is_lazy(found.param) else shape.numel()
    return Weight(
        found.name,
        shape,
        found.param.dtype,
        (whole, whole),
        estimate=(whole, whole),
        reason=found.why_dense,
        is_frozen=not found.param.requires_grad,
        tied_to=found.tied_to,
    )


def _sparse(
    found: _Found,
    route: _Route,
    entry: Entry,
    course: Course,
    surroundings: Surroundings,
) -> Weight:
    storage, why = storage_of(entry.algorithm, found.owner, found.param_name, surroundings)
    name, (start, end) = found.name, (course.start, course.end)
    at_start, at_end, *over_time = (counts[name] for counts in course.estimates)
    return Weight(
        name,
        found.dense.shape,
        found.param.dtype,
        (start.each[name], end.each[name]),
        (start.levels[name], end.levels[name]),
        (at_start, at_end),
        over_time,
        entry,
        storage=storage,
        kind=kind_of(found.owner),
        score_flops=_score_flops(route.structures[name], found.dense.shape),
        why_level=route.why_level[name],
        why_masked=why,
        is_frozen=not found.param.requires_grad,
    )


def _score_flops(structure: Structure, shape: torch.Size) -> int:
    """Return the additions that pool scores: one per entry if units have several entries."""
    rows, n = structure.rows(shape)
    return shape.numel() if rows * n < shape.numel() else 0
