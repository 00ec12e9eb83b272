"""The default choice of parameters that stay dense, by role in the model and then by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from sparsewright.core.filters import (
    FirstMatch,
    ParamFilter,
    default_sparse_param_filter,
    why_dense_by_default,
)
from sparsewright.session.heads import output_heads
from sparsewright.session.parametrized import keeps_zeros
from sparsewright.session.placed import PlacedWeight, has_class, placed_weights
from sparsewright.session.walk import Dense

_EMBEDDING = re.compile(r"embed(ding)?s?(bag)?$")
_NORM = re.compile(r"norm(alization)?([123]d)?$")
_GATE = re.compile(r"(^|_)(gates?|gating)$")  # a router only if the same module holds experts
_ADAPTER = re.compile(r"(^|\.)(lora|hada|lokr|ia3|vera|oft|boft|hra)_")  # PEFT's names
_BESIDE = {
    *("bias", "biases", "scale", "scales", "gain", "gamma", "log"),
    *("token", "tokens", "pos", "position", "positional"),
}
"""Words in the name of a Parameter that does not hold connections, even if it is a matrix."""


FROZEN = Dense("frozen weights", "it is frozen (requires_grad=False)")
EMBEDDING = Dense("embeddings", "it is an embedding")
TIED = Dense("tied to embeddings", "it is tied to an embedding")
NORM = Dense("norms", "it belongs to a normalization layer")
HEAD = Dense("output heads", "it belongs to an output head")
ROUTER = Dense("routers", "it belongs to a mixture-of-experts router")
ADAPTER = Dense("adapters", "it belongs to an adapter")
BESIDE = Dense("excluded by name", "its name suggests a bias, scale, token or position")
VECTOR = Dense("vectors", "at most one of its dimensions is larger than 1")
COMPUTED = Dense("parametrized", "its parametrization does not preserve zeros")
NOT_PICKED = Dense("not picked", "no filter picks it")

Role = tuple[Dense, Callable[[PlacedWeight], bool]]


def dense_by_default(model: nn.Module) -> dict[str, Dense]:
    """Return the parameters that the default filter leaves dense, and the reasons.

    Args:
        model: any module. PyTorch wrappers around it do not change the result.

    Returns:
        Full name -> reason. All other parameters become sparse by default.
    """
    weights = placed_weights(model)
    roles = _roles(model, weights)
    found = {}
    for weight in weights:
        role = next((dense for dense, plays in roles if plays(weight)), None) or _by_name(weight)
        if role is not None:
            found[weight.name] = role
    return found


def _roles(model: nn.Module, weights: Sequence[PlacedWeight]) -> Sequence[Role]:
    """Return each role and a test for it, in the order of precedence."""
    embeddings = {weight.memory for weight in weights if has_class(weight.layer, _EMBEDDING)}
    heads = output_heads(model, weights)
    beside_experts = _beside_experts(weights)
    return (
        (FROZEN, lambda weight: not weight.param.requires_grad),
        (EMBEDDING, lambda weight: has_class(weight.layer, _EMBEDDING)),
        (TIED, lambda weight: weight.memory in embeddings),
        (NORM, lambda weight: has_class(weight.layer, _NORM)),
        (ROUTER, lambda weight: _is_router(weight.name, beside_experts)),
        (ADAPTER, lambda weight: _ADAPTER.search(weight.name) is not None),
        (HEAD, lambda weight: weight.name in heads),
        (VECTOR, _is_vector),
        (BESIDE, lambda weight: _is_beside(weight.own)),
        (COMPUTED, lambda weight: not keeps_zeros(weight.owner, weight.own)),
    )


def _beside_experts(weights: Sequence[PlacedWeight]) -> set[str]:
    """Return the full names of the modules that hold experts."""
    holders = set()
    for weight in weights:
        parts = weight.name.split(".")
        holders |= {".".join(parts[:at]) for at, part in enumerate(parts) if "expert" in part}
    return holders


def _is_router(name: str, beside_experts: set[str]) -> bool:
    parts = name.split(".")
    return any(
        "router" in part or (_GATE.search(part) and ".".join(parts[:at]) in beside_experts)
        for at, part in enumerate(parts)
    )


def _is_beside(own: str) -> bool:
    return "emb" in own.lower() or not _BESIDE.isdisjoint(own.lower().split("_"))


def _is_vector(weight: PlacedWeight) -> bool:
    if weight.shape is None:
        return False
    is_depthwise = getattr(weight.layer, "groups", 1) > 1  # with a 1x1 kernel it scales channels
    is_matrix = len(weight.shape) > 1 and weight.is_of_layer and not is_depthwise
    return not is_matrix and sum(size > 1 for size in weight.shape) < 2


def _by_name(weight: PlacedWeight) -> Dense | None:
    reason = why_dense_by_default(weight.name, weight.dense)
    return Dense("excluded by name", reason) if reason else None


class Picker:
    """Find the first filter that picks a parameter of a model.

    Filters receive a name and a parameter. The default filter also considers the parameter's role
    in the model.

    Args:
        model: the model.
        filters: the filters, in order of precedence; None picks nothing.
    """

    def __init__(self, model: nn.Module, filters: Sequence[ParamFilter | None]) -> None:
        is_default = any(each is default_sparse_param_filter for each in filters)
        self._dense = dense_by_default(model) if is_default else {}
        self._match = FirstMatch([self._with_roles(each) for each in filters])

    def _with_roles(self, param_filter: ParamFilter | None) -> ParamFilter:
        if param_filter is None:
            return lambda name, param: False
        if param_filter is default_sparse_param_filter:
            return lambda name, param: name not in self._dense
        return param_filter

    def first(self, name: str, param: Tensor) -> int | None:
        """Return the index of the first filter that picks a parameter, or None."""
        return self._match.find(name, param)

    def why_not(self, name: str) -> Dense:
        """Return why no filter picks a parameter."""
        return self._dense.get(name, NOT_PICKED)
