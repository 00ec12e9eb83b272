"""The way in: which parameters of a model become sparse, by which algorithm."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsewright.core.filters import (
    FirstMatch,
    ParamFilter,
    default_sparse_param_filter,
    near_names,
)
from sparsewright.errors import AttachError, ShapeError, warn
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import as_compressed, dense_form
from sparsewright.session.moved import let_go
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.replicas import check_shards
from sparsewright.session.rule import Rule
from sparsewright.session.session import Session
from sparsewright.session.site import drop_masks, holder_of
from sparsewright.session.takeover import take_over, warn_of_zeros
from sparsewright.session.walk import named_weights
from sparsewright.storage import hold
from sparsewright.storage.dense import is_mask_of

logger = logging.getLogger("sparsewright")

Routes = Sequence[tuple[ParamFilter, Rule]]
"""Filters, each with its algorithm; a parameter goes to the first whose filter picks it."""


@dataclass
class _Sorted:
    """The parameters of a model, by what is to become of them.

    Attributes:
        weights: each module with each of its parameters.
        names: full names of all parameters.
        routed: those to attach: algorithm, owner, full name, parameter.
        already: names of those that the session has.
        others: those to attach that another algorithm has, by full name.
        used: the places of the routes that picked any parameter.
    """

    weights: list[tuple[nn.Module, nn.Parameter]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    routed: list[tuple[Rule, nn.Module, str, nn.Parameter]] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    others: dict[str, SparseParameter] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)


def attach_routed(
    session: Session, module: nn.Module, routes: Routes, replace: bool = False
) -> None:
    """Attach every parameter below `module` to the first algorithm whose filter picks it.

    All parameters are checked before the first is attached.

    Args:
        session: what holds them from now on.
        module: the model, or a part of it.
        routes: filters, each with its algorithm.
        replace: take other algorithms off the model; their masks stay.

    Raises:
        AttachError: a parameter that cannot have a mask, or that has one of another algorithm.
    """
    let_go(session, module)
    sharded.reshard(module)
    found = _sort(session, module, routes)
    released: set[int] = set()
    if replace:
        for other in sessions_of(module):
            if other is not session:
                released |= release(other, module)
        found = _sort(session, module, routes)
    elif found.others:
        _refuse(session, found.others)
    before = set(session.parameters)
    for rule, owner, name, param in found.routed:
        rule.sparsify_parameter(owner, name, param)
    drop_masks(module, released)
    if found.routed:
        session.roots.note(module, session.parameters.keys() - before)
        session.join_replicas(module)
    session.follow_tied(found.weights)
    _warn(found, routes)


def _warn(found: _Sorted, routes: Routes) -> None:
    """Warn of what had no effect."""
    if found.already:
        warn(f"sparsified already, left as they are: {', '.join(found.already)}")
    elif not found.routed:
        available = ", ".join(found.names) or "none"
        warn(f"no parameter was sparsified; available: {available}")
    for index, (param_filter, _) in enumerate(routes):
        if index not in found.used and param_filter is not default_sparse_param_filter:
            near = near_names(param_filter, found.names)
            hint = f"; close names: {', '.join(near)}" if near else ""
            warn(f"the filter {param_filter!r} matched no parameter that it could take{hint}")


def _sort(session: Session, module: nn.Module, routes: Routes) -> _Sorted:
    """Check every parameter below a module; log why those that stay dense do so."""
    found, match = _Sorted(), FirstMatch([param_filter for param_filter, _ in routes])
    for name, owner, param_name, param, reason in named_weights(module):
        found.names.append(name)
        found.weights.append((owner, param))
        dense = dense_form(owner, param)
        place = None if reason else match.find(name, dense)
        if place is None:
            reason = reason or "no filter picks it"
        else:
            found.used.add(place)
            param_filter, rule = routes[place]
            holder = holder_of(owner, param_name)
            if holder is None:
                reason = why_misfit(rule, name, dense, param_filter)
                if not reason:
                    check_place(owner, param_name, param, name)
                    found.routed.append((rule, owner, name, param))
            elif holder.rule.session is not session:
                found.others[name] = holder
            elif holder.module is owner:
                found.already.append(name)
            else:
                reason = f"it is tied to {holder.name}, under whose name it is decided"
        if reason:
            logger.info("%s stays dense: %s", name, reason)
    return found


def _refuse(session: Session, others: Mapping[str, SparseParameter]) -> None:
    """Raise AttachError for weights that another algorithm has."""
    name, holder = next(iter(others.items()))
    first, new = type(holder.rule.session.owner).__name__, type(session.owner).__name__
    who, instead = (f"another {first}", f"this {new}") if first == new else (first, new)
    raise AttachError(
        name,
        f"{who} has it; to put {instead} in its place and keep the mask, call "
        "apply(model, replace=True)",
    )


def sessions_of(module: nn.Module) -> list[Session]:
    """Return the sessions that have weights below a module, in the order of the weights."""
    found: dict[int, Session] = {}
    for owner in module.modules():
        for param_name in owner._parameters:
            holder = holder_of(owner, param_name)
            if holder is not None:
                found.setdefault(id(holder.rule.session), holder.rule.session)
    return list(found.values())


def release(session: Session, module: nn.Module) -> set[int]:
    """Take a session off the weights below a module; their masks stay as buffers.

    Optimizers of which it steps no weight any more are let go.

    Returns:
        The ids of the weights.
    """
    below = {id(param) for param in module.parameters()}
    own = [n for n, p in session.parameters.items() if id(p.param) in below]
    rules = [parameter.rule for parameter in session.parameters.values()]
    session.detach(own, keep_masks=True)
    if not session.parameters:
        session.remove(rules)
    for followed in list(session.followed):
        if not followed.parameters():
            session.remove_optimizer(followed.optimizer, list(followed.rules))
    return below


def why_misfit(rule: Rule, name: str, param: Tensor, param_filter: ParamFilter) -> str:
    """Check a parameter that a filter picks; return why it stays dense, "" if it does not.

    Args:
        rule: the algorithm that is to have it.
        name: its full name.
        param: the parameter, of its dense shape.
        param_filter: the filter; the default one passes over what the structure does not fit.

    Raises:
        ShapeError: the structure does not fit a parameter that was picked by its name.
        AttachError: it cannot have a mask.
    """
    try:
        rule.check_parameter(name, param)
    except ShapeError as error:
        if param_filter is default_sparse_param_filter and rule.skips_misfits:
            return error.problem
        raise
    return ""


def attach_parameter(
    session: Session, rule: Rule, module: nn.Module, param_name: str, name: str
) -> SparseParameter:
    """Put a mask buffer and hooks on one parameter.

    A bool buffer of the right name and shape that the module has already (a copied or loaded
    sparse model) is taken over as the mask.

    Args:
        session: what holds it from now on.
        rule: the algorithm that decides its mask.
        module: the module that owns it.
        param_name: its name there.
        name: its full name.

    Raises:
        AttachError: the name of the buffer is taken.
    """
    param = module.get_parameter(param_name)
    has_mask = as_compressed(module) is not None or _add_mask(module, param_name, param, name)
    name = session.free_name(name)
    storage = hold(module, param_name, rule.storage, name, rule.shadows)
    if storage.name not in rule.storages:
        problem = f"it is {storage.name}, which {type(rule).__name__} cannot train"
        raise AttachError(name, problem)
    parameter = session.add_parameter(name, storage, rule)
    parameter.is_initialized = parameter.is_taken_over = has_mask
    return parameter


def check_place(module: nn.Module, param_name: str, param: Tensor, name: str) -> None:
    """Raise AttachError if a module has no room for a mask, or makes sparse gradients."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        kind = type(module).__name__
        raise AttachError(name, f"its {kind} makes sparse gradients; build it with sparse=False")
    mask_name = param_name + MASK_SUFFIX
    existing = module._buffers.get(mask_name)
    if existing is not None:
        if not is_mask_of(existing, param):
            raise AttachError(
                name,
                f"its module has a buffer {mask_name!r} that is no mask for it: "
                f"{existing.dtype}, shape {tuple(existing.shape)}",
            )
    elif hasattr(module, mask_name):
        raise AttachError(name, f"its module has an attribute {mask_name!r} already")


def _add_mask(module: nn.Module, param_name: str, param: Tensor, name: str) -> bool:
    """Give the module its mask buffer; return whether one was there already."""
    mask_name = param_name + MASK_SUFFIX
    check_place(module, param_name, param, name)
    if module._buffers.get(mask_name) is not None:
        logger.info("%s: takes over the mask that its module has", name)
        return True
    mask = torch.ones_like(param, dtype=torch.bool, requires_grad=False)
    module.register_buffer(mask_name, mask)
    return False


@contextmanager
def all_or_nothing(session: Session) -> Iterator[None]:
    """Take off what was attached inside of the block if the block raises."""
    before = set(session.parameters)
    try:
        yield
    except BaseException:  # nothing is caught: it goes on, over the model as it was
        session.detach(session.parameters.keys() - before)
        raise


def initialize(session: Session, rules: Sequence[Rule]) -> None:
    """Compute the masks of some algorithms that are not there yet, and hook the gradients."""
    own = [parameter for parameter in session.parameters.values() if parameter.rule in rules]
    new = [p for p in own if not p.is_initialized and not p.param.is_meta]
    check_shards(new, session.counter.steps)
    for parameter in own:
        parameter.initialize()
        parameter.prune()
    warn_of_zeros(p for p in new if p.is_initialized and not p.is_compressed)
    for parameter in own:
        if parameter.is_taken_over and not parameter.param.is_meta:
            parameter.is_taken_over = False
            take_over(parameter)
    session.end_before_forward()
    session.after_state_change()
