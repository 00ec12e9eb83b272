"""A sparse parameter: a weight of a module, its mask, and everything that must follow the mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.core.errors import OptionTypeError, ShapeError
from sparsewright.core.packing import MASK_SUFFIX

# With zero weight and zero gradient these leave zero state at zero (exact types: a subclass may
# not), so their state needs pruning only when the mask changes.
_KEEPS_ZERO_STATE = frozenset(
    (
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Adadelta,
    )
)


def keeps_zero_state(optimizer: Optimizer) -> bool:
    """Whether the optimizer leaves the state of a pruned connection at zero by itself."""
    return type(optimizer) in _KEEPS_ZERO_STATE


class SparseParameter:
    """A weight and its mask. The mask is the buffer `<param>_mask` of the owning module.

    Made by a sparsity algorithm when it is applied to a model.

    Attributes:
        name: full name of the parameter, from the module given to `apply`.
        module: the module that owns the parameter.
        param_name: the parameter's name in that module.
        annotations: what `annotate` recorded.
        is_pristine: the mask is still the one that the init method made.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        param_name: str,
        optimizers: list[Optimizer],
        make_mask: Callable[[SparseParameter], Tensor],
    ) -> None:
        self.name, self.module, self.param_name = name, module, param_name
        self.annotations: dict[str, Any] = {}
        self.is_pristine = False
        self.is_initialized = False
        self._optimizers = optimizers
        self._make_mask = make_mask
        self._counted: tuple[int, int, int] = (0, -1, 0)

    @property
    def param(self) -> nn.Parameter:
        """The weight itself, any shape; zero wherever `mask` is False."""
        param = self.module._parameters[self.param_name]
        assert param is not None
        return param

    @property
    def data(self) -> nn.Parameter:
        """The same as `param`."""
        return self.param

    @property
    def mask(self) -> Tensor:
        """Bool, shaped like the weight; True: kept. Setting it calls `change_mask`."""
        mask = self.module._buffers[self.param_name + MASK_SUFFIX]
        assert mask is not None
        return mask

    @mask.setter
    def mask(self, new: Tensor) -> None:
        self.change_mask(new)

    @property
    def kept(self) -> int:
        """Live connections, counted from the mask (again only after the mask was written to)."""
        mask = self.mask
        if self._counted[:2] != (id(mask), mask._version):
            self._counted = (id(mask), mask._version, int(mask.sum()))
        return self._counted[2]

    @property
    def computed_sparsity(self) -> float:
        """Fraction pruned, measured from the mask; 0..1."""
        return 1 - self.kept / max(self.mask.numel(), 1)

    def initialize(self) -> None:
        """Compute the mask, unless it is there already (computed before, set, or loaded)."""
        if self.is_initialized or self.param.is_meta:
            return
        if self.mask.is_meta:
            mask = torch.ones_like(self.param, dtype=torch.bool, requires_grad=False)
            self.module._buffers[self.param_name + MASK_SUFFIX] = mask
        self.mask.fill_(True)
        self.change_mask(self._make_mask(self))
        self.is_pristine = True

    @torch.no_grad()
    def change_mask(self, new: Tensor) -> tuple[int, int]:
        """Change the mask, in place, and prune all that must follow: weight, gradient, state.

        The one place where masks change. A connection that `new` grows starts at weight 0 and
        optimizer state 0; one that it drops loses both.

        Args:
            new: bool, shaped like the weight.

        Returns:
            How many connections were dropped and how many grown.

        Raises:
            OptionTypeError: `new` is not a bool tensor.
            ShapeError: `new` has another shape.
        """
        mask = self.mask
        if not isinstance(new, Tensor) or new.dtype != torch.bool:
            raise OptionTypeError(
                f"mask of {self.name}", new, "a bool tensor shaped like the weight"
            )
        if new.shape != mask.shape:
            raise ShapeError(
                f"a mask for {self.name}", new.shape, f"the weight has shape {tuple(mask.shape)}"
            )
        new = new.to(mask.device)
        changes = kernels.count_changes(mask, new)
        # Pruned by what stays: a grown connection starts at 0 whatever was written there by hand.
        mask.logical_and_(new)
        self.prune_all()
        mask.copy_(new)
        self.is_initialized, self.is_pristine = True, False
        return changes

    @torch.no_grad()
    def prune(self, tensor: Tensor | None = None, name: str | None = None) -> Tensor:
        """Set a tensor to zero, in place, where the mask is False.

        Args:
            tensor: shaped like the weight; None: the weight itself.
            name: what the tensor is, for the error.

        Returns:
            The same tensor.

        Raises:
            ShapeError: another shape.
        """
        tensor = self.param if tensor is None else tensor
        if tensor.shape != self.mask.shape:
            what = name or "a tensor"
            raise ShapeError(what, tensor.shape, f"{self.name} has shape {tuple(self.mask.shape)}")
        return kernels.prune_(tensor, self.mask)

    def prune_all(self) -> None:
        """Prune the weight, its gradient, and the state of every optimizer that has it."""
        self.prune()
        if self.param.grad is not None:
            self.prune(self.param.grad)
        for optimizer in self._optimizers:
            self.prune_state(optimizer)

    def prune_state(self, optimizer: Optimizer) -> None:
        """Prune every state tensor shaped like the weight, unless it says `requires_dense`."""
        for tensor in _tensors(optimizer.state.get(self.param, {})):
            if tensor.shape == self.mask.shape and not getattr(tensor, "requires_dense", False):
                self.prune(tensor)

    def annotate(self, name: str, value: Any) -> None:
        """Record a hint about the parameter, such as `max_sparsity`, in `annotations`."""
        self.annotations[name] = value

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.mask.shape))
        return f"SparseParameter({self.name!r}, {shape}, kept {self.kept} of {self.mask.numel()})"


def _tensors(state: Any) -> Iterator[Tensor]:
    """The floating-point tensors in an optimizer's state, lists and dicts included."""
    if isinstance(state, Tensor):
        if state.is_floating_point() or state.is_complex():
            yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)
