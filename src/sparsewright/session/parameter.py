"""Sparse parameters: weights with their masks, gradients and optimizer states."""

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
from sparsewright.core.selection import make_selection
from sparsewright.core.structure import Structure
from sparsewright.errors import OptionTypeError, ShapeError
from sparsewright.kernels.sharded import is_sharded
from sparsewright.session.placed import weight_dims
from sparsewright.session.representation import describe_parameter, parameter_html
from sparsewright.storage import CompressedStorage, Storage
from sparsewright.storage.states import States, forget_history, state_of
from sparsewright.wording import first_of

if TYPE_CHECKING:
    from sparsewright.session.followed import Followed
    from sparsewright.session.rule import Rule

logger = logging.getLogger("sparsewright")


class SparseParameter:
    """A weight and its mask, created when a sparsity algorithm is applied to a model.

    If the weight is masked, its module holds a dense weight and the mask buffer `<param>_mask`. If
    it is compressed, its module is a compressed layer, such as `SparseLinear`, that holds only the
    live values.

    Attributes:
        name: full name of the weight, relative to the module passed to `apply`.
        storage: how the weight is stored.
        rule: the algorithm that decides the mask.
        annotations: hints recorded with `annotate`.
        is_pristine: True while the mask is the one that the init method computed.
        is_taken_over: True while the mask comes from the model and is not yet adjusted to a level.
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
        """Return the module that owns the parameter."""
        return self.storage.module

    @property
    def param(self) -> nn.Parameter:
        """Return the Parameter that optimizers step.

        For a compressed weight these are its values. For a masked weight it is the weight itself,
        which is zero where `mask` is False.
        """
        return self.storage.param

    @property
    def data(self) -> nn.Parameter:
        """Return `param`; this property is an alias."""
        return self.param

    @property
    def is_attached(self) -> bool:
        """Return whether the parameter is still attached to its algorithm."""
        return self.rule.session.parameters.get(self.name) is self

    @property
    def is_compressed(self) -> bool:
        """Return whether only the live values are stored."""
        return self.storage.name == CompressedStorage.name

    @property
    def shape(self) -> torch.Size:
        """Return the dense shape of the weight, for every storage."""
        return self.storage.shape

    @property
    def structure(self) -> Structure:
        """Return the algorithm's structure, with the output and input dimensions of this weight."""
        root = self.rule.session.roots.of(self.name)
        dims = weight_dims(self.module, self.storage.param_name, root)
        return self.rule.structure_of(self.name).with_dims(*dims)

    @property
    def mask(self) -> Tensor:
        """Return the mask: bool, shaped like the weight, True for live connections.

        Setting this property calls `change_mask`.
        """
        return self.storage.mask

    @mask.setter
    def mask(self, new: Tensor) -> None:
        self.change_mask(new)

    @property
    def kept(self) -> int:
        """Return the number of live connections in the mask."""
        return self.storage.kept

    @property
    def computed_sparsity(self) -> float:
        """Return the level measured from the mask: the pruned fraction, 0..1."""
        return 1 - self.kept / max(self.shape.numel(), 1)

    def initialize(self) -> None:
        """Compute the first mask, unless the mask was already computed, set or loaded."""
        initialize_all([self])

    def _initialize(self) -> None:
        if not self.is_initialized and not self.param.is_meta:
            self.storage.start_dense()
            try:
                if is_sharded(self.param):  # check the shards even if training starts dense
                    make_selection(self.structure, self.param)
                mask = self.rule._make_mask(self)
            except ShapeError as error:
                raise ShapeError(self.name, error.shape, error.problem) from None
            self._change_mask(mask)
            self.storage.prune_gathered()  # a forward pass may already be running
            self.is_pristine = True

    def change_mask(self, new: Tensor) -> tuple[int, int]:
        """Change the mask, weight, gradient and optimizer states, in place.

        All mask changes use this method. A grown connection starts with weight 0 and optimizer
        state 0. A dropped connection loses its weight and its state. If an exception or Ctrl-C
        interrupts the call, the change is either complete or not made at all.

        Args:
            new: the new mask; bool, shaped like the weight.

        Returns:
            The number of dropped connections and the number of grown connections.

        Raises:
            OptionTypeError: `new` is not a bool tensor.
            ShapeError: the shape of `new` differs from the weight's shape.
        """
        changes = self._change_mask(new)
        _warn_of_empty([self])
        return changes

    @outside_inference_mode()
    @torch.no_grad()
    def _change_mask(self, new: Tensor) -> tuple[int, int]:
        if not isinstance(new, Tensor) or new.dtype != torch.bool:
            raise OptionTypeError(
                f"the new mask of {self.name}", new, "a bool tensor with the shape of the weight"
            )
        if new.shape != self.shape:
            raise ShapeError(
                f"the new mask of {self.name}",
                new.shape,
                f"expected the weight's shape {tuple(self.shape)}",
            )
        change = self.storage.plan_change(new, self.optimizer_states())

        def commit() -> None:
            change.commit()
            self.is_initialized, self.is_pristine = True, False

        finish(commit)
        if change.dropped or change.grown:
            self._restart_optimizers()
        return change.dropped, change.grown

    def _restart_optimizers(self) -> None:
        """Reset optimizers, such as LBFGS, that keep one history for all weights together."""
        for followed in self._followed:
            for optimizer in followed.members:
                forget_history(optimizer, self.param)

    def _lost_all(self) -> bool:
        """Return whether the weight has no connections left; True only once."""
        if self._was_empty or self.kept or not self.shape.numel():
            return False
        self._was_empty = True
        return True

    def states(self, optimizer: Optimizer | None = None) -> list[Any]:
        """Return the weight's state in one optimizer, or in every followed optimizer."""
        return [state.data for state in self.optimizer_states(optimizer)]

    def optimizer_states(self, optimizer: Optimizer | None = None) -> States:
        """Return the weight's state as `OptimizerState`, in one or every followed optimizer."""
        param = self.param
        every = (f.members for f in self._followed if optimizer is None or optimizer in f.members)
        optimizers = list(chain.from_iterable(every)) or ([] if optimizer is None else [optimizer])
        states = (state_of(each, param) for each in optimizers)
        return list({id(state.data): state for state in states if state is not None}.values())

    @torch.no_grad()
    def prune(self, tensor: Tensor | None = None, name: str | None = None) -> Tensor:
        """Set a tensor to zero, in place, where the mask is False.

        Args:
            tensor: shaped like the weight, or like the values of a compressed weight. Default: the
                weight itself.
            name: name of the tensor for the error message.

        Returns:
            The pruned tensor.

        Raises:
            ShapeError: the tensor has a different shape.
        """
        tensor = self.param if tensor is None else tensor
        if tensor.shape not in (self.shape, self.param.shape):
            what = name or "a tensor"
            raise ShapeError(
                what, tensor.shape, f"expected the shape of {self.name}, {tuple(self.shape)}"
            )
        self.storage.prune(tensor)
        return tensor

    def prune_all(self) -> None:
        """Prune the weight, its gradient and its state in every followed optimizer."""
        self.prune()
        if self.param.grad is not None:
            self.storage.prune_gradient(self.param.grad)
        self.storage.prune_states(self.optimizer_states())

    def prune_state(self, optimizer: Optimizer) -> None:
        """Prune the tensors in an optimizer's state that have one entry per connection."""
        self.storage.prune_states(self.optimizer_states(optimizer))

    def annotate(self, name: str, value: object) -> None:
        """Store a hint about the parameter, such as `max_sparsity`, in `annotations`."""
        self.annotations[name] = value

    def show(self, ax: Any = None) -> Any:
        """Draw the mask with matplotlib (extra `plot`); a large mask is drawn as its density.

        Args:
            ax: matplotlib axes to draw on. Default: a new figure.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return show_mask(self.mask, f"{self.name}: level {self.computed_sparsity:.4f}", ax)

    __repr__ = describe_parameter
    _repr_html_ = parameter_html


def initialize_all(parameters: Sequence[SparseParameter]) -> None:
    """Compute the first masks of several weights."""
    for parameter in parameters:
        parameter._initialize()
    _warn_of_empty([parameter for parameter in parameters if parameter.is_initialized])


def _warn_of_empty(parameters: Sequence[SparseParameter]) -> None:
    """Log one warning about weights that have no connections left, once for each weight."""
    empty = [parameter for parameter in parameters if parameter._lost_all()]
    if len(empty) == 1:
        logger.warning(
            "%s has no connections left (0 of %d); lower its level, or keep the weight dense",
            empty[0].name,
            empty[0].shape.numel(),
        )
    elif empty:
        logger.warning(
            "%d weights have no connections left: %s; lower their levels, or keep them dense",
            len(empty),
            first_of([parameter.name for parameter in empty]),
        )
