"""The hook on a sparse parameter's gradient: it is pruned as it arrives."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparsewright.errors import AttachError
from sparsewright.kernels import sharded
from sparsewright.session.parameter import SparseParameter
from sparsewright.storage import Storage
from sparsewright.taps.tap import GradientTap, requires_grad
from sparsewright.torch_private import accumulation_hooks, may_overlap, version

_WRITES = 12  # backward passes, with a write to the weight before each: no accumulation does that


class GradientHook:
    """Prunes one parameter's gradient whenever it has been accumulated.

    Clipping, scalers and optimizers then see live gradients only.

    Attributes:
        tap: collects the dense gradient, before it is pruned.

    Args:
        parameter: the parameter.
        tell: called if its weight is written to again and again without a step that is followed.
    """

    tap: GradientTap

    def __init__(self, parameter: SparseParameter, tell: Callable[[], None]) -> None:
        self.parameter, self._tell = parameter, tell
        self._hooked: Tensor | None = None
        self._storage: Storage | None = None
        self._handle: RemovableHandle | None = None
        self._has_arrived = False
        self._version, self._writes = -1, 0

    def follow(self) -> None:
        """Hook the parameter, anew if it was replaced since; a frozen one may be unfrozen later."""
        storage = self.parameter.storage
        param = storage.param
        if param is self._hooked and storage is self._storage:
            return
        problem = storage.why_not_spread() if sharded.is_sharded(param) else ""
        if storage.is_outgrown:
            shape = tuple(param.shape)
            problem = f"a Parameter of shape {shape} is in its place; call apply(model) for a mask"
        if problem:
            raise AttachError(self.parameter.name, problem)
        was_armed = self._handle is not None and self.tap.is_armed
        self.remove()
        self._storage, self.tap = storage, storage.tap()
        with requires_grad(param):
            self._handle = param.register_post_accumulate_grad_hook(Accumulated(self))
        self._hooked = param
        if self.parameter.is_initialized:  # else its mask may be memory that nobody wrote to
            self.parameter.prune_all()
        if was_armed:
            self.tap.arm()

    def is_on(self, param: Tensor) -> bool:
        """Return whether a Parameter is the one that is hooked."""
        return self._hooked is param

    def remove(self) -> None:
        """Take the hook and the tap off."""
        if self._handle is not None:
            self._handle.remove()
            self.tap.disarm()
        self._handle = self._hooked = self._storage = None

    def _after_accumulation(self, param: Tensor) -> None:
        if param.grad is not None:
            self._has_arrived = True
            self._watch(param)
            if param.grad.layout is not torch.strided:  # that of a sparse embedding
                param.grad = param.grad.to_dense()
            self._place(param)
            if self.tap.is_armed:
                self.tap.commit(param.grad)
            self._prune(param, param.grad)

    def _watch(self, param: Tensor) -> None:
        """Notice a weight that somebody trains by other means than the `step` of an optimizer."""
        now = version(param)
        if now != self._version:
            self._version = now
            self._writes += 1
            if self._writes == _WRITES:
                self._tell()

    def rest(self) -> None:
        """Count anew: a step begins."""
        self._writes = 0

    def before_step(self) -> None:
        """Take a gradient that no backward pass brought: copied from another model, say."""
        self.rest()
        param = self.parameter.param
        self._place(param)
        if not self._has_arrived and param.grad is not None:
            self.tap.take(param.grad)
            self._prune(param, param.grad)
        self._has_arrived = False

    def _place(self, param: Tensor) -> None:
        """Place a gradient as its weight is: autograd leaves a partial sum as it came."""
        if sharded.is_sharded(param) and param.grad is not None:
            param.grad = sharded.placed_like(param.grad, param)

    def own_gradient(self, places: set[int]) -> None:
        """Give the gradient memory of its own, each entry a place: it is pruned in place.

        Args:
            places: where in memory the gradients of others are; this one's is added.
        """
        param = self.parameter.param
        if param.grad is not None:
            part = sharded.local(param.grad)
            if may_overlap(part) or (part.numel() and part.data_ptr() in places):
                param.grad = param.grad.clone(memory_format=torch.contiguous_format)
            places.add(sharded.local(param.grad).data_ptr())

    def _prune(self, param: Tensor, grad: Tensor) -> None:
        pruned = self.parameter.rule._grad_hook(param, grad)
        if pruned is not grad:
            param.grad = pruned
        if self.tap.is_armed:
            self.tap.note(pruned)


class Accumulated:
    """What is called when a gradient has been accumulated.

    It refers to its hook weakly: garbage collection does not see through hooks of this kind, so all
    would live on.
    """

    def __init__(self, hook: GradientHook) -> None:
        self._hook = weakref.ref(hook)

    @property
    def parameter(self) -> SparseParameter | None:
        """The sparse parameter, if it is alive."""
        hook = self._hook()
        return None if hook is None else hook.parameter

    def __call__(self, param: Tensor) -> None:
        """Prune the gradient of `param`."""
        hook = self._hook()
        if hook is not None:
            hook._after_accumulation(param)


def parameter_of(param: Tensor) -> SparseParameter | None:
    """Return the sparse parameter that has been made of a Parameter, in whatever module it is."""
    hooks = (hook for hook in accumulation_hooks(param) if isinstance(hook, Accumulated))
    return next(filter(None, (hook.parameter for hook in hooks)), None)
