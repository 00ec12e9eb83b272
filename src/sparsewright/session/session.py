"""A session: the owner of all hooks, masks and step counts of its algorithms."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewright import kernels
from sparsewright.errors import AttachError
from sparsewright.session import replicas
from sparsewright.session.following import Following
from sparsewright.session.gradient_hook import GradientHook
from sparsewright.session.moved import Roots, follow_moved, merge_shared
from sparsewright.session.optimizers import params_of
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.rule import Owner, Rule
from sparsewright.session.site import settle, tie, vacate
from sparsewright.session.step_watch import StepWatch
from sparsewright.session.stepping import Step, stepping
from sparsewright.storage import Storage
from sparsewright.taps.tap import GradientTap

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

logger = logging.getLogger("sparsewright")


class Session(Following):
    """Hold the sparse parameters, optimizers and steps of an algorithm or a Group.

    A session does not keep the user's models and optimizers alive.

    Args:
        owner: the algorithm or Group that is applied.
        steps: number of steps that each optimizer has completed.

    Attributes:
        owner: the algorithm or Group that is applied.
        roots: the models that parameters were attached with.
        hooks: the user's hooks on the owner.
        process_group: the ranks that train replicas: a group, None or `"auto"`.
        have_agreed: whether a check has shown that these ranks train the same sparse model.
        open_step: the step whose masks are being updated, or None.
        owed: ids of the algorithms whose mask update is due; an id stays if the update raises.
        left_dense: number of parameters of each kind that the last `apply` left dense.
    """

    def __init__(self, owner: Owner, steps: Iterable[int] = ()) -> None:
        self.owner = owner
        super().__init__(steps)
        self.hooks = owner._hooks
        self.process_group: replicas.ReplicaGroup = replicas.AUTO
        self.have_agreed = False
        self.roots = Roots()
        self.left_dense: Counter[str] = Counter()
        self._gradients: dict[str, GradientHook] = {}
        self._hooked: list[int] = []
        self._armed: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._forward_handles: list[RemovableHandle] = []
        self._by_id: dict[int, SparseParameter] = {}
        self.open_step: Step | None = None
        self.owed: set[int] = set()
        self._told: set[str] = set()
        self._watch = StepWatch(self.followed)

    @property
    def whole(self) -> Session:
        """Return the session itself."""
        return self

    @property
    def is_empty(self) -> bool:
        """Return whether no parameter and no optimizer is attached."""
        return not self.parameters and not self.followed

    def add_parameter(self, name: str, storage: Storage, rule: Rule) -> SparseParameter:
        """Create and register a sparse parameter for a weight in a storage.

        Args:
            name: full name; must not be used yet.
            storage: the storage that holds the weight.
            rule: the algorithm that decides the mask.
        """
        parameter = SparseParameter(name, storage, rule, self.followed)
        storage.recount()
        self._gradients[name] = GradientHook(parameter, self._watch.tell)
        self.parameters[name] = parameter
        self.have_agreed = False
        settle(parameter)
        return parameter

    def free_name(self, name: str) -> str:
        """Return an unused full name: the given name, with a number added if it is taken."""
        while name in self.parameters:
            name = next_name(name)
        return name

    def rename(self, wanted: Mapping[str, str]) -> None:
        """Rename parameters; a name that is taken gets a number.

        Args:
            wanted: old full name -> new full name.
        """
        taken, new = self.parameters.keys() - wanted.keys(), dict[str, str]()
        for old, name in wanted.items():
            while name in taken:
                name = next_name(name)
            taken.add(name)
            new[old] = name
        for rule in {id(p.rule): p.rule for p in self.parameters.values()}.values():
            rule._rename(new)
        every = [(new.get(name, name), p) for name, p in self.parameters.items()]
        self._gradients = {new.get(name, name): hook for name, hook in self._gradients.items()}
        self._armed = {new.get(name, name) for name in self._armed}
        self.roots.rename(new)
        self.parameters.clear()
        for name, parameter in every:
            self.parameters[name], parameter.name = parameter, name

    def follow_tied(self, weights: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Keep weights sparse when another module that shares them loads a state dict.

        Args:
            weights: every (module, parameter) pair of the model.
        """
        own = {id(p.param): p for p in self.parameters.values()}
        for module, param in weights:
            parameter = own.get(id(param))
            if parameter is not None and parameter.module is not module:
                self._handles.append(tie(parameter, module))

    def rest(self) -> None:
        """Record that the user made a step without a followed optimizer."""
        for gradient in self._gradients.values():
            gradient.rest()

    def before_forward(self, module: nn.Module, initialize: Callable[[], None]) -> None:
        """Call `initialize` before each forward pass until all parameters have masks."""
        self._forward_handles.append(
            module.register_forward_pre_hook(lambda module, args: initialize())
        )

    def end_before_forward(self) -> None:
        """Remove the forward hooks if every parameter has its mask."""
        if all(parameter.is_initialized for parameter in self.parameters.values()):
            for handle in self._forward_handles:
                handle.remove()
            self._forward_handles.clear()

    def find(self, tensor: Tensor) -> SparseParameter | None:
        """Return the sparse parameter of a weight tensor, or None."""
        found = self._by_id.get(id(tensor))
        if found is None or not found.storage.is_in_place or found.param is not tensor:
            if not all(p.storage.is_in_place for p in self.parameters.values()):
                follow_moved(self)
            self._by_id = {id(p.param): p for p in self.parameters.values()}
            found = self._by_id.get(id(tensor))
        return found

    def follow(self) -> list[int]:
        """Update the hooks of replaced or unfrozen parameters; return all parameters' ids."""
        try:
            ids = self._ids()
        except AttachError:
            follow_moved(self)
            ids = self._ids()
        if ids != self._hooked:
            if len(set(ids)) < len(ids):
                merge_shared(self)
                ids = self._ids()
            for gradient in self._gradients.values():
                gradient.follow()
            self._hooked = ids
        return ids

    def is_hooked(self, parameter: SparseParameter) -> bool:
        """Return whether a parameter's gradient hook is on its current Parameter."""
        return self._gradients[parameter.name].is_on(parameter.param)

    def _ids(self) -> list[int]:
        return [id(parameter.storage.param) for parameter in self.parameters.values()]

    def by_rule(self, optimizer: Optimizer | None = None) -> dict[int, list[SparseParameter]]:
        """Return algorithm id -> parameters: all of them, or those that one optimizer steps."""
        found: dict[int, list[SparseParameter]] = {}
        own = self.follow()
        stepped = set(own if optimizer is None else params_of(optimizer))
        for parameter, at in zip(self.parameters.values(), own, strict=True):
            if at not in stepped:
                continue
            found.setdefault(id(parameter.rule), []).append(parameter)
        return found

    def refresh(self, parameter: SparseParameter) -> None:
        """Update the hooks of a parameter after its Parameter or storage was replaced."""
        self._gradients[parameter.name].follow()
        settle(parameter)
        self.arm([parameter], self.step_of([parameter.rule]) + 1)

    def take_gradients(self, parameters: Iterable[SparseParameter]) -> None:
        """Prune gradients that were set or changed outside a backward pass."""
        parameters, places = list(parameters), set[int]()
        for parameter in parameters:
            self._gradients[parameter.name].own_gradient(places)
        for parameter in parameters:
            self._gradients[parameter.name].before_step()
        pairs = [pair for p in parameters if (pair := p.storage.gradient_to_prune()) is not None]
        kernels.prune_many_([grad for grad, _ in pairs], [mask for _, mask in pairs])

    def tap_of(self, parameter: SparseParameter) -> GradientTap:
        """Return the tap that collects a parameter's dense gradient."""
        return self._gradients[parameter.name].tap

    def join_replicas(self, module: nn.Module) -> None:
        """Use the process group of a data-parallel module, and hide the masks from DDP."""
        self.process_group = replicas.group_of(module, self.process_group)
        masks = [mask for p in self.parameters.values() for mask in p.storage.buffers()]
        self._hidden.hide(module, masks)

    def replicas(self) -> ProcessGroup | None:
        """Return the process group that trains replicas, or None if there is only one rank."""
        return replicas.find_group(self.process_group)

    def stepping(
        self, optimizer: Optimizer | None, rules: Sequence[Rule]
    ) -> AbstractContextManager[Step]:
        """Count a step and prune the weights; masks may change inside the block.

        Algorithms that are updated inside the block join this step, which is counted once.

        Args:
            optimizer: the optimizer that stepped, or None if all parameters were stepped.
            rules: the algorithms to update.
        """
        return stepping(self, optimizer, rules)

    def is_due(self, rule: Rule, step: int) -> bool:
        """Return whether an algorithm's masks are due at a step, or still owed."""
        return rule._is_due(step) or id(rule) in self.owed

    def tell_once(self, what: str, message: str) -> None:
        """Log a warning, unless this session has already logged one about the same topic."""
        if what not in self._told:
            self._told.add(what)
            logger.warning(message)

    def listens(self, rule: Rule, kind: str) -> bool:
        """Return whether the user registered a hook of this kind for an algorithm."""
        return self.hooks.has(kind) or rule._hooks.has(kind)

    def emit(self, rules: Iterable[Rule], kind: str, *args: object) -> None:
        """Call the hooks of the session and of some algorithms, each hook once."""
        for hooks in {id(h): h for h in (self.hooks, *(r._hooks for r in rules))}.values():
            hooks.call(kind, *args)

    def arm(self, parameters: Iterable[SparseParameter], coming: int) -> None:
        """Start collecting the dense gradients that the step `coming` needs; stop the others."""
        for parameter in parameters:
            if parameter.rule.needs_dense_gradient:
                self._arm([parameter], self.is_due(parameter.rule, coming))

    def _arm(self, parameters: Iterable[SparseParameter], is_due: bool) -> None:
        for parameter in parameters:
            tap = self._gradients[parameter.name].tap
            if is_due:
                tap.arm()
                self._armed.add(parameter.name)
            else:
                tap.disarm()
                self._armed.discard(parameter.name)

    def end_gradients(self, step: Step) -> None:
        """Free a step's dense gradients; collect new ones if masks are due at the next step."""
        for rule in step.rules:
            if rule.needs_dense_gradient:
                is_due = self.is_due(rule, step.number + 1)
                for parameter in step.of(rule) if is_due or self._armed else ():
                    self._gradients[parameter.name].tap.free()
                    self._arm([parameter], is_due)

    def after_state_change(self) -> None:
        """Update all hooks, and collect the dense gradients that the next steps need."""
        self.follow()
        coming = dict.fromkeys(self.parameters.values(), self.counter.furthest + 1)
        for slot, followed in enumerate(self.followed):
            coming |= dict.fromkeys(followed.parameters(), self.counter.steps_at(slot) + 1)
        for parameter, step in coming.items():
            self.arm([parameter], step)

    def load_steps(self, steps: Iterable[int]) -> None:
        """Continue from the given step counts, and discard collected dense gradients."""
        self.counter.load(steps)
        self.owed.clear()
        self.have_agreed = False
        if len(self.followed) == 1:
            self.counter.fold()
        for gradient in self._gradients.values():
            gradient.tap.disarm()
        self.after_state_change()

    def detach(self, names: Iterable[str], keep_masks: bool = False) -> None:
        """Detach some parameters.

        Args:
            names: their full names.
            keep_masks: keep the masks as buffers of the model, for another algorithm.
        """
        for name in names:  # the order of these lines lets you repeat an interrupted call
            parameter = self.parameters[name]
            self._gradients[name].remove()
            self._armed.discard(name)
            self.roots.forget(name)  # else a repeated call would search for the replaced layer
            if parameter.storage.is_alive:
                vacate(parameter.module, parameter.storage.param_name)
                parameter.storage.remove(parameter.optimizer_states, keep_masks)
            del self.parameters[name]
            del self._gradients[name]
        self._hooked = []
        self._by_id = {}
        self.end_before_forward()

    def start_anew(self) -> None:
        """Stop following all optimizers, and count steps from 0."""
        self.remove([rule for followed in self.followed for rule in followed.rules])
        self.counter.load([])

    def remove(self, rules: Sequence[Rule]) -> None:
        """Remove all hooks and buffers of some algorithms; the weights keep their zeros."""
        self.detach([name for name, p in self.parameters.items() if p.rule in rules])
        self.owed.difference_update(map(id, rules))
        left = [slot for slot, followed in enumerate(self.followed) if followed.leave(rules)]
        for slot in reversed(left):
            del self.followed[slot]
        for slot in reversed(left if self.followed else []):
            self.counter.drop(slot)
        self.end_if_empty()

    def end_if_empty(self) -> None:
        """Remove what concerns the whole model if no parameter is attached."""
        if not self.parameters:
            for handle in self._handles:
                handle.remove()
            self._hidden.show()
            self._handles, self.have_agreed = [], False


def next_name(name: str) -> str:
    """Return `fc.weight#2` for `fc.weight`, and `fc.weight#3` for `fc.weight#2`."""
    base, _, count = name.partition("#")
    return f"{base}#{int(count or 1) + 1}"
