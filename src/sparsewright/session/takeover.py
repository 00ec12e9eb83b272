"""Masks that a model has already when an algorithm is applied to it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from sparsewright.core.masks import drop_and_grow
from sparsewright.core.random_scores import uniform
from sparsewright.core.structure import Structure
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rng import make_generator

logger = logging.getLogger("sparsewright")


@torch.no_grad()
def bring_to_level(
    parameter: SparseParameter, level: Tensor, structure: Structure, seed: int
) -> None:
    """Prune a mask further, by magnitude, or grow it at random, until it has a level.

    Args:
        parameter: the parameter with its mask.
        level: the level to reach, 0..1; a 0-d tensor.
        structure: which entries stand or fall together.
        seed: seed of what grows.
    """
    before, weight = parameter.kept, parameter.storage.weight()
    score = uniform(weight, make_generator(seed, parameter.name, 0))
    new = drop_and_grow(weight, parameter.mask, level, 0.0, score, structure)
    changes = parameter.change_mask(new)
    if any(changes):
        logger.info(
            "%s: its mask had %d of %d connections; at level %g it has %d",
            *(parameter.name, before, parameter.shape.numel(), float(level), parameter.kept),
        )
