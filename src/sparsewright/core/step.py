"""The type of a step: the number of completed optimizer steps, as an int or a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

Step = int | Tensor
"""Number of completed optimizer steps, >= 0: an int or a 0-d int64 tensor."""

# Schedules compute in float64, which represents every integer up to this one.
MAX_STEP = 2**53


def as_tensor(step: Step) -> Tensor:
    """Return a step as a 0-d int64 tensor; an int goes to the CPU, not the default device."""
    return step if isinstance(step, Tensor) else torch.tensor(step, device="cpu")


def device_of(step: Step) -> torch.device:
    """Return the device of a step, which is the CPU for an int."""
    return step.device if isinstance(step, Tensor) else torch.device("cpu")
