"""Figures of schedules and masks, drawn with matplotlib where it is installed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsewright.errors import OptionError, needs

_PIXELS = 512  # of a mask's figure along one side; of a larger mask the density is shown


def axes_or_new(ax: Any, what: str) -> Any:
    """Return the axes to draw on: those given, or those of a new figure.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with needs(what, "matplotlib", extra="plot"):
        from matplotlib import pyplot
    return pyplot.subplots()[1] if ax is None else ax


def plot_values(schedule: Any, steps: int, ax: Any) -> Any:
    """Draw the values of a hyperparameter schedule over steps 0..steps."""
    _check_steps(steps)
    ax = axes_or_new(ax, "plot()")
    schedule, values = copy.deepcopy(schedule), []
    for step in range(steps + 1):
        values.append(float(schedule(step)))
        schedule.update(True)
    ax.plot(range(steps + 1), values, drawstyle="steps-post", label=repr(schedule))
    # What has a state moves on from update to update, not from step to step.
    ax.set_xlabel("update" if schedule.state_dict() else "step")
    ax.set_ylabel("value")
    return ax


def plot_updates(schedule: Any, steps: int, ax: Any) -> Any:
    """Draw a line at each update step among 0..steps."""
    _check_steps(steps)
    ax = axes_or_new(ax, "plot()")
    ax.vlines(schedule.steps(steps), 0, 1, label=repr(schedule))
    ax.set_xlim(0, steps)
    ax.set_yticks([])
    ax.set_xlabel("step")
    return ax


def show_mask(mask: Tensor, title: str, ax: Any) -> Any:
    """Draw a mask: live connections dark; dimensions after the first are columns."""
    ax = axes_or_new(ax, "show()")
    # Not -1 columns: without rows that could be any number.
    rows = mask.reshape(mask.shape[0] if mask.ndim else 1, mask.shape[1:].numel())
    image = density(rows.cpu().numpy(), _PIXELS)
    if image.size:
        ax.imshow(image, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_title(title)
    ax.set_xlabel("input")
    ax.set_ylabel("output")
    return ax


def density(mask: NDArray[np.bool_], most: int) -> NDArray[np.float64]:
    """Return a mask `[rows, cols]` as live shares of blocks, no more than `most` along either side.

    >>> density(np.array([[True, False, True, True]]), 2)
    array([[0.5, 1. ]])
    """
    image = mask.astype(np.float64)
    for axis, size in enumerate(mask.shape):
        blocks = min(size, most)
        starts = np.arange(blocks) * size // max(blocks, 1)
        counts = np.diff(np.append(starts, size))
        sums = np.add.reduceat(image, starts, axis)
        image = sums / (counts[:, None] if axis == 0 else counts)
    return image


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise OptionError("steps", steps, "an integer >= 1")
