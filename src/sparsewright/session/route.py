"""The way in: which parameters of a model become sparse, by which algorithm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsewright.core.filters import ParamFilter, default_sparse_param_filter
from sparsewright.errors import AttachError, ShapeError, warn
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import as_compressed, dense_form
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.replicas import check_shards
from sparsewright.session.rule import Rule
from sparsewright.session.session import Session
from sparsewright.session.site import holder_of
from sparsewright.session.walk import named_weights
from sparsewright.storage import hold

logger = logging.getLogger("sparsewright")

Route = Callable[[str, Tensor], tuple[ParamFilter, Rule] | None]
"""`(full name, parameter) -> (filter that picks it, algorithm)`; None leaves it dense."""


def attach_routed(session: Session, module: nn.Module, route: Route) -> None:
    """Attach every parameter below `module` to the algorithm that `route` gives it, if any.

    All parameters are checked before the first is attached.

    Raises:
        AttachError: a parameter that cannot have a mask.
    """
    sharded.reshard(module)
    names, already, routed = [], [], []
    weights = list(named_weights(module))
    for name, owner, param_name, param, reason in weights:
        names.append(name)
        dense = dense_form(owner, param)
        picked = None if reason else route(name, dense)
        if picked is None:
            reason = reason or "no filter picks it"
        elif holder_of(owner, param_name) is not None:
            already.append(name)
        else:
            param_filter, rule = picked
            reason = why_misfit(rule, name, dense, param_filter)
            if not reason:
                check_place(owner, param_name, param, name)
                routed.append((rule, owner, name, param))
        if reason:
            logger.info("%s stays dense: %s", name, reason)
    for rule, owner, name, param in routed:
        rule.sparsify_parameter(owner, name, param)
    if routed:
        session.join_replicas(module)
        session.follow_tied((owner, param) for _, owner, _, param, _ in weights)
    if already:
        warn(f"sparsified already, left as they are: {', '.join(already)}")
    elif not routed:
        warn(f"no parameter was sparsified; available: {', '.join(names) or 'none'}")


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
    parameter.is_initialized = has_mask
    return parameter


def check_place(module: nn.Module, param_name: str, param: Tensor, name: str) -> None:
    """Raise AttachError if a module has no room for a mask, or makes sparse gradients."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        kind = type(module).__name__
        raise AttachError(name, f"its {kind} makes sparse gradients; build it with sparse=False")
    mask_name = param_name + MASK_SUFFIX
    existing = module._buffers.get(mask_name)
    if existing is not None:
        if existing.dtype != torch.bool or existing.shape != param.shape:
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
def all_or_nothing(session: Session, module: nn.Module) -> Iterator[None]:
    """Take off what was attached to a module inside of the block if the block raises."""
    before, masks = set(session.parameters), set(_masks_below(module))
    try:
        yield
    except BaseException:  # nothing is caught: it goes on, over the model as it was
        session.detach(session.parameters.keys() - before)
        for owner, name in set(_masks_below(module)) - masks:  # of one that was being attached
            delattr(owner, name)
        raise


def _masks_below(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the mask buffers below a module: their modules and names."""
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if name.endswith(MASK_SUFFIX) and buffer is not None and buffer.dtype == torch.bool:
                yield owner, name


def initialize(session: Session, rules: Sequence[Rule]) -> None:
    """Compute the masks of some algorithms that are not there yet, and hook the gradients."""
    own = [parameter for parameter in session.parameters.values() if parameter.rule in rules]
    new = [p for p in own if not p.is_initialized and not p.param.is_meta]
    check_shards(new, session.counter.steps)
    for parameter in own:
        parameter.initialize()
        parameter.prune()
    session.end_before_forward()
    session.after_state_change()
