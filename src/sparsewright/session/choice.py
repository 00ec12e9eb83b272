"""Selection of the parameters that `apply` makes sparse."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from sparsewright.core.filters import (
    GlobFilter,
    ParamFilter,
    default_sparse_param_filter,
    near_names,
    show_filter,
)
from sparsewright.core.structure import Structure
from sparsewright.errors import AttachError, ShapeError, warn
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.layers import dense_form
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.placed import weight_dims
from sparsewright.session.roles import Picker
from sparsewright.session.rule import Rule
from sparsewright.session.session import Session
from sparsewright.session.site import holder_of
from sparsewright.session.summary import show_left_dense
from sparsewright.session.walk import Dense, named_weights
from sparsewright.storage.dense import is_mask_of
from sparsewright.wording import first_of

logger = logging.getLogger("sparsewright")

Route = tuple[ParamFilter, Rule]
"""A filter, and the algorithm for the parameters that this filter picks first."""


@dataclass
class Choice:
    """Decisions of `apply` about the parameters of a model.

    Attributes:
        weights: every (module, parameter) pair.
        names: full names of all parameters.
        routed: parameters to attach, as (algorithm, owner, full name, parameter).
        already: names of the parameters that are already attached to this session.
        others: full name -> sparse parameter of another algorithm, for parameters to attach.
        left_dense: number of parameters of each kind that stay dense.
        unused: filters that picked nothing.
    """

    weights: list[tuple[nn.Module, nn.Parameter]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    routed: list[tuple[Rule, nn.Module, str, nn.Parameter]] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    others: dict[str, SparseParameter] = field(default_factory=dict)
    left_dense: Counter[str] = field(default_factory=Counter)
    unused: list[ParamFilter] = field(default_factory=list)

    def leave(self, name: str, why: Dense) -> None:
        """Keep a parameter dense; log and count the reason."""
        logger.info("%s stays dense: %s", name, why.reason)
        self.left_dense[why.kind] += 1

    def refuse_others(self, new: str) -> None:
        """Raise AttachError if another algorithm holds a weight that the class `new` picks."""
        for name, holder in self.others.items():
            first = type(holder.rule.session.owner).__name__
            who, instead = (f"another {first}", f"this {new}") if first == new else (first, new)
            raise AttachError(
                name,
                f"{who} already sparsifies it; call apply(model, replace=True) to hand the weight "
                f"and its mask over to {instead}",
            )

    def warn(self) -> None:
        """Warn about requests that had no effect."""
        if self.already and not self.routed:
            warn(
                "these parameters are already sparse and were left unchanged: "
                f"{first_of(self.already)}"
            )
        elif not self.routed:
            available, left = first_of(self.names) or "none", show_left_dense(self.left_dense)
            warn(f"no parameter was sparsified; available: {available}{left}")
        for param_filter in self.unused:
            self._warn_unused(param_filter)

    def _warn_unused(self, param_filter: ParamFilter) -> None:
        """Warn that a filter picked no parameter."""
        globs = [param_filter] if isinstance(param_filter, GlobFilter) else []
        matched = [name for name in self.names for glob in globs if glob(name, None)]
        if matched:
            problem = (
                f"the filter {param_filter!r} has no effect: an earlier filter already matches "
                f"{first_of(matched, 3)}, or it must stay dense"
            )
        else:
            near = near_names(param_filter, self.names)
            similar = f"; similar names: {', '.join(near)}" if near else ""
            others = "parameters that must stay dense or that match an earlier filter do not count"
            rest = similar if globs else f"; {others}"
            problem = f"the filter {show_filter(param_filter)} matched no parameter{rest}"
        warn(problem)


def choose(session: Session, module: nn.Module, routes: Sequence[Route]) -> Choice:
    """Check every parameter of a module without attaching any.

    Raises:
        AttachError: a filter picks a parameter that cannot have a mask.
        ShapeError: the structure does not fit a picked parameter, which must not stay dense.
    """
    check_kind(type(module).__name__, module)
    choice, picker = Choice(), Picker(module, [param_filter for param_filter, _ in routes])
    used: set[int] = set()
    for name, owner, param_name, param, why in named_weights(module):
        choice.names.append(name)
        choice.weights.append((owner, param))
        dense = dense_form(owner, param)
        place = None if why else picker.first(name, dense)
        holder = None if why else holder_of(owner, param_name)
        if place is not None:
            used.add(place)
        if holder is not None and holder.rule.session is session:
            if holder.module is owner:
                choice.already.append(name)
            else:
                reason = f"it is tied to {holder.name}, and filters see only that name"
                choice.leave(name, Dense("", reason))
        elif place is None:
            choice.leave(name, why or picker.why_not(name))
        else:
            param_filter, rule = routes[place]
            structure = rule.structure.with_dims(*weight_dims(owner, param_name, module))
            misfit = why_misfit(rule, structure, name, dense, param_filter)
            if misfit:
                choice.leave(name, Dense("weights that do not fit the structure", misfit))
                continue
            choice.routed.append((rule, owner, name, param))
            if holder is None:
                check_place(owner, param_name, param, name)
            else:
                choice.others[name] = holder
    if [rule for _, rule in routes] != [session.owner]:  # an algorithm alone names no filter
        choice.unused = [f for index, (f, _) in enumerate(routes) if index not in used]
    return choice


def why_misfit(
    rule: Rule, structure: Structure, name: str, param: Tensor, param_filter: ParamFilter
) -> str:
    """Return why a parameter that a filter picks stays dense; "" if it can become sparse.

    Args:
        rule: the algorithm that the filter chooses.
        structure: the algorithm's structure, with the dimensions of this parameter.
        name: full name of the parameter.
        param: the parameter, in its dense shape.
        param_filter: the filter. If it is the default filter and `rule.skips_misfits` is True, a
            parameter that the structure does not fit stays dense.

    Raises:
        ShapeError: the structure does not fit the parameter, which must not stay dense.
        AttachError: the parameter cannot have a mask.
    """
    try:
        rule.check_parameter(name, param)
        check_fits(structure, name, param)
    except ShapeError as error:
        if param_filter is default_sparse_param_filter and rule.skips_misfits:
            return error.problem
        raise
    return ""


def check_fits(structure: Structure, name: str, param: Tensor) -> None:
    """Raise ShapeError if a structure does not fit a parameter's shape."""
    try:
        structure.check_shape(param.shape)
    except ShapeError as error:
        raise ShapeError(name, param.shape, error.problem) from None


def check_fits_in(
    root: nn.Module, rule: Rule, owner: nn.Module, param_name: str, name: str, param: Tensor
) -> None:
    """Raise ShapeError if an algorithm's structure does not fit a parameter below a module.

    A parametrization does not know its layer. If it is itself the root, the check is left to the
    first selection, which knows the model.
    """
    if root is not owner or not isinstance(owner, ParametrizationList):
        structure = rule.structure.with_dims(*weight_dims(owner, param_name, root))
        check_fits(structure, name, param)


def check_place(module: nn.Module, param_name: str, param: Tensor, name: str) -> None:
    """Raise AttachError if a module cannot hold a mask for one of its parameters."""
    check_kind(name, module)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        kind = type(module).__name__
        raise AttachError(
            name,
            f"its {kind} produces sparse gradients, which masks do not support; create the module "
            "with sparse=False",
        )
    pruned = param_name.removesuffix("_orig")
    if pruned != param_name and pruned + MASK_SUFFIX in module._buffers:
        call = f"torch.nn.utils.prune.remove(module, {pruned!r})"
        raise AttachError(name, f"torch.nn.utils.prune already masks it; call {call} first")
    mask_name = param_name + MASK_SUFFIX
    existing = module._buffers.get(mask_name)
    if existing is not None:
        if not is_mask_of(existing, param):
            raise AttachError(
                name,
                f"its module already has a buffer {mask_name!r} that is not a mask of this weight: "
                f"expected torch.bool and shape {tuple(param.shape)}, got {existing.dtype} and "
                f"shape {tuple(existing.shape)}; rename the buffer",
            )
    elif hasattr(module, mask_name):
        raise AttachError(
            name,
            f"its module already has an attribute {mask_name!r}, which is the name of the mask "
            "buffer; rename the attribute",
        )


def check_kind(what: str, module: nn.Module) -> None:
    """Raise AttachError if modules of this kind cannot have masks."""
    if isinstance(module, torch.jit.ScriptModule):
        raise AttachError(
            what,
            "TorchScript modules cannot have masks; pass the original nn.Module, or a param_filter "
            "that excludes this module",
        )
