"""The state of an algorithm: saved, restored, copied."""

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
from sparsewright.errors import StateError, warn
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.session.levels import Levels
from sparsewright.session.session import Session
from sparsewright.wording import show

if TYPE_CHECKING:
    from typing_extensions import Self


class Resumable(ABC):
    """Everything, besides the masks in the model, that the future of a run depends on.

    Attributes:
        seed: the seed.
        schedules: by name, the schedules that move, and are saved, with the run.
        shadows: dense entries of shadowed weights, by full name.
    """

    seed: int
    schedules: ScheduleSet
    shadows: dict[str, Tensor]
    session: Session
    _hooks: Hooks
    _levels: Levels
    _level_names: dict[str, str]
    _routes: list[Any]

    @property
    @abstractmethod
    def algorithms(self) -> Sequence[Any]:
        """The distinct algorithms of a Group, in order; any other algorithm is its own only one."""

    @property
    @abstractmethod
    def is_single(self) -> bool:
        """Whether it decides masks itself; a Group leaves that to its algorithms."""

    @property
    def step(self) -> int:
        """Optimizer steps completed (of the furthest optimizer, if there are several)."""
        return self.session.step_of(self.algorithms)

    def visit_state(self, f: Callable[[Tensor], Tensor]) -> None:
        """Replace every number of the state by `f` of it, as 0-d tensors."""
        every = [self.session.steps_of(algorithm) for algorithm in self.algorithms]
        visited = [[int(f(torch.tensor(n, device="cpu"))) for n in steps] for steps in every]
        for algorithm in self.algorithms:
            algorithm.schedules.visit_state(f)
        self.session.counter.load(_furthest(visited))

    def state_dict(self) -> dict[str, Any]:
        """Return everything, besides the masks in the model, that the future of the run depends on.

        Plain numbers, strings, lists and dicts: safe for `torch.load(weights_only=True)` and JSON;
        and the tensors of shadowed weights. Of a Group the states of its algorithms, in order:
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
        """Take back what `state_dict` gave, before or after `apply`.

        Raises:
            StateError: it is not the state of this algorithm; nothing is changed then.
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
                "Group", f"it has {len(self.algorithms)} algorithms, the state {len(states)}"
            )
        before = list(self.session.counter.steps)
        try:
            load_all(self.algorithms, states)
        except BaseException:  # nothing is caught: each member has put its own count there
            self.session.load_steps(before)
            raise
        self.session.load_steps(_furthest([state["steps"] for state in states]))

    def _load(self, state: Mapping[str, Any]) -> None:
        """Take what belongs to this algorithm alone from a state that was checked."""
        shadows = self._checked_shadows(state.get("shadows", {}))
        load_all([self.schedules, self._levels], [state["schedules"], state])
        self.seed = state["seed"]
        self.shadows.clear()
        self.shadows.update(shadows)

    def _checked_shadows(self, shadows: object) -> dict[str, Tensor]:
        """Shadows that fit the weights that are attached.

        Raises:
            StateError: they do not.
        """
        what = f"the shadows of {type(self).__name__}"
        if not isinstance(shadows, Mapping):
            raise StateError(what, f"expected a dict, got {show(shadows)}")
        for name, shadow in shadows.items():
            parameter = self.session.parameters.get(name)
            if not isinstance(name, str) or not isinstance(shadow, Tensor):
                raise StateError(what, f"{show(name)} is {show(shadow)}; allowed: a tensor")
            if parameter is not None and shadow.shape != parameter.shape:
                raise StateError(what, f"{show(name)} is {show(shadow)}")
        return {name: shadow.detach().clone() for name, shadow in shadows.items()}

    def _rename(self, new: Mapping[str, str]) -> None:
        """Follow parameters to other full names."""
        self._level_names = {new.get(name, name): by for name, by in self._level_names.items()}
        self._levels.rename(new)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle has: options and state; it is attached to nothing."""
        state = vars(self).copy()
        del state["session"]
        return {**state, "_level_names": {}, "_steps": list(self.session.counter.steps)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that is attached to nothing, and warn if its model is copied along."""
        new = memo[id(self)] = object.__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        held = [p for p in self.session.parameters.values() if p.storage.is_alive]
        if self.session.owner is self and any(id(p.module) in memo for p in held):
            warn(
                f"{type(self).__name__} was copied with its model; the copy is attached to nothing "
                "yet, so the copied model would train dense: call apply of the copied algorithm "
                "on the copied model and on the copied optimizer"
            )
        return new

    def __copy__(self) -> Self:
        """Return a copy that is attached to nothing; what is attached stays with this one."""
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
    """The highest of several counts for each optimizer."""
    return [max(steps) for steps in zip_longest(*every, fillvalue=0)]
