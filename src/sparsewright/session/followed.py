"""An optimizer whose steps a session follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewright.session.optimizers import params_of
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Rule
from sparsewright.torch_private import is_skipped

if TYPE_CHECKING:
    from sparsewright.session.session import Session


class Followed:
    """The hooks on one optimizer, and the sparse parameters that it steps.

    Attributes:
        optimizer: the optimizer.
        rules: the algorithms that follow it.
        is_loaded: whether its state was loaded since its last step, and is not pruned yet.
    """

    def __init__(self, optimizer: Optimizer, session: Session) -> None:
        self.optimizer, self._session = optimizer, session
        self.rules: list[Rule] = []
        self.is_loaded = False
        self._known: tuple[list[int], list[int], list[int]] | None = None
        self._parameters: list[SparseParameter] = []
        self._by_rule: dict[int, list[SparseParameter]] = {}
        self._is_fresh = False  # while masks are updated nothing is replaced
        self._handles: list[RemovableHandle] = [
            # A compiled optimizer step calls them; it cannot trace them.
            optimizer.register_step_pre_hook(torch.compiler.disable(self._before)),
            optimizer.register_step_post_hook(torch.compiler.disable(self._after)),
            optimizer.register_load_state_dict_post_hook(self.loaded),
        ]

    def leave(self, rules: Iterable[Rule]) -> bool:
        """Let algorithms go; without any left, take the hooks off and return True."""
        gone = list(rules)
        self.rules = [rule for rule in self.rules if rule not in gone]
        if not self.rules:
            for handle in self._handles:
                handle.remove()
        return not self.rules

    def parameters(self) -> list[SparseParameter]:
        """Return the sparse parameters that it steps, in the order of attaching."""
        if not self._is_fresh:
            known = params_of(self.optimizer), self._session.follow(), list(map(id, self.rules))
            if known != self._known:
                self._known = known
                self._find(set(known[0]), known[1])
        return self._parameters

    def _find(self, stepped: set[int], own: list[int]) -> None:
        """Find the parameters among those of the session, whose ids are given in order."""
        followers = {id(rule) for rule in self.rules}
        every = zip(self._session.parameters.values(), own, strict=True)
        self._parameters = [p for p, at in every if at in stepped and id(p.rule) in followers]
        self._by_rule = {}
        for parameter in self._parameters:
            self._by_rule.setdefault(id(parameter.rule), []).append(parameter)

    def by_rule(self) -> dict[int, list[SparseParameter]]:
        """Return the same by the ids of their algorithms."""
        self.parameters()
        return self._by_rule

    def stepped_rules(self) -> list[Rule]:
        """Return those of its algorithms whose steps are this optimizer's.

        Those of an algorithm without a parameter in it are not, if another optimizer has one.
        """
        own = self.by_rule()
        return [r for r in self.rules if id(r) in own or not self._session.is_held(r)]

    def loaded(self, optimizer: Optimizer) -> None:
        """Prune the state before the next step: masks that belong to it may be loaded after it."""
        self.is_loaded = True

    def prune_loaded(self) -> None:
        """Prune a state that was loaded."""
        if self.is_loaded:
            self.is_loaded = False
            for parameter in self.parameters():
                parameter.prune_state(self.optimizer)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self.prune_loaded()
        self._session.check_stepped()
        parameters = self.parameters()
        self._session.take_gradients(parameters)
        return _around_closure(parameters, args, kwargs) if _put_in(parameters) else None

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        try:
            _take_out(self.parameters())
            self._is_fresh = True
            # A fused step under a GradScaler is called although it does nothing after an overflow,
            # but for SGD: torch 2.13 leaves the first momentum as memory that nobody wrote to.
            if is_skipped(optimizer):
                self.loaded(optimizer)
                self.prune_loaded()
            else:
                self._update(optimizer)
        finally:
            self._is_fresh = False

    def _update(self, optimizer: Optimizer) -> None:
        rules = [rule for rule in self.stepped_rules() if rule._autoupdate]
        if rules:
            with self._session.stepping(optimizer, rules):
                for rule in rules:
                    rule.update(optimizer)


def _put_in(parameters: Iterable[SparseParameter]) -> bool:
    """Give the optimizer what it steps; return whether nobody else may see that."""
    are_dense = [parameter.storage.before_step() for parameter in parameters]
    return any(are_dense)


def _take_out(parameters: Iterable[SparseParameter]) -> None:
    for parameter in parameters:
        parameter.storage.after_step()


def _around_closure(
    parameters: list[SparseParameter], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of `step`, with a closure that computes its loss with the pruned weights."""

    def wrapped(closure: Callable[[], Any]) -> Callable[[], Any]:
        def inner() -> Any:
            _take_out(parameters)
            loss = closure()  # if it raises, the weights stay pruned
            _put_in(parameters)
            return loss

        return inner

    itself, *rest = args
    if rest and callable(rest[0]):
        rest[0] = wrapped(rest[0])
    if callable(kwargs.get("closure")):
        kwargs = {**kwargs, "closure": wrapped(kwargs["closure"])}
    return (itself, *rest), kwargs
