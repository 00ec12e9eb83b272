"""Checks of what a checkpoint holds, against the network that is to go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.errors import StateError
from sparsewright.runs.layer_counts import count_layers
from sparsewright.storage import ShadowedStorage
from sparsewright.wording import show

_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_MOMENTS = {"SGD": {"momentum_buffer"}, "Adam": _ADAM, "AdamW": _ADAM}


def check_weights(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Check that tensors can replace a model's own, as they are.

    Raises:
        StateError: another name, shape or type, or a weight that is not zero outside its mask.
    """
    if own.keys() != given.keys():
        unknown, missing = sorted(given.keys() - own.keys()), sorted(own.keys() - given.keys())
        raise StateError("the model", f"unknown: {show(unknown)}, missing: {show(missing)}")
    for name, tensor in given.items():
        found, right = (f"{t.dtype} {tuple(t.shape)}" for t in (tensor, own[name]))
        if found != right:
            raise StateError("the model", f"{name} is {found}; allowed: {right}")
    for layer in count_layers(given):
        if layer.problem:
            raise StateError("the model", f"{layer.name}: {layer.problem}")


def check_shadows(algorithm: SparsityAlgorithm) -> None:
    """Check what an algorithm loaded of its shadowed weights, against their masks.

    Raises:
        StateError: a shadow is missing, or is not one of its weight.
    """
    for rule in algorithm.algorithms:
        held = rule.sparse_params
        wanted = [n for n, p in held.items() if p.storage.name == ShadowedStorage.name]
        what = f"the shadows of {type(rule).__name__}"
        if sorted(rule.shadows) != sorted(wanted):
            raise StateError(what, f"they are of {show(sorted(rule.shadows))}, not {show(wanted)}")
        for name in wanted:
            shadow, parameter = rule.shadows[name], held[name]
            if shadow.dtype != parameter.param.dtype:
                allowed = parameter.param.dtype
                raise StateError(what, f"that of {name} is {shadow.dtype}; allowed: {allowed}")
            if bool(shadow[parameter.mask].any()):
                raise StateError(what, f"that of {name} is not zero where its mask is True")


def load_optimizer(optimizer: Optimizer, state: dict[str, Any], steps: int) -> None:
    """Load the state of an optimizer that took so many steps; torch itself checks little of it.

    Raises:
        StateError: settings, names, shapes or types that this optimizer would not have.
    """
    what, settings = type(optimizer).__name__, _settings(optimizer)
    optimizer.load_state_dict(state)
    if _settings(optimizer) != settings:
        raise StateError(what, f"it has the settings {show(_settings(optimizer))}")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if not {id(p) for p in optimizer.state} <= {id(p) for p in params}:
        raise StateError(what, "it has the state of a parameter that is not there")
    is_empty = steps == 0 or (what == "SGD" and not settings[0]["momentum"])
    for index, param in enumerate(params):
        moments = optimizer.state.get(param, {})
        if set(moments) != (set() if is_empty else _MOMENTS[what]):
            names = show(sorted(map(str, moments)))
            raise StateError(what, f"after {steps} steps parameter {index} has {names}")
        for name, value in moments.items():
            _check_moment(what, f"{name} of parameter {index}", value, param, name == "step")


def _settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of each group; the rate is a function of the step."""
    kept = ("params", "lr")
    return [{k: v for k, v in g.items() if k not in kept} for g in optimizer.param_groups]


def _check_moment(what: str, name: str, value: object, param: Tensor, is_step: bool) -> None:
    if not isinstance(value, Tensor):
        raise StateError(what, f"{name} is {show(value)}; allowed: a tensor")
    shape = () if is_step else tuple(param.shape)
    if tuple(value.shape) != shape or value.dtype != param.dtype:
        found = f"{value.dtype} {tuple(value.shape)}"
        raise StateError(what, f"{name} is {found}; allowed: {param.dtype} {shape}")
    if is_step and not float(value) >= 0:
        raise StateError(what, f"{name} is {show(value)}; allowed: numbers from 0")
