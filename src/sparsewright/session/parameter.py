"""A sparse parameter: a weight of a module, its mask, and everything that must follow the mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.core.inference import outside_inference_mode
from sparsewright.core.interrupts import finish
from sparsewright.core.plots import show_mask
from sparsewright.errors import OptionTypeError, ShapeError
from sparsewright.session.representation import describe_parameter, parameter_html
from sparsewright.storage import CompressedStorage, Storage
from sparsewright.storage.states import States, forget_history, state_of

if TYPE_CHECKING:
    from sparsewright.session.followed import Followed
    from sparsewright.session.rule import Rule

logger = logging.getLogger("sparsewright")


class SparseParameter:
    """A weight and its mask. Made by a sparsity algorithm when it is applied to a model.

    Masked: the mask is the buffer `<param>_mask` of the owning module, beside a dense weight.
    Compressed: the module is a `SparseLinear`, which has the live values only.

    Attributes:
        name: full name of the weight, from the module given to `apply`.
        storage: how the weight is stored.
        rule: the algorithm that decides its mask.
        annotations: what `annotate` recorded.
        is_pristine: the mask is still the one that the init method made.
        is_taken_over: the mask is one that the model had already, and has no level yet.
    """

    def __init__(
        self,
        name: str,
        storage: Storage,
        rule: Rule,
        followed: Sequence[Followed],
    ) -> None:
        self.name, self.storage, self.rule = name, storage, rule
        self.annotations: dict[str, object] = {}
        self.is_pristine = False
        self.is_initialized = self.is_taken_over = self._was_empty = False
        self._followed = followed

    @property
    def module(self) -> nn.Module:
        """The module that owns the parameter."""
        return self.storage.module

    @property
    def param(self) -> nn.Parameter:
        """What optimizers step: the weight, zero where `mask` is False; compressed: its values."""
        return self.storage.param

    @property
    def data(self) -> nn.Parameter:
        """The same as `param`."""
        return self.param

    @property
    def is_attached(self) -> bool:
        """Whether it has not been removed."""
        return self.rule.session.parameters.get(self.name) is self

    @property
    def is_compressed(self) -> bool:
        """Whether only the live values are stored."""
        return self.storage.name == CompressedStorage.name

    @property
    def shape(self) -> torch.Size:
        """Shape of the weight, however it is stored."""
        return self.storage.shape

    @property
    def mask(self) -> Tensor:
        """Bool, shaped like the weight; True: kept. Setting it calls `change_mask`."""
        return self.storage.mask

    @mask.setter
    def mask(self, new: Tensor) -> None:
        self.change_mask(new)

    @property
    def kept(self) -> int:
        """Live connections, counted from the mask."""
        return self.storage.kept

    @property
    def computed_sparsity(self) -> float:
        """Fraction pruned, measured from the mask; 0..1."""
        return 1 - self.kept / max(self.shape.numel(), 1)

    def initialize(self) -> None:
        """Compute the mask, unless it is there already (computed before, set, or loaded)."""
        if not self.is_initialized and not self.param.is_meta:
            self.storage.start_dense()
            self.change_mask(self.rule._make_mask(self))
            self.storage.prune_gathered()  # a forward pass may have begun
            self.is_pristine = True

    @outside_inference_mode()
    @torch.no_grad()
    def change_mask(self, new: Tensor) -> tuple[int, int]:
        """Change the mask, in place, and all that must follow: weight, gradient, state.

        The one place where masks change. A connection that `new` grows starts at weight 0 and
        optimizer state 0; one that it drops loses both. An exception or Ctrl-C leaves all as before
        or as after.

        Args:
            new: bool, shaped like the weight.

        Returns:
            How many connections were dropped and how many grown.

        Raises:
            OptionTypeError: `new` is not a bool tensor.
            ShapeError: `new` has another shape.
        """
        if not isinstance(new, Tensor) or new.dtype != torch.bool:
            raise OptionTypeError(
                f"the mask of {self.name}", new, "a bool tensor with the shape of the weight"
            )
        if new.shape != self.shape:
            raise ShapeError(
                f"a mask for {self.name}", new.shape, f"the weight has shape {tuple(self.shape)}"
            )
        change = self.storage.plan_change(new, self.optimizer_states())

        def commit() -> None:
            change.commit()
            self.is_initialized, self.is_pristine = True, False

        finish(commit)
        if change.dropped or change.grown:
            self._restart_optimizers()
        if not change.grown:
            self._warn_if_empty()
        return change.dropped, change.grown

    def _restart_optimizers(self) -> None:
        """Let optimizers start anew that remember whole steps of all weights together."""
        for followed in self._followed:
            for optimizer in followed.members:
                forget_history(optimizer, self.param)

    def _warn_if_empty(self) -> None:
        """Log, once, that no connection is left."""
        total = self.shape.numel()
        if total and not self.kept and not self._was_empty:
            self._was_empty = True
            logger.warning(
                "%s has no connection left, of %d; its level is too high for its size",
                self.name,
                total,
            )

    def states(self, optimizer: Optimizer | None = None) -> list[Any]:
        """The weight's state in one optimizer, or in each that is followed."""
        return [state.data for state in self.optimizer_states(optimizer)]

    def optimizer_states(self, optimizer: Optimizer | None = None) -> States:
        """The same, with what is known of them."""
        param = self.param
        every = (f.members for f in self._followed if optimizer is None or optimizer in f.members)
        optimizers = list(chain.from_iterable(every)) or ([] if optimizer is None else [optimizer])
        states = (state_of(each, param) for each in optimizers)
        return list({id(state.data): state for state in states if state is not None}.values())

    @torch.no_grad()
    def prune(self, tensor: Tensor | None = None, name: str | None = None) -> Tensor:
        """Set a tensor to zero, in place, where the mask is False.

        Args:
            tensor: shaped like the weight (compressed: or its values); None: the weight itself.
            name: what the tensor is, for the error.

        Returns:
            The same tensor.

        Raises:
            ShapeError: another shape.
        """
        tensor = self.param if tensor is None else tensor
        if tensor.shape not in (self.shape, self.param.shape):
            what = name or "a tensor"
            raise ShapeError(what, tensor.shape, f"{self.name} has shape {tuple(self.shape)}")
        self.storage.prune(tensor)
        return tensor

    def prune_all(self) -> None:
        """Prune the weight, its gradient, and the state of every optimizer that has it."""
        self.prune()
        if self.param.grad is not None:
            self.storage.prune_gradient(self.param.grad)
        self.storage.prune_states(self.optimizer_states())

    def prune_state(self, optimizer: Optimizer) -> None:
        """Prune what in its state has one entry for each connection."""
        self.storage.prune_states(self.optimizer_states(optimizer))

    def annotate(self, name: str, value: object) -> None:
        """Record a hint about the parameter, such as `max_sparsity`, in `annotations`."""
        self.annotations[name] = value

    def show(self, ax: Any = None) -> Any:
        """Draw the mask with matplotlib (extra `plot`); of a large one the density.

        Args:
            ax: matplotlib axes to draw on; None: a new figure.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return show_mask(self.mask, f"{self.name}: level {self.computed_sparsity:.4f}", ax)

    __repr__ = describe_parameter
    _repr_html_ = parameter_html
