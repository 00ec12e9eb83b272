"""Attachment of a model's parameters to algorithms."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsewright.errors import AttachError
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import as_compressed
from sparsewright.session.choice import Route, check_place, choose
from sparsewright.session.moved import let_go
from sparsewright.session.parameter import SparseParameter, initialize_all
from sparsewright.session.replicas import check_shards
from sparsewright.session.rule import Rule
from sparsewright.session.session import Session
from sparsewright.session.site import drop_masks, holder_of
from sparsewright.session.summary import warn_of_picked
from sparsewright.session.takeover import take_over, warn_of_zeros
from sparsewright.storage import hold

logger = logging.getLogger("sparsewright")


def attach_routed(
    session: Session, module: nn.Module, routes: Sequence[Route], replace: bool = False
) -> None:
    """Attach each parameter of `module` to the algorithm of the first filter that picks it.

    All parameters are checked before the first one is attached. The log says why other parameters
    stay dense.

    Args:
        session: the session to attach to.
        module: the model or a part of it.
        routes: filters and algorithms, in order of precedence.
        replace: remove other algorithms from the model, and keep their masks.

    Raises:
        AttachError: a picked parameter cannot have a mask, or another algorithm holds it.
        ShapeError: the structure does not fit a picked parameter, which must not stay dense.
    """
    let_go(session, module)
    sharded.reshard(module)
    choice = choose(session, module, routes)
    released: set[int] = set()
    if replace:
        for other in sessions_of(module):
            if other is not session:
                released |= release(other, module)
        choice = choose(session, module, routes)
    choice.refuse_others(type(session.owner).__name__)
    before = set(session.parameters)
    for rule, owner, name, param in choice.routed:
        rule.sparsify_parameter(owner, name, param)
    if released:
        drop_masks(module, released)
    if choice.routed:
        session.roots.note(module, session.parameters.keys() - before)
        session.join_replicas(module)
    session.follow_tied(choice.weights)
    session.left_dense = choice.left_dense
    picked = ((name, owner, param) for _, owner, name, param in choice.routed)
    warn_of_picked(picked, (param for _, param in choice.weights))
    choice.warn()


def sessions_of(module: nn.Module) -> list[Session]:
    """Return the sessions that hold weights of a module, in the order of the weights."""
    found: dict[int, Session] = {}
    for owner in module.modules():
        for param_name in owner._parameters:
            holder = holder_of(owner, param_name)
            if holder is not None:
                found.setdefault(id(holder.rule.session), holder.rule.session)
    return list(found.values())


def release(session: Session, module: nn.Module) -> set[int]:
    """Detach a session from the weights of a module; their masks remain as buffers.

    The session stops following optimizers that no longer step any of its weights.

    Returns:
        The ids of all parameters of the module.
    """
    below = {id(param) for param in module.parameters()}
    own = [n for n, p in session.parameters.items() if id(p.param) in below]
    rules = [parameter.rule for parameter in session.parameters.values()]
    session.detach(own, keep_masks=True)
    if not session.parameters:
        session.remove(rules)
    for followed in list(session.followed):
        if not followed.parameters():
            session.leave(followed, list(followed.rules))
    return below


def attach_parameter(
    session: Session, rule: Rule, module: nn.Module, param_name: str, name: str
) -> SparseParameter:
    """Add a mask buffer and hooks to one parameter.

    If the module already has a bool buffer with the mask's name and shape, as in a copied or
    loaded sparse model, this buffer becomes the mask.

    Args:
        session: the session to attach to.
        rule: the algorithm that decides the mask.
        module: the module that owns the parameter.
        param_name: name of the parameter in the module.
        name: full name of the parameter.

    Raises:
        AttachError: the mask's name is already used, or the algorithm does not support the storage.
    """
    param = module.get_parameter(param_name)
    has_mask = as_compressed(module) is not None or _add_mask(module, param_name, param, name)
    name = session.free_name(name)
    storage = hold(module, param_name, rule.storage, name, rule.shadows)
    if storage.name not in rule.storages:
        problem = (
            f"it is {storage.name}, but {type(rule).__name__} trains only "
            f"{' or '.join(rule.storages)} weights"
        )
        raise AttachError(name, problem)
    parameter = session.add_parameter(name, storage, rule)
    parameter.is_initialized = parameter.is_taken_over = has_mask
    return parameter


def _add_mask(module: nn.Module, param_name: str, param: Tensor, name: str) -> bool:
    """Add the mask buffer to the module; return True if the module already had one."""
    mask_name = param_name + MASK_SUFFIX
    check_place(module, param_name, param, name)
    if module._buffers.get(mask_name) is not None:
        logger.info("%s: its module already has a mask, which is reused", name)
        return True
    mask = torch.ones_like(param, dtype=torch.bool, requires_grad=False)
    module.register_buffer(mask_name, mask)
    return False


@contextmanager
def all_or_nothing(session: Session, module: nn.Module) -> Iterator[None]:
    """Detach everything that the block attached to a module if the block raises."""
    before, masks = set(session.parameters), set(_masks_below(module))
    try:
        yield
    except BaseException:  # re-raised once the model is restored
        session.detach(session.parameters.keys() - before)
        session.end_if_empty()
        for owner, name in set(_masks_below(module)) - masks:  # of a partly attached parameter
            delattr(owner, name)
        raise


def _masks_below(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield (owner, buffer name) for each mask buffer of a module."""
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if name.endswith(MASK_SUFFIX) and buffer is not None and buffer.dtype == torch.bool:
                yield owner, name


def initialize(session: Session, rules: Sequence[Rule]) -> None:
    """Compute the missing masks of some algorithms, and hook the gradients.

    Raises:
        LevelError: a distribution or a structure cannot reach a level of a schedule.
    """
    own = [parameter for parameter in session.parameters.values() if parameter.rule in rules]
    new = [p for p in own if not p.is_initialized and not p.param.is_meta]
    check_shards(new, session.counter.steps)
    initialize_all(own)
    for parameter in own:
        parameter.prune()
    warn_of_zeros(p for p in new if p.is_initialized)
    for parameter in own:
        if parameter.is_taken_over and not parameter.param.is_meta:
            parameter.is_taken_over = False
            take_over(parameter)
    session.end_before_forward()
    session.after_state_change()
    for parameter in own:
        parameter.rule.csx_annotate_sparsity(parameter)
        for level in parameter.rule.level_bounds(parameter)[1:2]:  # the highest, if it is known
            parameter.structure.num_kept(parameter.shape, level)
