"""What a recipe is: sections with their defaults, and a task for the loop to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.recipes.sections import LoopSettings, OptimizerSettings


@dataclass(frozen=True)
class Task:
    """A model to train and the data to train it on.

    Everything random is a function of the seed and the step, so there is no generator and no
    position in the data to save: a run that resumes at step n sees what it would have seen.

    Attributes:
        make_model: a fresh model, with the same weights at every call.
        batch: step (0, 1, ...) -> inputs `[batch, ...]` and targets; the same at every call.
        loss: model, inputs, targets -> scalar mean loss, in nats.
        evaluate: model -> metrics on the held-out data; always has `loss`.
        unit: what `units_per_step` counts, for messages.
        units_per_step: how many of them one step sees.
        fingerprint: digest of the data; a run resumes on the same data only.
        metadata: strings stored with the weights, needed to use them elsewhere.
    """

    make_model: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    unit: str
    units_per_step: int
    fingerprint: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A recipe: the defaults of its sections, and how to make the task from them.

    Attributes:
        data: section `data`, a dataclass of the recipe's own.
        model: section `model`, likewise.
        optimizer: section `optimizer`.
        loop: section `loop`.
        sparsity: section `loop` -> the default `sparsity` section.
        make_task: data, model, loop -> task; reads the data.
        outline: data, model, loop -> a fresh model, and inputs of the shape of a batch.
    """

    data: Any
    model: Any
    optimizer: OptimizerSettings
    loop: LoopSettings
    sparsity: Callable[[LoopSettings], Any]
    make_task: Callable[[Any, Any, LoopSettings], Task]
    outline: Callable[[Any, Any, LoopSettings], tuple[nn.Module, Tensor]]


def rigl_section(loop: LoopSettings, level: float, updates: int) -> dict[str, Any]:
    """A RigL section: `updates` mask updates in the first three quarters, fewer and fewer swaps.

    >>> rigl_section(LoopSettings(steps=400), level=0.9, updates=30)["update"]
    {'freq': 10, 'stop': 300}
    """
    stop = max(2, loop.steps * 3 // 4)
    return {
        "algorithm": "rigl",
        "sparsity": level,
        "update": {"freq": max(1, stop // updates), "stop": stop},
        "drop_fraction": {"type": "Cosine", "init": 0.3, "half_period": stop},
        "seed": loop.seed,
    }


def keyed_generator(seed: int, step: int) -> torch.Generator:
    """A generator whose stream depends on the seed and the step only."""
    return torch.Generator().manual_seed(key(seed, step))


def key(seed: int, step: int) -> int:
    """One seed from two numbers; distinct for steps below a million."""
    return seed * 1_000_003 + step
