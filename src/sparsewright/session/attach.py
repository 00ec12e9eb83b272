"""The one way in and out: hooks and buffers on the user's model and optimizers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewright import kernels
from sparsewright.core.errors import AttachError, warn
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.nn.linear import SparseLinear
from sparsewright.runtime import replicas
from sparsewright.runtime.gradients import DenseGradients, GradHook, PrunedGradient
from sparsewright.runtime.loading import LoadFollower, TiedFollower, attached_to, drop_followers
from sparsewright.runtime.parameter import SparseParameter, against_compressed, keeps_zero_state
from sparsewright.runtime.storage import CompressedStorage, MaskedStorage
from sparsewright.runtime.walk import dense_form, named_weights

logger = logging.getLogger("sparsewright")


class Owner(Protocol):
    """What an attachment needs to know of its algorithm."""

    @property
    def step(self) -> int:
        """Optimizer steps completed."""

    def after_state_change(self) -> None:
        """Called when parameters, optimizers or the step changed outside of a training step."""

    def check_parameter(self, name: str, param: Tensor) -> None:
        """Raise if a parameter cannot be sparsified."""

    def sparsify_parameter(self, module: nn.Module, name: str, param: nn.Parameter) -> None:
        """Attach one parameter."""


class Attachment:
    """Everything that one algorithm has put on models and optimizers.

    Attributes:
        parameters: full name -> sparse parameter, in the order of attaching.
        optimizers: the optimizers whose steps are followed.
        process_group: the ranks that train replicas: a group, None, or `"auto"`.
        dense_gradients: the dense gradients of the coming update step.
    """

    def __init__(self, owner: Owner, grad_hook: GradHook) -> None:
        self.parameters: dict[str, SparseParameter] = {}
        self.optimizers: list[Optimizer] = []
        self.dense_gradients = DenseGradients()
        self.owner, self._grad_hook = owner, grad_hook
        self._gradients: dict[str, PrunedGradient] = {}
        self._handles: list[RemovableHandle] = []
        self._forward_handles: list[RemovableHandle] = []
        self._optimizer_handles: dict[Optimizer, list[RemovableHandle]] = {}
        self._by_id: dict[int, SparseParameter] = {}
        self._loaded: list[Optimizer] = []
        self.process_group: Any = replicas.AUTO
        self._have_agreed = False
        self._hidden: list[tuple[nn.Module, list[str]]] = []
        self._are_checked = True

    def add_parameter(
        self,
        name: str,
        module: nn.Module,
        param_name: str,
        make_mask: Callable[[SparseParameter], Tensor],
    ) -> SparseParameter:
        """Put a mask buffer and hooks on one parameter.

        A bool buffer of the right name and shape that the module has already (a copied or loaded
        sparse model) is taken over as the mask.

        Raises:
            AttachError: the name of the buffer is taken.
        """
        param = module._parameters[param_name]
        assert param is not None
        while name in self.parameters:
            name = next_name(name)
        is_compressed = isinstance(module, SparseLinear)
        has_mask = is_compressed or _add_mask(module, param_name, param, name)
        storage = (
            CompressedStorage(module, [])
            if isinstance(module, SparseLinear)
            else MaskedStorage(module, param_name)
        )
        parameter = SparseParameter(name, storage, self.optimizers, make_mask)
        parameter.is_initialized = has_mask
        storage.recount()
        self.parameters[name] = parameter
        self._gradients[name] = PrunedGradient(parameter, self._grad_hook, self.dense_gradients)
        self.follow_loading(parameter)
        return parameter

    def follow_loading(self, parameter: SparseParameter) -> None:
        """Keep a parameter sparse when its module loads a state dict."""
        module, param_name = parameter.module, parameter.storage.param_name
        drop_followers(module, param_name)
        follower = LoadFollower(param_name, parameter, self)
        self._handles += [
            module.register_load_state_dict_pre_hook(follower.before),
            module.register_load_state_dict_post_hook(follower.after),
        ]

    def follow_tied(self, module: nn.Module, param: Tensor) -> None:
        """Keep a sparse parameter sparse when another module that has it loads a state dict."""
        parameter = self.find(param)
        if parameter is not None and parameter.module is not module:
            follower = TiedFollower(parameter)
            self._handles.append(module.register_load_state_dict_post_hook(follower.after))

    def add_optimizer(self, optimizer: Optimizer, after_step: Callable[[Optimizer], None]) -> None:
        """Call `after_step` after each real step of the optimizer; prune its state now.

        Raises:
            AttachError: it cannot step compressed weights, and is to.
        """
        problem = against_compressed(optimizer)
        if problem and any(parameter.is_compressed for parameter in self.of(optimizer)):
            raise AttachError(type(optimizer).__name__, f"{problem}; use storage 'masked'")

        def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            # A fused step under a GradScaler is called although it does nothing after an overflow,
            # but for SGD: torch 2.13 leaves the first momentum as memory that nobody wrote to.
            found_inf = getattr(optimizer, "found_inf", None)
            if found_inf is None or not bool(found_inf):
                after_step(optimizer)
            else:
                loaded(optimizer)
                prune(optimizer)

        def prune(optimizer: Optimizer) -> None:
            if optimizer in self._loaded:
                self._loaded.remove(optimizer)
                for parameter in self.of(optimizer):
                    parameter.prune_state(optimizer)

        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            prune(optimizer)
            self._check_stepped()
            for parameter in self.of(optimizer):
                self._gradients[parameter.name].before_step()

        def loaded(optimizer: Optimizer) -> None:
            # Not yet: the masks that belong to this state may be loaded after it.
            if optimizer not in self._loaded:
                self._loaded.append(optimizer)

        self.optimizers.append(optimizer)
        self._are_checked = False
        self._optimizer_handles[optimizer] = [
            # A compiled optimizer step calls them; it cannot trace them.
            optimizer.register_step_pre_hook(torch.compiler.disable(before)),
            optimizer.register_step_post_hook(torch.compiler.disable(stepped)),
            optimizer.register_load_state_dict_post_hook(loaded),
        ]
        for parameter in self.of(optimizer):
            parameter.storage.take_states(parameter.states(optimizer))
        loaded(optimizer)
        prune(optimizer)

    def _check_stepped(self) -> None:
        """Warn, at the first step, if no optimizer steps any of the parameters."""
        if self.parameters and not self._are_checked:
            self._are_checked = True
            if not any(map(self.steps_any, self.optimizers)):
                warn(
                    "the optimizer steps none of the sparse parameters, so its steps leave their "
                    "masks alone; sparsify the module whose parameters it steps"
                )

    def take_over(self, optimizer: Optimizer, steps: list[int]) -> None:
        """Let the newest optimizer go on counting where others of the same parameters stopped.

        Args:
            optimizer: the one added last.
            steps: steps of each optimizer, in order; written to.
        """
        own, others = set(self.of(optimizer)), self.optimizers[:-1]
        followed = zip(others, steps, strict=False)
        before = [count for other, count in followed if own & set(self.of(other))]
        if before:
            steps += [0] * (len(others) - len(steps))
            steps[len(others) :] = [max(before)]

    def before_forward(self, module: nn.Module, initialize: Callable[[], None]) -> None:
        """Call `initialize` before each forward of the module, until `end_before_forward`."""
        self._forward_handles.append(
            module.register_forward_pre_hook(lambda module, args: initialize())
        )

    def end_before_forward(self) -> None:
        """No forward needs to initialize anything any more."""
        for handle in self._forward_handles:
            handle.remove()
        self._forward_handles.clear()

    def find(self, tensor: Tensor) -> SparseParameter | None:
        """The sparse parameter whose weight this tensor is, or None."""
        found = self._by_id.get(id(tensor))
        if found is None or found.param is not tensor:
            self._by_id = {id(p.param): p for p in self.parameters.values()}
            found = self._by_id.get(id(tensor))
        return found

    def join_replicas(self, module: nn.Module) -> None:
        """Take the ranks that a data-parallel module has, or keep masks out of its way."""
        self.process_group = replicas.group_of(module, self.process_group)
        masks = [p.mask for p in self.parameters.values() if not p.is_compressed]
        self._hidden.append((module, replicas.hide_from_ddp(module, masks)))

    def meet_replicas(self, steps: list[int], seed: int) -> None:
        """Know the ranks that train replicas; at the first step, make sure that they agree."""
        group = replicas.find_group(self.process_group)
        self.dense_gradients.group = group
        if group is not None and not self._have_agreed:
            replicas.check_agreement(self.parameters.values(), steps, seed, group)
            self._have_agreed = True

    def of(self, optimizer: Optimizer) -> list[SparseParameter]:
        """The sparse parameters that an optimizer steps, in order of attaching."""
        return list(self._each_of(optimizer))

    def _each_of(self, optimizer: Optimizer) -> Iterator[SparseParameter]:
        stepped = {id(param) for group in optimizer.param_groups for param in group["params"]}
        return (p for p in self.parameters.values() if id(p.param) in stepped)

    def steps_any(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer steps any sparse parameter."""
        return next(self._each_of(optimizer), None) is not None

    def is_stepped_by(self, optimizer: Optimizer) -> bool:
        """Whether the steps of an optimizer are steps of the run.

        Those of one that has no sparse parameter are not, if another one has.
        """
        return self.steps_any(optimizer) or not any(map(self.steps_any, self.optimizers))

    def prune_step(self, parameters: list[SparseParameter], optimizer: Optimizer | None) -> None:
        """Prune what a step may have written to: the weights, and state that does not stay 0."""
        masked = [p for p in parameters if not p.is_compressed]
        kernels.prune_many_(
            [sharded.local(p.param) for p in masked], [sharded.local(p.mask) for p in masked]
        )
        for stepped in self.optimizers if optimizer is None else [optimizer]:
            if not keeps_zero_state(stepped):
                for parameter in masked:
                    parameter.prune_state(stepped)

    def follow(self) -> None:
        """Hook parameters that were replaced or unfrozen since the last call."""
        for gradient in self._gradients.values():
            gradient.follow()
        self.dense_gradients.follow(self.parameters.values())

    def remove_optimizer(self, optimizer: Optimizer) -> None:
        """Stop following an optimizer."""
        self.optimizers.remove(optimizer)
        for handle in self._optimizer_handles.pop(optimizer):
            handle.remove()
        if optimizer in self._loaded:
            self._loaded.remove(optimizer)

    def detach(self, names: Iterable[str]) -> None:
        """Take some parameters off again."""
        for name in names:
            parameter = self.parameters.pop(name)
            self.dense_gradients.disarm([parameter])
            self._gradients.pop(name).remove()
            drop_followers(parameter.module, parameter.storage.param_name)
            _take_off(parameter)
        if all(parameter.is_initialized for parameter in self.parameters.values()):
            self.end_before_forward()

    def remove(self) -> None:
        """Take off every hook and buffer; the weights keep their zeros."""
        self.end_before_forward()
        self.dense_gradients.disarm(self.parameters.values())
        for gradient in self._gradients.values():
            gradient.remove()
        for handle in self._handles:
            handle.remove()
        for parameter in self.parameters.values():
            _take_off(parameter)
        for optimizer in list(self.optimizers):
            self.remove_optimizer(optimizer)
        for module, names in self._hidden:
            replicas.show_to_ddp(module, names)
        self._hidden.clear()
        self._have_agreed = False
        self.parameters.clear()
        self._gradients.clear()
        self._by_id.clear()
        self._handles.clear()


def _take_off(parameter: SparseParameter) -> None:
    """Leave an ordinary module; a masked weight may be a Parameter no more."""
    parameter.storage.remove(parameter.states() if parameter.is_compressed else [])


def check_place(module: nn.Module, param_name: str, param: Tensor, name: str) -> None:
    """Raise AttachError if a module has no room for a mask, or makes sparse gradients."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
        kind = type(module).__name__
        raise AttachError(name, f"its {kind} makes sparse gradients; build it with sparse=False")
    mask_name = param_name + MASK_SUFFIX
    existing = module._buffers.get(mask_name)
    if existing is not None:
        if existing.dtype != torch.bool or existing.shape != param.shape:
            raise AttachError(
                name,
                f"its module has a buffer {mask_name!r} that is no mask for it: "
                f"{existing.dtype}, shape {tuple(existing.shape)}",
            )
    elif hasattr(module, mask_name):
        raise AttachError(name, f"its module has an attribute {mask_name!r} already")


def _add_mask(module: nn.Module, param_name: str, param: Tensor, name: str) -> bool:
    """Give the module its mask buffer; whether one was there already."""
    mask_name = param_name + MASK_SUFFIX
    check_place(module, param_name, param, name)
    if module._buffers.get(mask_name) is not None:
        logger.info("%s: takes over the mask that its module has", name)
        return True
    mask = torch.ones_like(param, dtype=torch.bool, requires_grad=False)
    module.register_buffer(mask_name, mask)
    return False


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer whose hooks can be used: a wrapper that has none leads to the one inside.

    Raises:
        AttachError: there is none inside.
    """
    while "_optimizer_step_post_hooks" not in vars(optimizer):
        inner = vars(optimizer).get("optimizer")
        if not isinstance(inner, Optimizer):
            name = type(optimizer).__name__
            raise AttachError(name, "its __init__ did not call Optimizer.__init__; it has no hooks")
        optimizer = inner
    return optimizer


def next_name(name: str) -> str:
    """`fc.weight` -> `fc.weight#2` -> `fc.weight#3`: a second module may have equal names."""
    base, _, count = name.partition("#")
    return f"{base}#{int(count or 1) + 1}"


def attach_routed(module: nn.Module, route: Callable[[str, Tensor], Owner | None]) -> None:
    """Attach every parameter below `module` to the algorithm that `route` gives it, if any.

    All parameters are checked before the first is attached.

    Args:
        module: any module.
        route: `(full name, parameter) -> algorithm`, or None to leave it dense.
    """
    names, already, routed = [], [], []
    weights = list(named_weights(module))
    for name, owner, param_name, param, reason in weights:
        names.append(name)
        algorithm = None if reason else route(name, dense_form(owner, param))
        if algorithm is None:
            logger.info("%s stays dense: %s", name, reason or "no filter picks it")
        elif attached_to(owner, param_name) is not None:
            already.append(name)
        else:
            algorithm.check_parameter(name, dense_form(owner, param))
            check_place(owner, param_name, param, name)
            routed.append((algorithm, owner, param_name, name, param))
    attachments = {}
    for algorithm, owner, param_name, name, param in routed:
        algorithm.sparsify_parameter(owner, name, param)
        attached = attached_to(owner, param_name)
        if attached is not None:
            attachments[id(attached[1])] = attached[1]
    for attachment in attachments.values():
        attachment.join_replicas(module)
        for _, owner, _, param, _ in weights:
            attachment.follow_tied(owner, param)
    if already:
        warn(f"sparsified already, left as they are: {', '.join(already)}")
    elif not routed:
        warn(f"no parameter was sparsified; available: {', '.join(names) or 'none'}")
