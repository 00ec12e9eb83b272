"""Checks of state dicts before they are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from sparsewright.core.step import MAX_STEP
from sparsewright.errors import OptionError, OptionTypeError, StateError
from sparsewright.wording import show


class Stateful(Protocol):
    """Object with a state that can be saved and loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state that `state_dict` returned."""


def load_all(objects: Sequence[Stateful], states: Sequence[Any]) -> None:
    """Load a state into each object; if one raises, restore the earlier states of all objects."""
    before = [each.state_dict() for each in objects]
    try:
        for each, state in zip(objects, states, strict=True):
            each.load_state_dict(state)
    except BaseException:  # re-raised once every object is restored
        for each, state in zip(objects, before, strict=True):
            each.load_state_dict(state)
        raise


def check_state(
    what: str, state: Mapping[str, Any], own: Mapping[str, Any], optional: Collection[str] = ()
) -> None:
    """Check that an algorithm with the current state `own` can load `state`.

    Raises:
        StateError: `state` is not a dict, has missing or unknown keys or invalid values, or
            belongs to another algorithm.
    """
    if not isinstance(state, Mapping):
        raise StateError(what, f"expected a dict, got {type(state).__name__}")
    saver = state.get("algorithm", own["algorithm"])
    if not isinstance(saver, str) or saver != own["algorithm"]:
        raise StateError(what, f"it was saved by {show(saver)}")
    missing = [key for key in own if key not in state and key not in optional]
    if missing:
        is_other = not any(key in state for key in own)
        advice = "; pass the result of its state_dict()" if is_other else ""
        raise StateError(what, f"missing keys: {', '.join(missing)}{advice}")
    unknown = [show(key) for key in state if key not in own and key not in optional]
    if unknown:
        raise StateError(what, f"unknown keys: {', '.join(unknown[:5])}")
    if "steps" in own:
        _check_numbers(what, state["steps"], state["seed"])


def _check_numbers(what: str, steps: Any, seed: Any) -> None:
    are_steps = isinstance(steps, list) and all(
        type(n) is int and 0 <= n <= MAX_STEP for n in steps
    )
    if not are_steps:
        problem = f"steps must be a list of integers >= 0; got {show(steps)}"
        raise StateError(what, problem)
    try:
        check_seed(seed)
    except (OptionError, OptionTypeError):
        raise StateError(what, f"seed must be an integer of 64 bits; got {show(seed)}") from None


def check_seed(seed: object) -> None:
    """Raise an error unless a seed is an integer that fits in a checkpoint.

    Raises:
        OptionTypeError: the seed is not an integer.
        OptionError: the seed does not fit in a signed 64-bit integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise OptionTypeError("seed", seed, "an integer")
    if not -(2**63) <= seed < 2**63:
        raise OptionError("seed", seed, "a 64-bit integer")
