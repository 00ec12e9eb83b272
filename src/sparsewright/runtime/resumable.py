"""The state of an algorithm: saved, restored, copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.schedule_set import ScheduleSet
from sparsewright.core.state_dicts import check_state
from sparsewright.runtime.attach import Attachment


class Resumable:
    """Everything, besides the masks in the model, that the future of a run depends on.

    Attributes:
        seed: the seed.
        schedules: by name, the schedules that move, and are saved, with the run.
    """

    seed: int
    schedules: ScheduleSet
    _steps: list[int]  # of each optimizer, in the order in which they were applied
    _attachment: Attachment

    @property
    def step(self) -> int:
        """Optimizer steps completed (of the furthest optimizer, if there are several)."""
        return max(self._steps, default=0)

    def after_state_change(self) -> None:
        """Called when parameters, optimizers or the step changed outside of a training step."""
        self._attachment.follow()

    def _fold_steps(self) -> None:
        """A single optimizer goes on where the furthest of those before it stopped."""
        if len(self._attachment.optimizers) == 1 and len(self._steps) > 1:
            self._steps = [self.step]

    def visit_state(self, f: Callable[[Tensor], Tensor]) -> None:
        """Replace every number of the state by `f` of it, as 0-d tensors."""
        self._steps = [int(f(torch.tensor(step, device="cpu"))) for step in self._steps]
        self.schedules.visit_state(f)

    def state_dict(self) -> dict[str, Any]:
        """Everything, besides the masks in the model, that the future of the run depends on.

        Plain numbers, strings, lists and dicts: safe for `torch.load(weights_only=True)` and JSON.
        """
        return {
            "algorithm": type(self).__name__,
            "steps": list(self._steps),
            "seed": self.seed,
            "schedules": self.schedules.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, before or after `apply`.

        Raises:
            StateError: it is not the state of this algorithm; nothing is changed then.
        """
        check_state(type(self).__name__, state_dict, self.state_dict())
        self.schedules.load_state_dict(state_dict["schedules"])
        self._steps, self.seed = list(state_dict["steps"]), state_dict["seed"]
        self._fold_steps()
        self._attachment.dense_gradients.disarm(self._attachment.parameters.values())
        self.after_state_change()

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle has the options and the state, and is attached to nothing."""
        state = vars(self).copy()
        del state["_attachment"]
        state["_level_names"] = {}
        return state
