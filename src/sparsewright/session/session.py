"""A session: the one owner of what algorithms have put on models and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewright import kernels, torch_private
from sparsewright.core.hooks import Hooks
from sparsewright.errors import AttachError, warn
from sparsewright.kernels import sharded
from sparsewright.session import replicas
from sparsewright.session.followed import Followed
from sparsewright.session.gradient_hook import GradientHook
from sparsewright.session.optimizers import family, params_of
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Rule
from sparsewright.session.site import TiedSite, settle, vacate
from sparsewright.session.step_counter import StepCounter
from sparsewright.session.step_watch import StepWatch
from sparsewright.session.stepping import Step, begin_step, end_step
from sparsewright.storage import Storage
from sparsewright.storage.states import States
from sparsewright.taps.tap import GradientTap

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Session:
    """Sparse parameters, optimizers and steps of one algorithm, or of the several of a Group.

    Attributes:
        parameters: full name -> sparse parameter, in the order of attaching.
        followed: the optimizers whose steps are followed.
        counter: the steps that each of them has completed.
        hooks: the user's hooks on all that happens.
        process_group: the ranks that train replicas: a group, None, or `"auto"`.
        have_agreed: whether these ranks were found to train the same sparse model.
    """

    def __init__(self, hooks: Hooks, steps: Iterable[int] = ()) -> None:
        self.parameters: dict[str, SparseParameter] = {}
        self.followed: list[Followed] = []
        self.counter = StepCounter(steps)
        self.hooks = hooks
        self.process_group: replicas.ReplicaGroup = replicas.AUTO
        self.have_agreed = False
        self._gradients: dict[str, GradientHook] = {}
        self._hooked: list[int] = []
        self._armed: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._forward_handles: list[RemovableHandle] = []
        self._by_id: dict[int, SparseParameter] = {}
        self._hidden: list[tuple[nn.Module, list[str]]] = []
        self._are_checked = True
        self._watch = StepWatch(self.followed)
        self._open: Step | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is attached."""
        return not self.parameters and not self.followed

    def add_parameter(self, name: str, storage: Storage, rule: Rule) -> SparseParameter:
        """Make a sparse parameter of a weight that is held already.

        Args:
            name: full name, one that is free.
            storage: what holds the weight.
            rule: the algorithm that decides its mask.
        """
        parameter = SparseParameter(name, storage, rule, self.followed)
        storage.recount()
        self.parameters[name] = parameter
        self.have_agreed = False
        self._gradients[name] = GradientHook(parameter, self._watch.tell)
        settle(parameter, self)
        return parameter

    def free_name(self, name: str) -> str:
        """Return a full name; that of a second parameter of equal name gets a number."""
        while name in self.parameters:
            name = next_name(name)
        return name

    def follow_tied(self, weights: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Keep weights sparse when another module that shares them loads a state dict.

        Args:
            weights: each module with each of its parameters.
        """
        own = {id(p.param): p for p in self.parameters.values()}
        for module, param in weights:
            parameter = own.get(id(param))
            if parameter is not None and parameter.module is not module:
                tied = TiedSite(parameter, self)
                self._handles.append(module.register_load_state_dict_post_hook(tied.after))

    def follow_optimizer(self, optimizer: Optimizer, rules: Iterable[Rule]) -> bool:
        """Follow an optimizer on behalf of algorithms; prune its state now.

        Returns:
            Whether any of them did not follow it yet.

        Raises:
            AttachError: it cannot step compressed weights, and is to.
        """
        for module, _ in self._hidden:
            sharded.reshard(module)
        known = self.find_followed(optimizer)
        followed = Followed(optimizer, self) if known is None else known
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
        return is_new or bool(new)

    def _add_followed(self, followed: Followed) -> None:
        """Count with an optimizer; it continues the count of others of the same parameters."""
        own, others = set(followed.parameters()), list(self.followed)
        counted = zip(others, self.counter.steps, strict=False)
        before = [count for other, count in counted if own & set(other.parameters())]
        if before:
            self.counter.take_over(len(others), max(before))
        self.followed.append(followed)
        self._are_checked = False
        self.let_go()

    def let_go(self) -> None:
        """Forget optimizers that nobody has, once another one continues their count."""
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
        """Return what follows an optimizer, or one that it is around, if anything does."""
        members = [] if optimizer is None else family(optimizer)
        return next((f for f in self.followed if any(o in members for o in f.members)), None)

    def remove_optimizer(self, optimizer: Optimizer, rules: Iterable[Rule]) -> None:
        """Stop following an optimizer on behalf of algorithms.

        Raises:
            AttachError: none of them follows it.
        """
        followed, gone = self.find_followed(optimizer), list(rules)
        if followed is None or not any(rule in followed.rules for rule in gone):
            raise AttachError(type(optimizer).__name__, "it is not sparsified")
        if followed.leave(gone):
            self._forget(followed)

    def _forget(self, followed: Followed) -> None:
        self.counter.drop(self.followed.index(followed))
        self.followed.remove(followed)

    def rest(self) -> None:
        """Know that a step was made, by hand."""
        for gradient in self._gradients.values():
            gradient.rest()

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
        """Let forwards alone once every parameter has its mask."""
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
            for gradient in self._gradients.values():
                gradient.follow()
            self._hooked = ids
        return ids

    def by_rule(self, optimizer: Optimizer | None = None) -> dict[int, list[SparseParameter]]:
        """Return all parameters, or those of one optimizer, by the ids of their algorithms."""
        found: dict[int, list[SparseParameter]] = {}
        own = self.follow()
        stepped = set(own if optimizer is None else params_of(optimizer))
        for parameter, at in zip(self.parameters.values(), own, strict=True):
            if at not in stepped:
                continue
            found.setdefault(id(parameter.rule), []).append(parameter)
        return found

    def refresh(self, parameter: SparseParameter) -> None:
        """Hook one parameter anew if it, or what holds it, was replaced; arm its tap if due."""
        self._gradients[parameter.name].follow()
        settle(parameter, self)
        self.arm([parameter], self.step_of([parameter.rule]) + 1)

    def take_gradients(self, parameters: Iterable[SparseParameter]) -> None:
        """Prune gradients that no backward pass brought, or that were changed after it."""
        parameters, places = list(parameters), set[int]()
        for parameter in parameters:
            self._gradients[parameter.name].own_gradient(places)
        for parameter in parameters:
            self._gradients[parameter.name].before_step()
        pairs = [pair for p in parameters if (pair := p.storage.gradient_to_prune()) is not None]
        kernels.prune_many_([grad for grad, _ in pairs], [mask for _, mask in pairs])

    def tap_of(self, parameter: SparseParameter) -> GradientTap:
        """Return what collects the dense gradient of a parameter."""
        return self._gradients[parameter.name].tap

    def states_not_loaded(self, parameter: SparseParameter) -> States:
        """Return a parameter's states in optimizers that loaded none since their last step."""
        optimizers = (f.optimizer for f in self.followed if not f.is_loaded)
        return [
            state for o in optimizers if o is not None for state in parameter.optimizer_states(o)
        ]

    def join_replicas(self, module: nn.Module) -> None:
        """Take the ranks that a data-parallel module has, and keep masks out of its way."""
        self.process_group = replicas.group_of(module, self.process_group)
        masks = [mask for p in self.parameters.values() for mask in p.storage.buffers()]
        self._hidden.append((module, replicas.hide_from_ddp(module, masks)))

    def replicas(self) -> ProcessGroup | None:
        """Return the ranks that train replicas; None: there are no others."""
        return replicas.find_group(self.process_group)

    def step_of(self, rules: Sequence[Rule]) -> int:
        """Return the steps of the furthest optimizer that steps parameters of some algorithms."""
        if len(self.counter.steps) < 2:
            return self.counter.furthest
        members = {id(rule) for rule in rules}
        counted = zip(self.followed, self.counter.steps, strict=False)
        own = [n for f, n in counted if not members.isdisjoint(f.by_rule())]
        return max(own, default=self.counter.furthest)

    def steps_of(self, rule: object) -> list[int]:
        """Return the counts of all optimizers, 0 for those that step others' parameters only."""
        steps, is_held = list(self.counter.steps), self.is_held(rule)
        for slot, followed in enumerate(self.followed[: len(steps)]):
            if is_held and id(rule) not in followed.by_rule():
                steps[slot] = 0
        return steps

    def is_held(self, rule: object) -> bool:
        """Return whether any optimizer steps a parameter of an algorithm."""
        return any(id(rule) in followed.by_rule() for followed in self.followed)

    @contextmanager
    def stepping(self, optimizer: Optimizer | None, rules: Sequence[Rule]) -> Iterator[Step]:
        """Count a step and prune what it wrote; inside the block masks may change.

        Inside of it, algorithms are updated one by one, and join the step that is counted already.

        Args:
            optimizer: the one that stepped; None: all parameters have been stepped.
            rules: the algorithms that are updated.
        """
        if self._open is not None and self._open.optimizer is optimizer:
            yield self._open
            return
        step, outer = begin_step(self, optimizer, rules), self._open
        self._open = step
        try:
            yield step
        finally:
            self._open = outer
            self._end_gradients(step)
        end_step(self, step)

    def listens(self, rule: Rule, kind: str) -> bool:
        """Return whether a user's hook listens to what one algorithm does."""
        return self.hooks.has(kind) or rule._hooks.has(kind)

    def emit(self, rules: Iterable[Rule], kind: str, *args: object) -> None:
        """Call the hooks on the session and on some of its algorithms, each once."""
        for hooks in {id(h): h for h in (self.hooks, *(r._hooks for r in rules))}.values():
            hooks.call(kind, *args)

    def arm(self, parameters: Iterable[SparseParameter], coming: int) -> None:
        """Collect the dense gradients that a coming step needs, and no others."""
        for parameter in parameters:
            if parameter.rule.needs_dense_gradient:
                self._arm([parameter], parameter.rule._is_due(coming))

    def _arm(self, parameters: Iterable[SparseParameter], is_due: bool) -> None:
        for parameter in parameters:
            tap = self._gradients[parameter.name].tap
            if is_due:
                tap.arm()
                self._armed.add(parameter.name)
            else:
                tap.disarm()
                self._armed.discard(parameter.name)

    def _end_gradients(self, step: Step) -> None:
        """Free what was collected for a step, and collect for the next one if masks are due."""
        for rule in step.rules:
            if rule.needs_dense_gradient:
                is_due = rule._is_due(step.number + 1)
                for parameter in step.of(rule) if is_due or self._armed else ():
                    self._gradients[parameter.name].tap.free()
                    self._arm([parameter], is_due)

    def after_state_change(self) -> None:
        """Hook what is new, and collect the dense gradients that the coming steps need."""
        self.follow()
        coming = dict.fromkeys(self.parameters.values(), self.counter.furthest + 1)
        for slot, followed in enumerate(self.followed):
            coming |= dict.fromkeys(followed.parameters(), self.counter.steps_at(slot) + 1)
        for parameter, step in coming.items():
            self.arm([parameter], step)

    def load_steps(self, steps: Iterable[int]) -> None:
        """Continue from other counts; what was collected for the coming step is freed."""
        self.counter.load(steps)
        self.have_agreed = False
        if len(self.followed) == 1:
            self.counter.fold()
        for gradient in self._gradients.values():
            gradient.tap.disarm()
        self.after_state_change()

    def detach(self, names: Iterable[str]) -> None:
        """Take some parameters off again."""
        for name in names:
            parameter = self.parameters.pop(name)
            self._gradients.pop(name).remove()
            self._armed.discard(name)
            vacate(parameter.module, parameter.storage.param_name)
            parameter.storage.remove(parameter.optimizer_states)
        self._hooked = []
        self._by_id = {}
        self.end_before_forward()

    def remove(self, rules: Sequence[Rule]) -> None:
        """Take off every hook and buffer of some algorithms; the weights keep their zeros."""
        self.detach([name for name, p in self.parameters.items() if p.rule in rules])
        left = [slot for slot, followed in enumerate(self.followed) if followed.leave(rules)]
        for slot in reversed(left):
            del self.followed[slot]
        for slot in reversed(left if self.followed else []):
            self.counter.drop(slot)
        if not self.parameters:
            for handle in self._handles:
                handle.remove()
            for module, names in self._hidden:
                torch_private.show_to_ddp(module, names)
            self._handles, self._hidden, self.have_agreed = [], [], False


def next_name(name: str) -> str:
    """Return `fc.weight#2` for `fc.weight`, `fc.weight#3` for that: names of a second module."""
    base, _, count = name.partition("#")
    return f"{base}#{int(count or 1) + 1}"
