"""Hooks on an optimizer that keep its parameters pruned and update masks after its steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewright.errors import AttachError
from sparsewright.session.late_writes import LateWrites
from sparsewright.session.optimizers import (
    StepHandle,
    family,
    params_of,
    unwrapped,
    why_not_follow,
)
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Rule
from sparsewright.session.stepping import prune_weights
from sparsewright.storage import Storage
from sparsewright.storage.states import kinds_of
from sparsewright.torch_private import has_load_hooks, has_step_hooks, is_skipped, step_pre_hooks

if TYPE_CHECKING:
    from sparsewright.session.session import Session


class Followed:
    """Add hooks to an optimizer and the optimizers that it wraps, and find their parameters.

    The object holds weak references to these optimizers (its members). A step lasts as long as the
    `step` call of the outermost member that the user calls. Values that a wrapper writes after the
    inner step are therefore pruned too.

    Attributes:
        rules: the algorithms that follow the optimizer.
        is_loaded: whether its state was loaded after its last step and is not pruned yet.

    Raises:
        AttachError: the optimizer cannot train sparse weights.
    """

    def __init__(self, optimizer: Optimizer, session: Session) -> None:
        self._session = session
        self.rules: list[Rule] = []
        self.is_loaded = False
        self._known: tuple[list[int], list[int], list[int]] | None = None
        self._parameters: list[SparseParameter] = []
        self._moving: list[SparseParameter] = []
        self._by_rule: dict[int, list[SparseParameter]] = {}
        self._is_fresh = False  # True during mask updates, when no parameter is replaced
        self._running: list[int] = []
        self._has_stepped = False
        self._late = LateWrites()
        self._order: dict[int, tuple[int, int]] = {}
        self._handles: list[RemovableHandle | StepHandle] = []
        self._members: list[weakref.ref[Optimizer]] = []
        self._stepper = weakref.ref(unwrapped(optimizer))
        self.join(optimizer)

    def join(self, optimizer: Optimizer) -> bool:
        """Add hooks to an optimizer and those that it wraps; return whether any of them is new."""
        known = self.members
        new = [each for each in family(optimizer) if all(each is not other for other in known)]
        for each in new:
            if problem := why_not_follow(each):
                raise AttachError(type(each).__name__, problem)
        self._members = [weakref.ref(each) for each in (*new, *known)]
        for each in new:
            # A compiled optimizer step calls these hooks but cannot trace them.
            before, after = map(torch.compiler.disable, (self._before, self._after))
            if has_step_hooks(each):
                self._handles.append(first := each.register_step_pre_hook(before))
                self._order[id(each)] = first.id, len(step_pre_hooks(each))
                self._handles.append(each.register_step_post_hook(after))
            else:
                self._handles.append(StepHandle(each, before, after))
            if has_load_hooks(each):
                self._handles.append(each.register_load_state_dict_post_hook(self.loaded))
        return bool(new)

    @property
    def members(self) -> list[Optimizer]:
        """Return the optimizer and those that it wraps, if they are still alive."""
        return [each for ref in self._members if (each := ref()) is not None]

    @property
    def optimizer(self) -> Optimizer | None:
        """Return the outermost member that has step hooks, or None if it was freed."""
        return self._stepper()

    def leave(self, rules: Iterable[Rule]) -> bool:
        """Drop algorithms; remove the hooks and return True if no algorithm remains."""
        gone = list(rules)
        self.rules = [rule for rule in self.rules if rule not in gone]
        if not self.rules:
            for handle in self._handles:
                handle.remove()
        return not self.rules

    def parameters(self) -> list[SparseParameter]:
        """Return the sparse parameters that the optimizer steps, in attachment order."""
        optimizer = self.optimizer
        if not self._is_fresh and optimizer is not None:
            stepped = [at for each in self.members for at in params_of(each)]
            known = stepped, self._session.follow(), list(map(id, self.rules))
            if known != self._known:
                self._known = known
                self._find(set(known[0]), known[1])
        return self._parameters

    def _find(self, stepped: set[int], own: list[int]) -> None:
        """Find the stepped parameters; `own` lists the ids of the session's parameters in order."""
        followers = {id(rule) for rule in self.rules}
        every = zip(self._session.parameters.values(), own, strict=True)
        self._parameters = [p for p, at in every if at in stepped and id(p.rule) in followers]
        self._by_rule = {}
        self._moving = [
            p
            for p in self._parameters
            if not p.storage.trains_pruned
            and any(kinds_of(each, p.param).must_be_pruned for each in self.members)
        ]
        for parameter in self._parameters:
            self._by_rule.setdefault(id(parameter.rule), []).append(parameter)

    def by_rule(self) -> dict[int, list[SparseParameter]]:
        """Return the parameters grouped by the ids of their algorithms."""
        self.parameters()
        return self._by_rule

    def stepped_rules(self) -> list[Rule]:
        """Return the algorithms that this optimizer updates.

        An algorithm without a parameter in this optimizer is left out if another optimizer steps
        one of its parameters.
        """
        own = self.by_rule()
        return [r for r in self.rules if id(r) in own or not self._session.is_held(r)]

    def loaded(self, optimizer: Optimizer) -> None:
        """Schedule pruning of the loaded state for the next step, as masks may be loaded later."""
        self.is_loaded = True

    def prune_loaded(self) -> None:
        """Prune the optimizer state if it was loaded since the last step."""
        if self.is_loaded:
            self.is_loaded = False
            for parameter in self.parameters():
                self._prune_states(parameter)

    def prune_moving_states(self) -> None:
        """Prune the states that can become nonzero at pruned connections."""
        for parameter in self._moving:
            self._prune_states(parameter)

    def _prune_states(self, parameter: SparseParameter) -> None:
        for optimizer in self.members[:1]:  # its states include those of the other members
            parameter.prune_state(optimizer)

    def why_not_step(self, parameter: SparseParameter, storage: type[Storage]) -> str:
        """Return why the optimizer cannot step a parameter in a storage; "" if it can."""
        param, ndim = parameter.param, len(parameter.shape)
        reasons = (storage.why_not_step(each, param, ndim) for each in self.members)
        return next(filter(None, reasons), "")

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        # An exception ended its last step, or its step calls the step of its base class.
        if id(optimizer) in self._running:
            del self._running[self._running.index(id(optimizer)) :]
        self._running.append(id(optimizer))
        if len(self._running) > 1:
            return None
        self._has_stepped = False
        self.prune_loaded()
        self._session.check_stepped()
        self._tell_late_writes()
        self._begin()
        return _with_closure(self._around, args, kwargs)

    def _tell_late_writes(self) -> None:
        """Log once if a weight had nonzero pruned connections in the last forward pass."""
        name = self._late.found(self.parameters())
        if name:
            self._session.tell_once(
                "late",
                f"{name}: pruned connections were set to nonzero values after the last step, and "
                "the forward pass used these values; if a wrapper such as Lookahead writes them, "
                "pass the wrapper to apply() instead of the inner optimizer",
            )

    def _begin(self) -> None:
        """Prepare gradients and storages for the optimizer step."""
        parameters = self.parameters()
        self._session.take_gradients(parameters)
        for parameter in parameters:
            parameter.storage.before_step()

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Wrap a closure so that it computes its loss with pruned weights."""

        def inner() -> Any:
            _take_out(self.parameters())
            loss = closure()  # if it raises, the weights stay pruned
            self._begin()
            return loss

        return inner

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimizer) in self._running:
            del self._running[self._running.index(id(optimizer)) :]
        else:  # the step of its base class was already counted
            self._has_stepped = False
            return self._end()
        # After an overflow, GradScaler still calls a fused step, which then does nothing. SGD is
        # the exception: torch 2.13 leaves its first momentum buffer uninitialized.
        if is_skipped(optimizer):
            self.loaded(optimizer)
        elif has_step_hooks(optimizer):
            self._has_stepped = True
        return None if self._running else self._end()

    def _end(self) -> None:
        """End the outermost step: update masks, or prune the weights if no step was made."""
        try:
            _take_out(self.parameters())
            late = self._parameters if self._come_last() else []
            self._is_fresh = True
            if self._has_stepped and self.optimizer is not None:
                self._update(self.optimizer)
            else:
                prune_weights(self._parameters)
                self.prune_loaded()
            for parameter in late:
                parameter.prune_all()
            self._late.note(self._parameters)
        finally:
            self._is_fresh = False

    def _come_last(self) -> bool:
        """Move our pre-hooks behind pre-hooks registered later; return whether any was moved."""
        found = False
        for each in self.members:
            if id(each) in self._order and (hooks := step_pre_hooks(each)):
                own, count = self._order[id(each)]
                if len(hooks) > count and own in hooks:
                    hooks.move_to_end(own)
                    found = True
                self._order[id(each)] = own, len(hooks)
        return found

    def _update(self, optimizer: Optimizer) -> None:
        rules = [rule for rule in self.stepped_rules() if rule._autoupdate]
        if rules:
            with self._session.stepping(optimizer, rules):
                for rule in rules:
                    rule.update(optimizer)


def _take_out(parameters: Iterable[SparseParameter]) -> None:
    for parameter in parameters:
        parameter.storage.after_step()


def _with_closure(
    around: Callable[[Callable[[], Any]], Callable[[], Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of `step` with the closure wrapped, or None if there is no closure."""
    itself, *rest = args
    if rest and callable(rest[0]):
        return (itself, around(rest[0]), *rest[1:]), kwargs
    if callable(kwargs.get("closure")):
        return args, {**kwargs, "closure": around(kwargs["closure"])}
    return None
