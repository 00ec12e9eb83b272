"""The way in: which parameters of a model become sparse, by which algorithm."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsewright.core.filters import ParamFilter, default_sparse_param_filter, near_names
from sparsewright.errors import AttachError, ShapeError, warn
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import as_compressed, dense_form
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.replicas import check_shards
from sparsewright.session.roles import Picker
from sparsewright.session.rule import Rule
from sparsewright.session.session import Session
from sparsewright.session.site import holder_of
from sparsewright.session.summary import show_left_dense, warn_of_picked
from sparsewright.session.walk import Dense, named_weights
from sparsewright.storage import hold

logger = logging.getLogger("sparsewright")

Route = tuple[ParamFilter, Rule]
"""A filter, and the algorithm that has the parameters which no earlier filter picks."""


def attach_routed(
    session: Session, module: nn.Module, routes: Sequence[Route], names_filters: bool
) -> None:
    """Attach each parameter below `module` to the algorithm of the first filter that picks it.

    All parameters are checked before the first is attached. The log says why others stay dense.

    Args:
        session: what holds them from now on.
        module: the model.
        routes: filters and algorithms, in order.
        names_filters: whether to warn of each filter that picks nothing.

    Raises:
        AttachError: a parameter that cannot have a mask.
        ShapeError: a structure does not fit a parameter that was picked by its name.
    """
    _check_kind(type(module).__name__, module)
    sharded.reshard(module)
    weights = list(named_weights(module))
    choice = _Choice(module, routes)
    already, routed = [], []
    for name, owner, param_name, param, why_dense in weights:
        rule = choice.rule_of(name, owner, param_name, param, why_dense)
        if rule is not None and holder_of(owner, param_name) is not None:
            already.append(name)
        elif rule is not None:
            routed.append((rule, owner, name, param))
    for rule, owner, name, param in routed:
        rule.sparsify_parameter(owner, name, param)
    if routed:
        session.join_replicas(module)
        session.follow_tied((owner, param) for _, owner, _, param, _ in weights)
    session.left_dense = choice.left_dense
    picked = ((name, owner, param) for _, owner, name, param in routed)
    warn_of_picked(picked, (param for _, _, _, param, _ in weights))
    names = [name for name, *_ in weights]
    if already:
        warn(f"sparsified already, left as they are: {', '.join(already)}")
    elif not routed:
        left = show_left_dense(choice.left_dense)
        warn(f"no parameter was sparsified; available: {', '.join(names) or 'none'}{left}")
    for param_filter in choice.unused if names_filters else ():
        near = near_names(param_filter, names)
        hint = f"; close names: {', '.join(near)}" if near else ""
        warn(f"the filter {param_filter!r} matched no parameter that it could take{hint}")


class _Choice:
    """Which algorithm has which parameter of one model.

    Attributes:
        left_dense: how many parameters of each kind stay dense.
    """

    def __init__(self, module: nn.Module, routes: Sequence[Route]) -> None:
        self.left_dense: Counter[str] = Counter()
        self._routes = routes
        self._used: set[int] = set()
        self._picker = Picker(module, [param_filter for param_filter, _ in routes])

    @property
    def unused(self) -> list[ParamFilter]:
        """The filters that have picked nothing."""
        return [f for index, (f, _) in enumerate(self._routes) if index not in self._used]

    def rule_of(
        self,
        name: str,
        owner: nn.Module,
        param_name: str,
        param: nn.Parameter,
        why_dense: Dense | None,
    ) -> Rule | None:
        """Return the algorithm of a parameter; None: it stays dense, which is logged and counted.

        Raises:
            AttachError, ShapeError: it is picked, and cannot have a mask.
        """
        dense = dense_form(owner, param)
        ask = self._picker.picks
        picks = (i for i, (f, _) in enumerate(self._routes) if ask(f, name, dense))
        picked = None if why_dense else next(picks, None)
        if picked is None:
            why_dense = why_dense or self._picker.why_not(name)
        else:
            param_filter, rule = self._routes[picked]
            self._used.add(picked)
            if holder_of(owner, param_name) is not None:
                return rule
            misfit = why_misfit(rule, name, dense, param_filter)
            if not misfit:
                check_place(owner, param_name, param, name)
                return rule
            why_dense = Dense("misfits of the structure", misfit)
        logger.info("%s stays dense: %s", name, why_dense.reason)
        self.left_dense[why_dense.kind] += 1
        return None


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
    """Raise AttachError if a module has no room for a mask, or a weight is not plainly its own."""
    _check_kind(name, module)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        kind = type(module).__name__
        raise AttachError(name, f"its {kind} makes sparse gradients; build it with sparse=False")
    pruned = param_name.removesuffix("_orig")
    if pruned != param_name and pruned + MASK_SUFFIX in module._buffers:
        call = f"torch.nn.utils.prune.remove(module, {pruned!r})"
        raise AttachError(name, f"torch.nn.utils.prune masks it already; call {call} first")
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


def _check_kind(what: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise AttachError(
            what,
            f"a TorchScript module ({type(module).__name__}) takes no masks; "
            "use the module that was compiled to it, or a param_filter that leaves it out",
        )


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
    session.end_before_forward()
    session.after_state_change()
