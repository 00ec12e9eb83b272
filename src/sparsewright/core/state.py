"""Checks of state dicts before anything is taken from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsewright.core.errors import StateError


def check_state(what: str, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that `state` can be the state of the algorithm whose present state is `own`.

    Raises:
        StateError: it cannot.
    """
    if not isinstance(state, Mapping):
        raise StateError(what, f"expected a dict, got {type(state).__name__}")
    missing = [key for key in own if key not in state]
    if missing:
        raise StateError(what, f"missing: {', '.join(missing)}")
    if state["algorithm"] != own["algorithm"]:
        raise StateError(what, f"it is the state of {state['algorithm']!r}")
    steps = state["steps"]
    if not isinstance(steps, list) or not all(type(n) is int and n >= 0 for n in steps):
        raise StateError(what, f"steps must be a list of integers >= 0, not {steps!r}")
    if type(state["seed"]) is not int:
        raise StateError(what, f"seed must be an integer, not {state['seed']!r}")
