"""The base class of storages, each of which is a way to store a weight and its mask."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.errors import AttachError
from sparsewright.kernels import sharded
from sparsewright.layers import LayerKind
from sparsewright.storage.states import States
from sparsewright.taps.tap import GradientTap


@dataclass(frozen=True)
class Change:
    """A mask change that is prepared but not yet made.

    Attributes:
        dropped: number of connections to drop.
        grown: number of connections to grow.
        commit: function that makes the change; if it is interrupted, call it again.
    """

    dropped: int
    grown: int
    commit: Callable[[], None]


@dataclass(frozen=True)
class Footprint:
    """Memory that a weight takes between steps.

    Attributes:
        entries: numbers that the optimizer steps; each has a gradient and optimizer states.
        mask_bytes: bytes of the mask or index.
        shadow: additional numbers that are kept in a shadow.
    """

    entries: int
    mask_bytes: int
    shadow: int = 0


class Storage(ABC):
    """Store a weight and its mask.

    Attributes:
        name: the storage's name in configurations.
        trains_pruned: whether the optimizer also steps pruned connections, with a dense gradient.
        param_name: the Parameter's name in its module.

    Args:
        module: module that owns the weight. The storage does not keep it alive.
        param_name: the Parameter's name in the module.
    """

    name: ClassVar[str]
    trains_pruned: ClassVar[bool] = False
    param_name: str

    _seen: nn.Parameter | None = None
    _shard: nn.Parameter | None = None

    def __init__(self, module: nn.Module, param_name: str) -> None:
        self._module, self.param_name = weakref.ref(module), param_name

    @property
    def module(self) -> nn.Module:
        """Return the module that owns the weight.

        Raises:
            AttachError: the module was freed.
        """
        module = self._module()
        if module is None:
            problem = "its module was freed; keep a reference to the model"
            raise AttachError(self.param_name, problem)
        return module

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Return whether the module is still used outside this library."""

    @property
    def is_in_place(self) -> bool:
        """Return whether the module still has the Parameter."""
        module = self._module()
        return module is not None and module._parameters.get(self.param_name) is not None

    @property
    def is_outgrown(self) -> bool:
        """Return whether the weight was replaced by a Parameter that the mask does not fit."""
        return False

    @property
    def param(self) -> nn.Parameter:
        """Return the Parameter that optimizers step.

        For a sharded weight, it is this rank's shard, even while the whole weight is gathered.

        Raises:
            AttachError: the module no longer has this Parameter.
        """
        module = self._module()
        if module is None:
            return self.last_param
        param = module._parameters.get(self.param_name)
        if param is not None and param is self._seen:
            return param
        if param is None:
            layer = type(module).__name__
            raise AttachError(
                self.param_name,
                f"it is no longer a Parameter of its {layer}; "
                "register parametrizations before apply(model)",
            )
        if sharded.is_sharded(param):
            self._shard, self._seen = param, None  # a reference would keep the whole weight alive
        if self._shard is None:
            self._seen = param
            return param
        return self._shard

    @property
    def last_param(self) -> nn.Parameter:
        """Return the Parameter that the module had last."""
        param = self._seen if self._shard is None else self._shard
        assert param is not None
        return param

    @torch.no_grad()
    def prune_gathered(self) -> None:
        """Prune the weight that FSDP2 has gathered for a forward pass, if there is one."""
        param = self.module._parameters[self.param_name]
        if self._shard is not None and param is not None and not sharded.is_sharded(param):
            kernels.prune_(param, sharded.whole(self.mask))

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Return the shape of the weight."""

    @property
    @abstractmethod
    def mask(self) -> Tensor:
        """Return the bool mask, in the shape of the weight."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """Return the number of live connections on all ranks."""

    @abstractmethod
    def recount(self) -> None:
        """Count the live connections of a sharded weight; every rank must call this."""

    @abstractmethod
    def start_dense(self) -> None:
        """Make every entry of the weight live, before its first mask is computed."""

    @abstractmethod
    def weight(self) -> Tensor:
        """Return the weight that the algorithm sees, in the dense shape."""

    @abstractmethod
    def plan_change(self, new: Tensor, states: States) -> Change:
        """Prepare a mask change, with the changes of weight, gradient and states that it needs.

        Args:
            new: bool mask in the shape of the weight.
            states: the weight's optimizer states.
        """

    @abstractmethod
    def prune(self, tensor: Tensor) -> None:
        """Set a tensor of the weight's shape to zero, in place, where the mask is False."""

    @abstractmethod
    def prune_gradient(self, grad: Tensor) -> None:
        """Prune a gradient that was just accumulated, if this storage prunes gradients."""

    @abstractmethod
    def gradient_to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return gradient and mask, if there is a gradient and this storage prunes it."""

    @abstractmethod
    def take_states(self, states: States) -> None:
        """Convert optimizer states of the weight's shape to the shape that this storage uses."""

    @abstractmethod
    def prune_states(self, states: States) -> None:
        """Prune the tensors in the states that have one entry for each connection."""

    @abstractmethod
    def before_step(self) -> None:
        """Prepare the tensor that the optimizer is about to step."""

    @abstractmethod
    def after_step(self) -> None:
        """Undo `before_step`: hide what only the optimizer may see."""

    @abstractmethod
    def end_interrupted(self) -> None:
        """Undo `before_step` if the optimizer's step raised before `after_step`."""

    @abstractmethod
    def to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return weight and mask, if the weight must be pruned after each step."""

    @abstractmethod
    def buffers(self) -> list[Tensor]:
        """Return the buffers that this storage has registered on the module."""

    @abstractmethod
    def tap(self) -> GradientTap:
        """Return a new tap for the dense gradient."""

    @abstractmethod
    def before_load(self, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> bool:
        """Prepare a state dict that the module is about to load.

        Returns:
            Whether it contains the weight without a mask. A run at step 0 then computes a new mask.
        """

    @abstractmethod
    def after_load(self, states: States) -> None:
        """Update optimizer states to match the mask that was loaded."""

    @abstractmethod
    def move(self, module: nn.Module, param_name: str) -> None:
        """Follow the Parameter to the module that has it now.

        Args:
            module: the new module.
            param_name: the Parameter's name in the new module.
        """

    @abstractmethod
    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Restore an ordinary module that can be trained further.

        Args:
            states: function that returns the weight's optimizer states.
            keep_mask: whether to keep the mask in the module, as a buffer.
        """

    @staticmethod
    @abstractmethod
    def footprint(
        shape: torch.Size, kept: int, dtype: torch.dtype, kind: LayerKind | None
    ) -> Footprint:
        """Return the memory that a weight takes in this storage.

        Args:
            shape: shape of the weight, or of one rank's part of it.
            kept: number of live connections.
            dtype: dtype of the weight.
            kind: kind of the weight's layer; None only if the layer cannot be compressed.
        """

    @staticmethod
    @abstractmethod
    def why_not_step(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        """Return why an optimizer cannot step a weight in this storage; "" if it can.

        Args:
            optimizer: the optimizer.
            param: Parameter that it steps now, dense or compressed.
            ndim: number of dimensions of the weight.
        """

    @abstractmethod
    def why_not_spread(self) -> str:
        """Return why the weight cannot be sharded; "" if it can."""

    @abstractmethod
    def why_not_change(self, new: Tensor) -> str:
        """Return why replicas cannot change to a mask; "" if they can."""
