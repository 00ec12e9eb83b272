"""Check that a checkpoint fits the network that resumes from it."""

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
    """Raise StateError unless tensors can replace a model's state without any conversion.

    Raises:
        StateError: a name, shape or dtype differs, or a weight is not zero outside its mask.
    """
    if own.keys() != given.keys():
        unknown, missing = sorted(given.keys() - own.keys()), sorted(own.keys() - given.keys())
        problem = f"the keys differ: unknown {show(unknown)}, missing {show(missing)}"
        raise StateError("the model", problem)
    for name, tensor in given.items():
        found, right = (f"{t.dtype} {tuple(t.shape)}" for t in (tensor, own[name]))
        if found != right:
            raise StateError("the model", f"expected {right} for {name}, got {found}")
    for layer in count_layers(given):
        if layer.problem:
            raise StateError("the model", f"{layer.name}: {layer.problem}")


def check_shadows(algorithm: SparsityAlgorithm) -> None:
    """Raise StateError unless an algorithm's loaded shadows fit their weights and masks.

    Raises:
        StateError: a shadow is missing or unknown, or it does not fit its weight.
    """
    for rule in algorithm.algorithms:
        held = rule.sparse_params
        wanted = [n for n, p in held.items() if p.storage.name == ShadowedStorage.name]
        what = f"the shadows of {type(rule).__name__}"
        if sorted(rule.shadows) != sorted(wanted):
            problem = f"expected shadows for {show(wanted)}, got {show(sorted(rule.shadows))}"
            raise StateError(what, problem)
        for name in wanted:
            shadow, parameter = rule.shadows[name], held[name]
            if shadow.dtype != parameter.param.dtype:
                right = parameter.param.dtype
                raise StateError(what, f"expected {right} for {name}, got {shadow.dtype}")
            if bool(shadow[parameter.mask].any()):
                problem = f"the shadow of {name} has nonzero entries where its mask is True"
                raise StateError(what, problem)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any], steps: int) -> None:
    """Load and check the state of an optimizer after `steps` steps; torch checks little of it.

    Raises:
        StateError: settings, names, shapes or dtypes differ from those of this optimizer.
    """
    what, settings = type(optimizer).__name__, _settings(optimizer)
    optimizer.load_state_dict(state)
    if _settings(optimizer) != settings:
        problem = f"expected settings {show(settings)}, got {show(_settings(optimizer))}"
        raise StateError(what, problem)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if not {id(p) for p in optimizer.state} <= {id(p) for p in params}:
        raise StateError(what, "it has state for an unknown parameter")
    is_empty = steps == 0 or (what == "SGD" and not settings[0]["momentum"])
    for index, param in enumerate(params):
        moments = optimizer.state.get(param, {})
        if set(moments) != (set() if is_empty else _MOMENTS[what]):
            names = show(sorted(map(str, moments)))
            raise StateError(what, f"parameter {index} has state {names} after {steps} steps")
        for name, value in moments.items():
            _check_moment(what, f"{name} of parameter {index}", value, param, name == "step")


def _settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return each group's options, without the learning rate, which depends on the step."""
    kept = ("params", "lr")
    return [{k: v for k, v in g.items() if k not in kept} for g in optimizer.param_groups]


def _check_moment(what: str, name: str, value: object, param: Tensor, is_step: bool) -> None:
    if not isinstance(value, Tensor):
        raise StateError(what, f"{name} must be a tensor; got {show(value)}")
    shape = () if is_step else tuple(param.shape)
    if tuple(value.shape) != shape or value.dtype != param.dtype:
        found = f"{value.dtype} {tuple(value.shape)}"
        raise StateError(what, f"{name} must be {param.dtype} {shape}; got {found}")
    if is_step and not float(value) >= 0:
        raise StateError(what, f"{name} must be at least 0; got {show(value)}")
