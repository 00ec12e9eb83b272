"""Plots of schedules and masks; they need matplotlib."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsewright.errors import OptionError, needs

_PIXELS = 512  # on each side of a mask's plot; larger masks are plotted as densities


def axes_or_new(ax: Any, what: str) -> Any:
    """Return `ax`, or the axes of a new figure if `ax` is None.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with needs(what, "matplotlib", extra="plot"):
        from matplotlib import pyplot
    return pyplot.subplots()[1] if ax is None else ax


def plot_values(schedule: Any, steps: int, ax: Any) -> Any:
    """Plot the values of a hyperparameter schedule at the steps 0..steps."""
    _check_steps(steps)
    ax = axes_or_new(ax, "plot()")
    schedule, values = copy.deepcopy(schedule), []
    for step in range(steps + 1):
        values.append(float(schedule(step)))
        schedule.update(True)
    ax.plot(range(steps + 1), values, drawstyle="steps-post", label=repr(schedule))
    # A schedule with state changes at each mask update, not at each step.
    ax.set_xlabel("update" if schedule.state_dict() else "step")
    ax.set_ylabel("value")
    return ax


def plot_updates(schedule: Any, steps: int, ax: Any) -> Any:
    """Plot each update step in 0..steps as a vertical line."""
    _check_steps(steps)
    ax = axes_or_new(ax, "plot()")
    ax.vlines(schedule.steps(steps), 0, 1, label=repr(schedule))
    ax.set_xlim(0, steps)
    ax.set_yticks([])
    ax.set_xlabel("step")
    return ax


def show_mask(mask: Tensor, title: str, ax: Any) -> Any:
    """Plot a mask with live connections dark; dimensions after the first become columns."""
    ax = axes_or_new(ax, "show()")
    # reshape(rows, -1) fails if the mask has no rows.
    rows = mask.reshape(mask.shape[0] if mask.ndim else 1, mask.shape[1:].numel())
    image = density(rows.cpu().numpy(), _PIXELS)
    if image.size:
        ax.imshow(image, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_title(title)
    ax.set_xlabel("input")
    ax.set_ylabel("output")
    return ax


def density(mask: NDArray[np.bool_], most: int) -> NDArray[np.float64]:
    """Return the fraction of live entries in blocks of a mask, at most `most` blocks per side.

    Args:
        mask: bool `[rows, cols]`.
        most: largest number of blocks along each dimension.

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
