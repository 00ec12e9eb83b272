"""The optimizers that a session follows, and the number of steps each has completed."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from sparsewright.errors import AttachError, OptionTypeError, warn
from sparsewright.session import replicas
from sparsewright.session.decay import log_lost_decay
from sparsewright.session.followed import Followed
from sparsewright.session.moved import follow_moved
from sparsewright.session.optimizers import family
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Rule
from sparsewright.session.step_counter import StepCounter
from sparsewright.storage.states import States

if TYPE_CHECKING:
    from sparsewright.session.session import Session

logger = logging.getLogger("sparsewright")


class Following(ABC):
    """Follow the optimizers of a session through weak references.

    Attributes:
        parameters: full name -> sparse parameter, in attachment order.
        followed: the followed optimizers.
        counter: the number of steps that each of them has completed.
    """

    def __init__(self, steps: Iterable[int]) -> None:
        self.parameters: dict[str, SparseParameter] = {}
        self.followed: list[Followed] = []
        self.counter = StepCounter(steps)
        self._hidden = replicas.HiddenMasks()
        self._are_checked = True

    @property
    @abstractmethod
    def whole(self) -> Session:
        """Return the session that this object is part of."""

    @abstractmethod
    def follow(self) -> list[int]:
        """Update the hooks of replaced or unfrozen parameters; return all parameters' ids."""

    def follow_optimizer(self, optimizer: Optimizer, rules: Iterable[Rule]) -> bool:
        """Follow an optimizer for some algorithms, and prune its state.

        Returns:
            True if at least one of the algorithms did not follow the optimizer before, or if the
            optimizer wraps a followed one.

        Raises:
            AttachError: the optimizer cannot step a weight in its storage.
        """
        follow_moved(self.whole)
        self._hidden.reshard()
        known = self.find_followed(optimizer)
        followed = Followed(optimizer, self.whole) if known is None else known
        is_new = known is None or followed.join(optimizer)
        new = [rule for rule in rules if rule not in followed.rules]
        followed.rules += new
        joined = [p for p in followed.parameters() if p.rule in new]
        reasons = (followed.why_not_step(p, type(p.storage)) for p in joined)
        problem = next(filter(None, reasons), "")
        if problem:
            followed.leave(new)
            raise AttachError(type(optimizer).__name__, f"{problem}; use storage 'masked'")
        if known is None:
            self._add_followed(followed)
        for parameter in joined:
            parameter.storage.take_states(parameter.optimizer_states(optimizer))
        followed.loaded(optimizer)
        followed.prune_loaded()
        log_lost_decay(optimizer, joined)
        return is_new or bool(new)

    def _add_followed(self, followed: Followed) -> None:
        """Add an optimizer; it continues the step count of others that step its parameters."""
        own, others = set(followed.parameters()), list(self.followed)
        counted = zip(others, self.counter.steps, strict=False)
        before = [count for other, count in counted if own & set(other.parameters())]
        if before:
            self.counter.take_over(len(others), max(before))
        self.followed.append(followed)
        self._are_checked = False
        self.let_go()

    def let_go(self) -> None:
        """Forget freed optimizers once another optimizer continues their step count."""
        for gone in [f for f in self.followed if f.optimizer is None]:
            own = set(gone.parameters())
            heirs = [
                f for f in self.followed if f.optimizer is not None and own & set(f.parameters())
            ]
            if heirs:
                steps = self.counter.steps_at(self.followed.index(gone))
                self.counter.reach(self.followed.index(heirs[0]), steps)
                self._forget(gone)

    def find_followed(self, optimizer: Optimizer | None) -> Followed | None:
        """Return the `Followed` of an optimizer or of one that it wraps, or None."""
        if not isinstance(optimizer, Optimizer | None) and not hasattr(optimizer, "__dict__"):
            raise OptionTypeError("optimizer", optimizer, "an Optimizer")
        members = [] if optimizer is None else family(optimizer)
        return next((f for f in self.followed if any(o in members for o in f.members)), None)

    def remove_optimizer(self, optimizer: Optimizer, rules: Iterable[Rule]) -> None:
        """Stop following an optimizer for some algorithms.

        Raises:
            AttachError: none of the algorithms follows the optimizer.
        """
        followed, gone = self.find_followed(optimizer), list(rules)
        if followed is None or not any(rule in followed.rules for rule in gone):
            problem = "it was not passed to apply(), or was already removed"
            raise AttachError(type(optimizer).__name__, problem)
        self.leave(followed, gone)

    def leave(self, followed: Followed, rules: Iterable[Rule]) -> None:
        """Stop following an optimizer for some algorithms; remove its hooks if none remains."""
        if followed.leave(rules):
            self._forget(followed)

    def _forget(self, followed: Followed) -> None:
        self.counter.drop(self.followed.index(followed))
        self.followed.remove(followed)

    def check_stepped(self) -> None:
        """Warn, at the first step, about sparse parameters that no optimizer steps."""
        if self.parameters and not self._are_checked:
            self._are_checked = True
            follow_moved(self.whole)
            stepped = {p for followed in self.followed for p in followed.parameters()}
            if not stepped:
                warn(
                    "the optimizer holds no sparse parameter, so masks will not be updated; "
                    "call apply() on the module that this optimizer trains"
                )
            for parameter in self.parameters.values() if stepped else ():
                if parameter not in stepped and parameter.rule.selections:
                    text = (
                        "%s: its mask never changes because none of the optimizers passed to "
                        "apply() steps it; pass its optimizer too"
                    )
                    logger.warning(text, parameter.name)

    def states_not_loaded(self, parameter: SparseParameter) -> States:
        """Return a parameter's states, without optimizers whose state was just loaded."""
        optimizers = (f.optimizer for f in self.followed if not f.is_loaded)
        return [
            state for o in optimizers if o is not None for state in parameter.optimizer_states(o)
        ]

    def step_of(self, rules: Sequence[Rule]) -> int:
        """Return the highest step count of the optimizers that step some algorithms' parameters."""
        if len(self.counter.steps) < 2:
            return self.counter.furthest
        members = {id(rule) for rule in rules}
        counted = zip(self.followed, self.counter.steps, strict=False)
        own = [n for f, n in counted if not members.isdisjoint(f.by_rule())]
        return max(own, default=self.counter.furthest)

    def steps_of(self, rule: object) -> list[int]:
        """Return all step counts; 0 for an optimizer that holds no parameter of the algorithm."""
        steps, is_held = list(self.counter.steps), self.is_held(rule)
        for slot, followed in enumerate(self.followed[: len(steps)]):
            if is_held and id(rule) not in followed.by_rule():
                steps[slot] = 0
        return steps

    def is_held(self, rule: object) -> bool:
        """Return whether any optimizer steps a parameter of an algorithm."""
        return any(id(rule) in followed.by_rule() for followed in self.followed)
