"""A session: the one owner of what algorithms have put on models and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewright import kernels, torch_private
from sparsewright.core.errors import AttachError, warn
from sparsewright.session import replicas
from sparsewright.session.followed import Followed
from sparsewright.session.gradient_hook import GradientHook
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Rule
from sparsewright.session.site import TiedSite, settle, vacate
from sparsewright.storage import Storage
from sparsewright.storage.states import States


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        number: steps completed by the optimizer that stepped.
        optimizer: the one; None: all parameters have been stepped.
        parameters: those that were stepped.
    """

    number: int
    optimizer: Optimizer | None
    parameters: Sequence[SparseParameter]

    def of(self, rule: Rule) -> list[SparseParameter]:
        """Return the parameters of one algorithm."""
        return [parameter for parameter in self.parameters if parameter.rule is rule]


class Session:
    """One algorithm, or the several of a Group, on models and optimizers.

    Attributes:
        parameters: full name -> sparse parameter, in the order of attaching.
        followed: the optimizers whose steps are followed.
        steps: steps completed by each of them; may know more of them than are followed yet.
        process_group: the ranks that train replicas: a group, None, or `"auto"`.
    """

    def __init__(self, steps: Iterable[int] = ()) -> None:
        self.parameters: dict[str, SparseParameter] = {}
        self.followed: list[Followed] = []
        self.steps: list[int] = list(steps)
        self.process_group: Any = replicas.AUTO
        self._optimizers: list[Optimizer] = []
        self._hooks: dict[str, GradientHook] = {}
        self._handles: list[RemovableHandle] = []
        self._forward_handles: list[RemovableHandle] = []
        self._by_id: dict[int, SparseParameter] = {}
        self._hidden: list[tuple[nn.Module, list[str]]] = []
        self._have_agreed = False
        self._are_checked = True
        self._open: Step | None = None

    def add_parameter(self, name: str, storage: Storage, rule: Rule) -> SparseParameter:
        """Make a sparse parameter of a weight that is held already.

        Args:
            name: full name; a second one of equal name gets a number.
            storage: what holds the weight.
            rule: the algorithm that decides its mask.
        """
        while name in self.parameters:
            name = next_name(name)
        parameter = SparseParameter(name, storage, rule, self._optimizers)
        storage.recount()
        self.parameters[name] = parameter
        self._hooks[name] = GradientHook(parameter)
        settle(parameter, self)
        return parameter

    def follow_tied(self, weights: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Keep weights sparse when another module that shares them loads a state dict.

        Args:
            weights: each module with each of its parameters.
        """
        own = {id(p.param): p for p in self.parameters.values()}
        for module, param in weights:
            parameter = own.get(id(param))
            if parameter is not None and parameter.module is not module:
                tied = TiedSite(parameter)
                self._handles.append(module.register_load_state_dict_post_hook(tied.after))

    def follow_optimizer(self, optimizer: Optimizer, rules: Iterable[Rule]) -> list[Rule]:
        """Follow an optimizer on behalf of algorithms; prune its state now.

        Returns:
            Those of the algorithms that did not follow it yet.

        Raises:
            AttachError: it cannot step compressed weights, and is to.
        """
        followed = self._find_followed(optimizer)
        new = [rule for rule in rules if followed is None or rule not in followed.rules]
        if not new:
            return new
        is_first, followed = followed is None, followed or Followed(optimizer, self)
        followed.rules += new
        joined = [p for p in followed.parameters() if p.rule in new]
        for parameter in joined:
            problem = parameter.storage.why_not_step(optimizer)
            if problem:
                followed.rules = [rule for rule in followed.rules if rule not in new]
                if is_first:
                    followed.remove()
                raise AttachError(type(optimizer).__name__, f"{problem}; use storage 'masked'")
        self._are_checked = False
        if is_first:
            self.followed.append(followed)
            self._optimizers.append(optimizer)
            self._take_over(followed)
        for parameter in joined:
            parameter.storage.take_states(parameter.states(optimizer))
        followed.loaded(optimizer)
        followed.prune_loaded()
        return new

    def _find_followed(self, optimizer: Optimizer | None) -> Followed | None:
        return next((f for f in self.followed if f.optimizer is optimizer), None)

    def _take_over(self, newest: Followed) -> None:
        """Let the newest optimizer continue the count of others of the same parameters."""
        own, others = set(newest.parameters()), self.followed[:-1]
        counted = zip(others, self.steps, strict=False)
        before = [count for other, count in counted if own & set(other.parameters())]
        if before:
            self.steps += [0] * (len(others) - len(self.steps))
            self.steps[len(others) :] = [max(before)]

    def remove_optimizer(self, optimizer: Optimizer, rules: Iterable[Rule]) -> None:
        """Stop following an optimizer on behalf of algorithms.

        Raises:
            AttachError: none of them follows it.
        """
        followed, gone = self._find_followed(optimizer), list(rules)
        if followed is None or not any(rule in followed.rules for rule in gone):
            raise AttachError(type(optimizer).__name__, "it is not followed")
        followed.rules = [rule for rule in followed.rules if rule not in gone]
        if not followed.rules:
            slot = self.followed.index(followed)
            del self.steps[slot : slot + 1]
            self.followed.remove(followed)
            self._optimizers.remove(optimizer)
            followed.remove()

    def check_stepped(self) -> None:
        """Warn, at the first step, if no optimizer steps any of the parameters."""
        if self.parameters and not self._are_checked:
            self._are_checked = True
            if not any(followed.parameters() for followed in self.followed):
                warn(
                    "the optimizer holds no sparse parameter, so masks will not be updated; "
                    "sparsify the module whose parameters it steps"
                )

    def before_forward(self, module: nn.Module, initialize: Callable[[], None]) -> None:
        """Call `initialize` before each forward of the module, until all have their masks."""
        self._forward_handles.append(
            module.register_forward_pre_hook(lambda module, args: initialize())
        )

    def end_before_forward(self) -> None:
        """Let forwards alone, once every parameter has its mask."""
        if all(parameter.is_initialized for parameter in self.parameters.values()):
            for handle in self._forward_handles:
                handle.remove()
            self._forward_handles.clear()

    def find(self, tensor: Tensor) -> SparseParameter | None:
        """Return the sparse parameter whose weight this tensor is, or None."""
        found = self._by_id.get(id(tensor))
        if found is None or found.param is not tensor:
            self._by_id = {id(p.param): p for p in self.parameters.values()}
            found = self._by_id.get(id(tensor))
        return found

    def follow(self) -> list[int]:
        """Hook parameters that were replaced or unfrozen since; return the ids of all."""
        ids = [id(p.storage.param) for p in self.parameters.values()]
        if ids != self._hooked:
            for hook in self._hooks.values():
                hook.follow()
            self._hooked = ids
        return ids

    def refresh(self, parameter: SparseParameter) -> None:
        """Hook one parameter anew if it, or what holds it, was replaced; arm its tap if due."""
        self._hooks[parameter.name].follow()
        settle(parameter, self)
        self._arm([parameter], self.step_of([parameter.rule]) + 1)

    def take_gradients(self, parameters: Iterable[SparseParameter]) -> None:
        """Prune gradients that no backward pass brought."""
        for parameter in parameters:
            self._hooks[parameter.name].before_step()

    def tap_of(self, parameter: SparseParameter) -> GradientTap:
        """Return what collects the dense gradient of a parameter."""
        return self._hooks[parameter.name].tap

    def states_not_loaded(self, parameter: SparseParameter) -> States:
        """Return a parameter's states in optimizers that loaded none since their last step."""
        optimizers = (f.optimizer for f in self.followed if not f.is_loaded)
        return [state for o in optimizers for state in parameter.states(o)]

    def join_replicas(self, module: nn.Module) -> None:
        """Take the ranks that a data-parallel module has, and keep masks out of its way."""
        self.process_group = replicas.group_of(module, self.process_group)
        masks = [mask for p in self.parameters.values() for mask in p.storage.buffers()]
        self._hidden.append((module, replicas.hide_from_ddp(module, masks)))

    def replicas(self) -> ProcessGroup | None:
        """Return the ranks that train replicas; None: there are no others."""
        return replicas.find_group(self.process_group)

    @property
    def step(self) -> int:
        """Optimizer steps completed, of the furthest optimizer if there are several."""
        return max(self.steps, default=0)

    def step_of(self, rules: Sequence[Rule]) -> int:
        """Return the steps completed by the optimizers that step parameters of some algorithms."""
        if len(self.steps) < 2:
            return self.step
        counted = zip(self.followed, self.steps, strict=False)
        own = [n for f, n in counted if any(p.rule in rules for p in f.parameters())]
        return max(own, default=self.step)

    def is_step_of(self, rule: Rule, followed: Followed) -> bool:
        """Return whether an optimizer's steps are those of an algorithm.

        Those of one that has none of its parameters are not, if another one has.
        """
        holders = [f for f in self.followed if any(p.rule is rule for p in f.parameters())]
        return followed in holders or not holders

    def update(self, optimizer: Optimizer | None, rules: Sequence[Rule]) -> None:
        """Update some algorithms after one optimizer step."""
        with self.stepping(optimizer, rules):
            for rule in rules:
                rule.update(optimizer)

    @contextmanager
    def stepping(self, optimizer: Optimizer | None, rules: Sequence[Rule]) -> Iterator[Step]:
        """Count a step and prune what it wrote; inside the block masks may change.

        Algorithms that are updated one by one join the step that others have begun.

        Args:
            optimizer: the one that stepped; None: all parameters have been stepped.
            rules: the algorithms that are updated.
        """
        if self._open is not None and self._open.optimizer is optimizer:
            yield self._open
            return
        step, outer = self._begin(optimizer, rules), self._open
        self._open = step
        try:
            yield step
        finally:
            self._open = outer
            self._arm(step.parameters, step.number + 1)
        self._emit("end", rules, step)

    def _begin(self, optimizer: Optimizer | None, rules: Sequence[Rule]) -> Step:
        """Count the step, prune what it wrote, and tell the hooks."""
        self.fold_steps()
        followed = self._find_followed(optimizer)
        slot = 0 if followed is None else self.followed.index(followed)
        self.steps += [0] * (slot + 1 - len(self.steps))
        if optimizer is None:
            self.steps = [self.step] * max(len(self.steps), len(self.followed))
        self._count(optimizer, slot, rules)
        if followed is None:
            self.follow()
            parameters = [p for p in self.parameters.values() if p.rule in rules]
        else:
            parameters = [p for p in followed.parameters() if p.rule in rules]
        self._meet_replicas(rules)
        self._prune(parameters, optimizer)
        step = Step(self.steps[slot], optimizer, parameters)
        self._emit("begin", rules, step)
        return step

    def _count(self, optimizer: Optimizer | None, slot: int, rules: Sequence[Rule]) -> None:
        """Count one step, unless it is one that other algorithms have taken part in alone."""
        done, now = self._done.setdefault(slot, set()), {id(rule) for rule in rules}
        is_new = not done or bool(done & now)
        before = self.steps[slot] - (not is_new)
        for rule in rules:
            if before >= self.step_of([rule]) - (not is_new):
                rule.schedules.update(rule._is_due(before))
        if is_new:
            done.clear()
            for stepped in range(len(self.steps)) if optimizer is None else [slot]:
                self.steps[stepped] += 1
        done |= now

    def fold_steps(self) -> None:
        """Let a single optimizer continue from the highest step."""
        if len(self.followed) == 1 and len(self.steps) > 1:
            self.steps = [self.step]

    def _meet_replicas(self, rules: Sequence[Rule]) -> None:
        """At the first step, make sure that the ranks that train replicas agree."""
        group = None if self._have_agreed else self.replicas()
        if group is not None:
            seeds = [rule.seed for rule in dict.fromkeys(p.rule for p in self.parameters.values())]
            replicas.check_agreement(self.parameters.values(), self.steps, seeds, group)
            self._have_agreed = True

    def _prune(self, parameters: Sequence[SparseParameter], optimizer: Optimizer | None) -> None:
        """Prune what a step may have written to: weights, and state that does not stay 0."""
        pairs = [pair for p in parameters if (pair := p.storage.to_prune()) is not None]
        if pairs:
            kernels.prune_many_(*zip(*pairs, strict=True))
        for followed in self.followed:
            if optimizer in (None, followed.optimizer) and not keeps_zero_state(followed.optimizer):
                for parameter in parameters:
                    parameter.prune_state(followed.optimizer)

    def _arm(self, parameters: Iterable[SparseParameter], coming: int) -> None:
        """Collect the dense gradients that the coming step needs, and no others."""
        for parameter in parameters:
            rule = parameter.rule
            if rule.needs_dense_gradient:
                tap = self._hooks[parameter.name].tap
                if rule._is_due(coming):
                    tap.arm()
                else:
                    tap.disarm()

    def after_state_change(self) -> None:
        """Hook what is new, and collect the dense gradients that the coming steps need."""
        self.follow()
        coming = dict.fromkeys(self.parameters.values(), self.step + 1)
        for followed, steps in zip(self.followed, self.steps, strict=False):
            coming |= dict.fromkeys(followed.parameters(), steps + 1)
        for parameter, step in coming.items():
            self._arm([parameter], step)

    def forget_gradients(self) -> None:
        """Free all dense gradients that were collected."""
        for hook in self._hooks.values():
            hook.tap.disarm()

    def _emit(self, kind: str, rules: Sequence[Rule], step: Step) -> None: ...

    def detach(self, names: Iterable[str]) -> None:
        """Take some parameters off again."""
        for name in names:
            parameter = self.parameters.pop(name)
            self._hooks.pop(name).remove()
            vacate(parameter.module, parameter.storage.param_name)
            parameter.storage.remove(parameter.states())
        self._hooked = []
        self.end_before_forward()

    def remove(self) -> None:
        """Take off every hook and buffer; the weights keep their zeros."""
        self.detach(list(self.parameters))
        for handle in self._handles:
            handle.remove()
        for followed in self.followed:
            followed.remove()
        for module, names in self._hidden:
            torch_private.show_to_ddp(module, names)
        self.__init__(self.steps)
