"""Base classes of recipes: default sections, and the task that the loop trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.recipes.sections import LoopSettings, OptimizerSettings


@dataclass(frozen=True)
class Task:
    """A model and its training data.

    All randomness is a function of the seed and the step. A checkpoint therefore needs no generator
    state and no position in the data, and a resumed run sees the same batches as an uninterrupted
    run.

    Attributes:
        make_model: makes a new model, with the same weights in every call.
        batch: step (0, 1, ...) -> inputs `[batch, ...]` and targets; the same in every call.
        loss: model, inputs, targets -> scalar mean loss, in nats.
        evaluate: model -> metrics on the held-out data, including `loss`.
        unit: name of the unit that `units_per_step` counts, for messages.
        units_per_step: units in one batch.
        fingerprint: digest of the data; a run resumes only with the same data.
        metadata: strings saved with the weights, for programs that use the weights.
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
    """The default sections of a recipe, and the functions that make a task from sections.

    Attributes:
        data: section `data`; a dataclass that the recipe defines.
        model: section `model`; a dataclass that the recipe defines.
        optimizer: section `optimizer`.
        loop: section `loop`.
        sparsity: loop -> the default section `sparsity`.
        make_task: data, model, loop -> task; reads the data.
        outline: data, model, loop -> a new model and inputs with the shape of a batch.
    """

    data: Any
    model: Any
    optimizer: OptimizerSettings
    loop: LoopSettings
    sparsity: Callable[[LoopSettings], Any]
    make_task: Callable[[Any, Any, LoopSettings], Task]
    outline: Callable[[Any, Any, LoopSettings], tuple[nn.Module, Tensor]]


def rigl_section(loop: LoopSettings, level: float, updates: int) -> dict[str, Any]:
    """Make a RigL section with mask updates in the first three quarters of the run.

    A cosine lowers the drop fraction from 0.3 towards 0 over these updates.

    Args:
        loop: section `loop`.
        level: sparsity level, 0..1.
        updates: approximate number of mask updates.

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
    """Return a generator with a stream that depends only on the seed and the step."""
    return torch.Generator().manual_seed(key(seed, step))


def key(seed: int, step: int) -> int:
    """Combine a seed and a step into one seed, which is unique for steps below a million."""
    return seed * 1_000_003 + step
