"""Saving, loading and copying of an algorithm's state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsewright.core.hooks import Hooks
from sparsewright.core.inference import outside_inference_mode
from sparsewright.core.state_dicts import check_state, load_all
from sparsewright.core.structure import Structure
from sparsewright.errors import StateError, warn
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.session.levels import Levels
from sparsewright.session.session import Session
from sparsewright.wording import show

if TYPE_CHECKING:
    from typing_extensions import Self


class Resumable(ABC):
    """Save, load and copy the state that a run needs in addition to the masks in the model.

    Attributes:
        seed: the seed.
        schedules: the schedules by name; their state is saved with the run.
        shadows: full name -> dense entries of a shadowed weight.
    """

    seed: int
    schedules: ScheduleSet
    shadows: dict[str, Tensor]
    session: Session
    _hooks: Hooks
    _levels: Levels
    _structures: dict[str, Structure]
    _level_names: dict[str, str]
    _routes: list[Any]

    @property
    @abstractmethod
    def algorithms(self) -> Sequence[Any]:
        """Return a Group's distinct algorithms, in order; otherwise a list with the algorithm."""

    @property
    @abstractmethod
    def is_single(self) -> bool:
        """Return True if the algorithm decides masks itself, False for a Group."""

    @property
    def step(self) -> int:
        """Return the number of completed steps; the highest one if there are several optimizers."""
        return self.session.step_of(self.algorithms)

    def visit_state(self, f: Callable[[Tensor], Tensor]) -> None:
        """Replace every number `x` in the state with `f(x)`; `f` maps 0-d tensors."""
        every = [self.session.steps_of(algorithm) for algorithm in self.algorithms]
        visited = [[int(f(torch.tensor(n, device="cpu"))) for n in steps] for steps in every]
        for algorithm in self.algorithms:
            algorithm.schedules.visit_state(f)
        self.session.counter.load(_furthest(visited))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that resuming needs in addition to the masks in the model.

        The state contains numbers, strings, lists and dicts, which are safe for
        `torch.load(weights_only=True)` and JSON. If weights are shadowed, it also contains
        tensors. A Group returns the states of its algorithms, in order:
        `{"algorithm": "Group", "algorithms": [...]}`.
        """
        name = type(self).__name__
        for parameter in self.session.parameters.values():
            parameter.storage.end_interrupted()
        if not self.is_single:
            states = [algorithm.state_dict() for algorithm in self.algorithms]
            return {"algorithm": name, "algorithms": states}
        state = {
            "algorithm": name,
            "steps": self.session.steps_of(self),
            "seed": self.seed,
            "schedules": self.schedules.state_dict(),
            **self._levels.state_dict(),
        }
        return {**state, "shadows": dict(self.shadows)} if self.shadows else state

    @outside_inference_mode()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`, before or after `apply`.

        Raises:
            StateError: the state does not belong to this algorithm; nothing is changed.
        """
        own = self.state_dict()
        optional = {"shadows"} if self.is_single else set()
        check_state(type(self).__name__, state_dict, own, optional)
        if self.is_single:
            self._load(state_dict)
            self.session.load_steps(state_dict["steps"])
            return
        states = state_dict["algorithms"]
        if not isinstance(states, list):
            raise StateError("Group", f"algorithms must be a list, not {show(states)}")
        if len(states) != len(self.algorithms):
            raise StateError(
                "Group",
                f"it has {len(self.algorithms)} algorithms, but the state has {len(states)}",
            )
        before = list(self.session.counter.steps)
        try:
            load_all(self.algorithms, states)
        except BaseException:  # re-raised; each member has already loaded its own step counts
            self.session.load_steps(before)
            raise
        self.session.load_steps(_furthest([state["steps"] for state in states]))

    def _load(self, state: Mapping[str, Any]) -> None:
        """Load the part of a checked state that belongs to this algorithm alone."""
        shadows = self._checked_shadows(state.get("shadows", {}))
        load_all([self.schedules, self._levels], [state["schedules"], state])
        self.seed = state["seed"]
        self.shadows.clear()
        self.shadows.update(shadows)

    def _checked_shadows(self, shadows: object) -> dict[str, Tensor]:
        """Return a copy of the shadows if they fit the attached weights.

        Raises:
            StateError: the shadows are not tensors by name, or a shape differs from its weight's.
        """
        what = f"the shadows of {type(self).__name__}"
        if not isinstance(shadows, Mapping):
            raise StateError(what, f"expected a dict, got {show(shadows)}")
        for name, shadow in shadows.items():
            parameter = self.session.parameters.get(name)
            if not isinstance(name, str):
                raise StateError(what, f"expected a string as a name, got {show(name)}")
            if not isinstance(shadow, Tensor):
                raise StateError(what, f"expected a tensor for {show(name)}, got {show(shadow)}")
            if parameter is not None and shadow.shape != parameter.shape:
                raise StateError(
                    what,
                    f"expected a tensor of shape {tuple(parameter.shape)} for {show(name)}, "
                    f"got shape {tuple(shadow.shape)}",
                )
        return {name: shadow.detach().clone() for name, shadow in shadows.items()}

    def _rename(self, new: Mapping[str, str]) -> None:
        """Rename parameters: old full name -> new full name."""
        self._level_names = {new.get(name, name): by for name, by in self._level_names.items()}
        self._levels.rename(new)
        self._structures = {new.get(name, name): each for name, each in self._structures.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Return the options and state for a copy or a pickle, without what is attached."""
        state = vars(self).copy()
        del state["session"]
        return {
            **state,
            "_level_names": {},
            "_structures": {},
            "_steps": list(self.session.counter.steps),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that is not attached to anything; warn if its model is copied with it."""
        new = memo[id(self)] = object.__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        held = [p for p in self.session.parameters.values() if p.storage.is_alive]
        if self.session.owner is self and any(id(p.module) in memo for p in held):
            warn(
                f"{type(self).__name__} was copied together with its model; the copy is not "
                "attached, so the copied model would train dense; call apply() of the copied "
                "algorithm with the copied model and the copied optimizer"
            )
        return new

    def __copy__(self) -> Self:
        """Return a copy that is not attached to anything; the original stays attached."""
        new = object.__new__(type(self))
        copies = {id(self): new}
        for algorithm in self.algorithms:
            if id(algorithm) not in copies:
                copies[id(algorithm)] = copy.copy(algorithm)
        shadows = {name: shadow.clone() for name, shadow in self.shadows.items()}
        own = {"_hooks": Hooks(), "shadows": shadows}
        routes = [(param_filter, copies[id(each)]) for param_filter, each in self._routes]
        new.__setstate__({**self.__getstate__(), **own, "_routes": routes})
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        steps = state.pop("_steps")
        vars(self).update(state)
        self.session = Session(self, steps)
        for algorithm in self.algorithms:
            algorithm.session = self.session


def _furthest(every: Sequence[Sequence[int]]) -> list[int]:
    """Return, for each optimizer, the highest of several step counts."""
    return [max(steps) for steps in zip_longest(*every, fillvalue=0)]
