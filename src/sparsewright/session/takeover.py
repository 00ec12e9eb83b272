"""Masks that a model has already when an algorithm is applied to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from sparsewright.core.masks import drop_and_grow
from sparsewright.core.random_scores import uniform
from sparsewright.init import from_zeros
from sparsewright.kernels import sharded
from sparsewright.schedules.schedule import constant_value
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rng import make_generator
from sparsewright.wording import listed

_MANY = 0.1
"""Share of zeros among kept weights from which a model was pruned before, rather than trained."""

logger = logging.getLogger("sparsewright")


@torch.no_grad()
def take_over(parameter: SparseParameter) -> None:
    """Bring a mask that the model had already to the level of step 0, if it is not there.

    A higher level prunes it further, by magnitude; a lower one grows it at random, unless that
    level moves. The mask stays in a run that is resumed, and if training starts dense.
    """
    rule = parameter.rule
    if rule.session.step_of([rule]) or not rule.update_steps(0) or rule.init_method is from_zeros:
        return
    level = rule.level_at(parameter, 0)
    is_constant = constant_value(rule.schedules[rule.schedule_of(parameter)]) is not None
    if not is_constant and float(level) < parameter.computed_sparsity:
        return
    before, weight = parameter.kept, parameter.storage.weight()
    score = uniform(weight, make_generator(rule.seed, parameter.name, 0))
    new = drop_and_grow(weight, parameter.mask, level, 0.0, score, rule.structure)
    changes = parameter.change_mask(new)
    if any(changes):
        logger.info(
            "%s: the mask that it had kept %d of %d connections; at level %g it keeps %d",
            *(parameter.name, before, parameter.shape.numel(), float(level), parameter.kept),
        )


@torch.no_grad()
def warn_of_zeros(parameters: Iterable[SparseParameter]) -> None:
    """Log new masks that keep many weights which are zero already: two levels act at once."""
    names = [parameter.name for parameter in parameters if _keeps_zeros(parameter)]
    if names:
        logger.warning(
            "%s: many of the weights that the new masks keep are zero already, as in a pruned "
            "model whose masks are lost; init_method='from_zeros' keeps those that are not",
            listed(names),
        )


def _keeps_zeros(parameter: SparseParameter) -> bool:
    param, mask = parameter.param, parameter.mask
    if param.is_meta or sharded.is_sharded(param) or not 0 < parameter.kept < mask.numel():
        return False
    alive = int(param.count_nonzero())
    return 0 < alive < (1 - _MANY) * parameter.kept
