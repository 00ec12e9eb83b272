"""Masks that a model already has when an algorithm is applied to it."""

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
"""Fraction of zeros among kept weights above which the model counts as pruned before."""

logger = logging.getLogger("sparsewright")


@torch.no_grad()
def take_over(parameter: SparseParameter) -> None:
    """Adjust an existing mask to the level of step 0.

    A higher level prunes more connections by magnitude. A lower level grows random connections,
    but only if the schedule is constant. The mask is not changed if the run is resumed, if
    training starts dense, or if the init method is `from_zeros`.
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
    new = drop_and_grow(weight, parameter.mask, level, 0.0, score, parameter.structure)
    changes = parameter.change_mask(new)
    if any(changes):
        logger.info(
            "%s: its existing mask kept %d of %d connections and now keeps %d, to reach level %g",
            *(parameter.name, before, parameter.shape.numel(), parameter.kept, float(level)),
        )


@torch.no_grad()
def warn_of_zeros(parameters: Iterable[SparseParameter]) -> None:
    """Log a warning if new masks keep many zeros, so that weights are sparser than their level."""
    names = [parameter.name for parameter in parameters if _keeps_zeros(parameter)]
    if names:
        logger.warning(
            "%s: the new masks keep many entries that are already zero, as in a pruned model whose "
            "masks were lost; pass init_method='from_zeros' to keep exactly the nonzero entries",
            listed(names),
        )


def _keeps_zeros(parameter: SparseParameter) -> bool:
    param, mask = parameter.param, parameter.mask
    if param.is_meta or sharded.is_sharded(param) or not 0 < parameter.kept < mask.numel():
        return False
    alive = int(param.count_nonzero())
    return 0 < alive < (1 - _MANY) * parameter.kept
