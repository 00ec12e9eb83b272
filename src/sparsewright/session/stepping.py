"""The start and the end of an optimizer step in a session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from os.path import commonprefix
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.core.interrupts import finish
from sparsewright.session import replicas
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Rule

if TYPE_CHECKING:
    from sparsewright.session.session import Session


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        number: number of steps that the optimizer has completed, including this one.
        optimizer: the optimizer that stepped, or None if all parameters were stepped.
        rules: the algorithms to update.
        by_rule: algorithm id -> parameters that were stepped.
    """

    number: int
    optimizer: Optimizer | None
    rules: Sequence[Rule]
    by_rule: Mapping[int, list[SparseParameter]]

    @property
    def parameters(self) -> Iterator[SparseParameter]:
        """Yield the parameters that were stepped."""
        return chain.from_iterable(map(self.of, self.rules))

    def of(self, rule: Rule) -> list[SparseParameter]:
        """Return the stepped parameters of one algorithm."""
        return self.by_rule.get(id(rule), [])


@contextmanager
def stepping(
    session: Session, optimizer: Optimizer | None, rules: Sequence[Rule]
) -> Iterator[Step]:
    """Count a step and prune the weights; masks may change inside the block.

    Algorithms that are updated inside the block join this step, which is counted once. If a mask
    update raises, it is repeated at the next step.
    """
    outer = session.open_step
    if outer is not None and outer.optimizer is optimizer:
        yield outer
        return
    step = _open_step(session, optimizer, rules)

    def close() -> None:
        session.open_step = outer
        session.end_gradients(step)

    try:
        session.open_step = step
        _begin(session, step)
        yield step
        session.owed.difference_update(map(id, rules))
        close()
    except BaseException:  # re-raised once the session can step again
        close()
        raise
    end_step(session, step)


def _open_step(session: Session, optimizer: Optimizer | None, rules: Sequence[Rule]) -> Step:
    """Count a step and return it."""
    session.let_go()
    if optimizer is None:
        session.rest()
    followed, counter = session.find_followed(optimizer), session.counter
    if len(session.followed) == 1:
        counter.fold()
    slot = 0 if followed is None else session.followed.index(followed)
    counter.make_room(len(session.followed) if optimizer is None else slot + 1)
    counter.make_room(1)
    by_rule = session.by_rule(optimizer) if followed is None else followed.by_rule()
    _count(session, optimizer, slot, rules)
    return Step(counter.steps[slot], optimizer, rules, by_rule)


def _begin(session: Session, step: Step) -> None:
    """Prune the weights after a step and call the `begin` hooks."""
    _meet_replicas(session)
    _prune(session, list(step.parameters), step.optimizer)
    session.emit(step.rules, "begin", step)


def _count(session: Session, optimizer: Optimizer | None, slot: int, rules: Sequence[Rule]) -> None:
    """Count one step, unless these algorithms join a step that others started.

    Algorithms whose masks are due at this step are owed an update from now on.
    """
    counter, members = session.counter, [id(rule) for rule in rules]
    late = 0 if counter.has_done(slot, members) else 1
    number = counter.steps[slot] - late
    moving = [rule for rule in rules if rule.schedules.has_state]
    moving = [rule for rule in moving if number == session.step_of([rule]) - late]
    before = counter.state(), [rule.schedules.state_dict() for rule in moving]
    due = {id(rule) for rule in rules if rule._is_due(number + 1)}

    def count() -> None:
        for rule in moving:
            rule.schedules.update(rule._is_due(number))
        if not late:
            counter.count(None if optimizer is None else slot)
        counter.join(slot, members)
        session.owed |= due

    def undo() -> None:
        counter.restore(before[0])
        for rule, state in zip(moving, before[1], strict=True):
            rule.schedules.load_state_dict(state)

    finish(count, undo)


def _meet_replicas(session: Session) -> None:
    """Check, at the first step, that all replica ranks train the same sparse model."""
    group = None if session.have_agreed else session.replicas()
    if group is not None:
        parameters = list(session.parameters.values())
        replicas.check_agreement(parameters, session.counter.steps, group, _device(session))
        session.have_agreed = True


def _device(session: Session) -> torch.device:
    """Return the model's device, even if this rank has no sparse weight."""
    optimizers = chain.from_iterable(f.members for f in session.followed)
    groups = chain.from_iterable(optimizer.param_groups for optimizer in optimizers)
    stepped = chain.from_iterable(group["params"] for group in groups)
    sparse = (parameter.param for parameter in session.parameters.values())
    device: torch.device = next((p.device for p in chain(sparse, stepped)), torch.device("cpu"))
    return device


def _prune(
    session: Session, parameters: Sequence[SparseParameter], optimizer: Optimizer | None
) -> None:
    """Prune the weights and optimizer states that a step may have changed."""
    prune_weights(parameters)
    for followed in session.followed:
        if optimizer is None or optimizer in followed.members:
            followed.prune_moving_states()


def prune_weights(parameters: Iterable[SparseParameter]) -> None:
    """Prune weights that a step may have changed."""
    pairs = [pair for p in parameters if (pair := p.storage.to_prune()) is not None]
    kernels.prune_many_([weight for weight, _ in pairs], [mask for _, mask in pairs])


def end_step(session: Session, step: Step) -> None:
    """Call the hooks for target levels, measured levels and the end of the step."""
    for rule in step.rules:
        parameters = step.of(rule)
        if session.listens(rule, "target"):
            by_level: dict[str, list[str]] = {}
            for parameter in parameters:
                by_level.setdefault(rule.schedule_of(parameter), []).append(parameter.name)
            for level, names in by_level.items():
                target = rule.schedules.value(level, step.number)
                session.emit([rule], "target", rule, commonprefix(names) + "*", target)
        if session.listens(rule, "computed"):
            for parameter in parameters:
                computed = torch.tensor(parameter.computed_sparsity, device="cpu")
                session.emit([rule], "computed", rule, parameter.name, computed)
    session.emit(step.rules, "end", step)
