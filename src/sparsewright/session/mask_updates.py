"""Mask updates of one algorithm at an update step."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsewright.errors import AlgorithmError, AttachError, ScoreError, ShapeError
from sparsewright.events import MaskUpdate
from sparsewright.kernels.sharded import all_finite
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import DynamicRule, Rule
from sparsewright.session.weight_update import WeightUpdate
from sparsewright.wording import show

if TYPE_CHECKING:
    from sparsewright.session.session import Session
    from sparsewright.session.stepping import Step

logger = logging.getLogger("sparsewright")

_NO_GRADIENT = "the weight has no gradient"


@torch.no_grad()
def change_masks(session: Session, rule: DynamicRule, step: Step) -> None:
    """Update the masks of an algorithm's parameters, one after the other.

    A mask is not updated if its gradient is not finite, or if the algorithm needs a gradient and
    there is none.

    Raises:
        AlgorithmError: `update_masks` returns more or fewer masks than weights, or no masks.
        ScoreError: the scores for a weight contain NaN.
    """
    parameters = step.of(rule)
    rule.set_levels(step.number)
    if rule.needs_dense_gradient:
        _average(session, parameters)
    ready = [p for p in parameters if _is_ready(session, rule, p, step.number)]
    updates = [_update_of(session, rule, parameter, step.number) for parameter in ready]
    made = rule.update_masks(updates)
    if not isinstance(made, Iterable):
        problem = f"it returned {show(made)}; return one mask per weight, in order"
        raise AlgorithmError(f"{type(rule).__name__}.update_masks", problem)
    masks = iter(made)
    for parameter, update in zip(ready, updates, strict=True):
        try:
            new = next(masks)
        except StopIteration:
            problem = f"it returned no mask for {update.name!r}; return one per weight, in order"
            raise AlgorithmError(f"{type(rule).__name__}.update_masks", problem) from None
        except ScoreError as error:
            raise ScoreError(f"{error.what} of {update.name} at step {step.number}") from None
        except ShapeError as error:
            raise ShapeError(update.name, error.shape, error.problem) from None
        _change(session, rule, parameter, update, new)
    if next(masks, None) is not None:
        problem = (
            f"it returned more masks than weights ({len(ready)}); return one per weight, in order"
        )
        raise AlgorithmError(f"{type(rule).__name__}.update_masks", problem)
    session.owed.discard(id(rule))


def _average(session: Session, parameters: Iterable[SparseParameter]) -> None:
    """Average the dense gradients over the ranks of the replicas; every rank must call this."""
    group = session.replicas()
    if group is not None:
        for work in [session.tap_of(parameter).average(group) for parameter in parameters]:
            if work is not None:
                work.wait()


def _is_ready(session: Session, rule: DynamicRule, parameter: SparseParameter, step: int) -> bool:
    """Return whether a mask can be updated; log the reason if it cannot."""
    grad, is_frozen = parameter.param.grad, not parameter.param.requires_grad
    if grad is None and not (is_frozen or rule.needs_gradient or rule.needs_dense_gradient):
        return True
    problem = ""
    if grad is None:
        problem = "the weight is frozen" if is_frozen else _NO_GRADIENT
    elif not all_finite(grad):
        problem = "the gradient is not finite"
    elif rule.needs_dense_gradient:
        dense = session.tap_of(parameter).gradient()
        if dense is None:
            problem = "the gradient was already pruned" if bool(grad.any()) else _NO_GRADIENT
        elif not dense.is_finite():
            problem = "the gradient is not finite"
    if problem:
        late = _why_late(rule, parameter, step)
        is_usual = grad is None or problem == _NO_GRADIENT
        level = logging.WARNING if late or not is_usual else logging.INFO
        logger.log(level, "%s: mask not updated because %s%s", parameter.name, problem, late)
    return not problem


def _why_late(rule: DynamicRule, parameter: SparseParameter, step: int) -> str:
    """Return a clause about a final level that is missed at the last update; "" if it is not."""
    if step != rule.update_schedule.last_step:
        return ""
    level = rule.level_at(parameter, step)
    expected = parameter.structure.num_kept(parameter.shape, level)
    if expected is None or expected == parameter.kept:
        return ""
    held = f"{parameter.computed_sparsity:.3f}"
    return f"; after the last update its level is {held} instead of {float(level):.3f}"


def _update_of(
    session: Session, rule: DynamicRule, parameter: SparseParameter, step: int
) -> WeightUpdate:
    """Return the facts that the algorithm may use to update one mask."""
    gradient = session.tap_of(parameter).gradient() if rule.needs_dense_gradient else None
    level = rule.level_at(parameter, step)
    return WeightUpdate(parameter, level, step, rule.seed, parameter.structure, gradient)


def _change(
    session: Session, rule: Rule, parameter: SparseParameter, update: WeightUpdate, new: Tensor
) -> None:
    """Change one mask and call the hooks."""
    update.free()
    session.tap_of(parameter).free()
    if session.replicas() is not None:
        problem = parameter.storage.why_not_change(new)
        if problem:
            raise AttachError(parameter.name, problem)
    dropped, grown = parameter.change_mask(new)
    if session.listens(rule, "mask"):
        computed, total = parameter.computed_sparsity, parameter.shape.numel()
        level = float(update.level)
        event = MaskUpdate(
            update.step, parameter.name, total, parameter.kept, level, computed, dropped, grown
        )
        session.emit([rule], "mask", event)
