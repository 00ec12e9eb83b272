"""A hook that prunes a sparse parameter's gradient during the backward pass."""

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

# Weight changes without a step before the warning. Gradient accumulation changes no weights.
_WRITES = 12


class GradientHook:
    """Prune a parameter's gradient each time that it is accumulated.

    Gradient clipping, scalers and optimizers then see only gradients of live connections.

    Attributes:
        tap: collects the dense gradient before it is pruned.

    Args:
        parameter: the parameter.
        tell: called if the weight changes repeatedly without a step of a followed optimizer.
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
        """Register the hook on the current Parameter, even if it is frozen.

        Raises:
            AttachError: the Parameter has another shape, or is sharded in an unsupported way.
        """
        storage = self.parameter.storage
        param = storage.param
        if param is self._hooked and storage is self._storage:
            return
        problem = storage.why_not_spread() if sharded.is_sharded(param) else ""
        if storage.is_outgrown:
            shape = tuple(param.shape)
            problem = (
                f"it was replaced by a Parameter of shape {shape}; call apply(model) to create a "
                "mask for the new shape"
            )
        if problem:
            raise AttachError(self.parameter.name, problem)
        was_armed = self._handle is not None and self.tap.is_armed
        self.remove()
        self._storage, self.tap = storage, storage.tap()
        with requires_grad(param):
            self._handle = param.register_post_accumulate_grad_hook(Accumulated(self))
        self._hooked = param
        if self.parameter.is_initialized:  # otherwise the mask may be uninitialized memory
            self.parameter.prune_all()
        if was_armed:
            self.tap.arm()

    def is_on(self, param: Tensor) -> bool:
        """Return whether the hook is on this Parameter."""
        return self._hooked is param

    def remove(self) -> None:
        """Remove the hook and the tap."""
        if self._handle is not None:
            self._handle.remove()
            self.tap.disarm()
        self._handle = self._hooked = self._storage = None

    def _after_accumulation(self, param: Tensor) -> None:
        if param.grad is not None:
            self._has_arrived = True
            self._watch(param)
            if param.grad.layout is not torch.strided:  # a sparse gradient of an embedding
                param.grad = param.grad.to_dense()
            self._place(param)
            if self.tap.is_armed:
                self.tap.commit(param.grad)
            self._prune(param, param.grad)

    def _watch(self, param: Tensor) -> None:
        """Count weight changes between backward passes; call `tell` if there are too many."""
        now = version(param)
        if now != self._version:
            self._version = now
            self._writes += 1
            if self._writes == _WRITES:
                self._tell()

    def rest(self) -> None:
        """Reset the count of writes when a step starts."""
        self._writes = 0

    def before_step(self) -> None:
        """Prune a gradient that no backward pass computed, such as a copied one."""
        self.rest()
        param = self.parameter.param
        self._place(param)
        if not self._has_arrived and param.grad is not None:
            self.tap.take(param.grad)
            self._prune(param, param.grad)
        self._has_arrived = False

    def _place(self, param: Tensor) -> None:
        """Shard a gradient like its weight; autograd may leave it as a partial sum."""
        if sharded.is_sharded(param) and param.grad is not None:
            param.grad = sharded.placed_like(param.grad, param)

    def own_gradient(self, places: set[int]) -> None:
        """Copy the gradient if its memory is shared or overlaps, since it is pruned in place.

        Args:
            places: addresses of the other parameters' gradients; this gradient's address is added.
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
    """The callable that PyTorch calls after it has accumulated a gradient.

    It holds a weak reference to its hook. Garbage collection cannot follow references in hooks of
    this kind, so a strong reference would keep the model alive forever.
    """

    def __init__(self, hook: GradientHook) -> None:
        self._hook = weakref.ref(hook)

    @property
    def parameter(self) -> SparseParameter | None:
        """Return the sparse parameter, or None if it was freed."""
        hook = self._hook()
        return None if hook is None else hook.parameter

    def __call__(self, param: Tensor) -> None:
        """Prune the gradient of `param`."""
        hook = self._hook()
        if hook is not None:
            hook._after_accumulation(param)


def parameter_of(param: Tensor) -> SparseParameter | None:
    """Return the sparse parameter of a Parameter in any module, or None."""
    hooks = (hook for hook in accumulation_hooks(param) if isinstance(hook, Accumulated))
    return next(filter(None, (hook.parameter for hook in hooks)), None)
