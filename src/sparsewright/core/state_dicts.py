"""Checks of state dicts before anything is taken from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from sparsewright.core.step import MAX_STEP
from sparsewright.errors import OptionError, OptionTypeError, StateError
from sparsewright.wording import show


class Stateful(Protocol):
    """Has a state, and takes one back."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as plain values."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Take back what `state_dict` gave."""


def load_all(objects: Sequence[Stateful], states: Sequence[Any]) -> None:
    """Let each object load its state; if one cannot, all have the state that they had before."""
    before = [each.state_dict() for each in objects]
    try:
        for each, state in zip(objects, states, strict=True):
            each.load_state_dict(state)
    except BaseException:  # nothing is caught: whatever it is goes on, over restored objects
        for each, state in zip(objects, before, strict=True):
            each.load_state_dict(state)
        raise


def check_state(
    what: str, state: Mapping[str, Any], own: Mapping[str, Any], optional: Collection[str] = ()
) -> None:
    """Check that `state` can be the state of the algorithm whose present state is `own`.

    Raises:
        StateError: it cannot.
    """
    if not isinstance(state, Mapping):
        raise StateError(what, f"expected a dict, got {type(state).__name__}")
    missing = [key for key in own if key not in state and key not in optional]
    if missing:
        raise StateError(what, f"missing: {', '.join(missing)}")
    unknown = [show(key) for key in state if key not in own and key not in optional]
    if unknown:
        raise StateError(what, f"unknown: {', '.join(unknown[:5])}")
    if not isinstance(state["algorithm"], str) or state["algorithm"] != own["algorithm"]:
        raise StateError(what, f"it is the state of {show(state['algorithm'])}")
    if "steps" in own:
        _check_numbers(what, state["steps"], state["seed"])


def _check_numbers(what: str, steps: Any, seed: Any) -> None:
    are_steps = isinstance(steps, list) and all(
        type(n) is int and 0 <= n <= MAX_STEP for n in steps
    )
    if not are_steps:
        problem = f"steps must be a list of integers >= 0, not {show(steps)}"
        raise StateError(what, problem)
    try:
        check_seed(seed)
    except (OptionError, OptionTypeError):
        raise StateError(what, f"seed must be an integer, not {show(seed)}") from None


def check_seed(seed: object) -> None:
    """Raise unless a seed is an integer that a checkpoint can hold.

    Raises:
        OptionTypeError: it is no integer.
        OptionError: it takes more than 64 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise OptionTypeError("seed", seed, "an integer")
    if not -(2**63) <= seed < 2**63:
        raise OptionError("seed", seed, "a 64-bit integer")
