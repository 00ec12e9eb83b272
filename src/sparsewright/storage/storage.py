"""What a storage is: a weight and its mask, held in one way."""

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
    """A change of a mask that is prepared; nothing has changed yet.

    Attributes:
        dropped: connections that it drops.
        grown: connections that it grows.
        commit: makes the change; may be called again if it was interrupted.
    """

    dropped: int
    grown: int
    commit: Callable[[], None]


@dataclass(frozen=True)
class Footprint:
    """What a weight takes between steps.

    Attributes:
        entries: numbers that are stepped, each with a gradient and optimizer states.
        mask_bytes: bytes of its mask, or of its index.
        shadow: numbers that are kept besides.
    """

    entries: int
    mask_bytes: int
    shadow: int = 0


class Storage(ABC):
    """A weight and its mask, held in one way.

    Attributes:
        name: what configurations call it.
        trains_pruned: whether the optimizer steps pruned connections too, by a dense gradient.
        param_name: name of the Parameter in its module.

    Args:
        module: the module that owns the weight. It is not kept alive: that is up to the user.
        param_name: name of the Parameter in it.
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
        """The module that owns the weight.

        Raises:
            AttachError: it was freed.
        """
        module = self._module()
        if module is None:
            raise AttachError(self.param_name, "its module was freed")
        return module

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether anybody else has the module."""

    @property
    def is_in_place(self) -> bool:
        """Whether the module has the Parameter."""
        module = self._module()
        return module is not None and module._parameters.get(self.param_name) is not None

    @property
    def is_outgrown(self) -> bool:
        """Whether a Parameter of another shape was put in its place, for which no mask is made."""
        return False

    @property
    def param(self) -> nn.Parameter:
        """What optimizers step; of a weight that is gathered for the moment, this rank's shard.

        Raises:
            AttachError: the module has no such Parameter any more.
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
                f"it is no longer a Parameter of its {layer}; parametrize before apply",
            )
        if sharded.is_sharded(param):
            self._shard, self._seen = param, None  # the whole weight can be freed
        if self._shard is None:
            self._seen = param
            return param
        return self._shard

    @property
    def last_param(self) -> nn.Parameter:
        """The Parameter that the module had last."""
        param = self._seen if self._shard is None else self._shard
        assert param is not None
        return param

    @torch.no_grad()
    def prune_gathered(self) -> None:
        """Prune the weight that FSDP2 holds gathered for a forward pass, if it does."""
        param = self.module._parameters[self.param_name]
        if self._shard is not None and param is not None and not sharded.is_sharded(param):
            kernels.prune_(param, sharded.whole(self.mask))

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Shape of the weight."""

    @property
    @abstractmethod
    def mask(self) -> Tensor:
        """Bool, shaped like the weight."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """Live connections, on all ranks."""

    @abstractmethod
    def recount(self) -> None:
        """Count the live connections of a sharded weight; every rank must take part."""

    @abstractmethod
    def start_dense(self) -> None:
        """Let every entry of the weight be live, before its first mask is made."""

    @abstractmethod
    def weight(self) -> Tensor:
        """Return the weight that the algorithm sees, of the dense shape."""

    @abstractmethod
    def plan_change(self, new: Tensor, states: States) -> Change:
        """Prepare a change of the mask, which weight, gradient and states follow.

        Args:
            new: bool, shaped like the weight.
            states: the weight's optimizer states.
        """

    @abstractmethod
    def prune(self, tensor: Tensor) -> None:
        """Set a tensor shaped like the weight to zero, in place, where the mask is False."""

    @abstractmethod
    def prune_gradient(self, grad: Tensor) -> None:
        """Prune a gradient that has just been accumulated, if the optimizer is to see it so."""

    @abstractmethod
    def gradient_to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return gradient and mask, if there is one and the optimizer is to see it pruned."""

    @abstractmethod
    def take_states(self, states: States) -> None:
        """Let states follow that are shaped like the weight, however it is stored."""

    @abstractmethod
    def prune_states(self, states: States) -> None:
        """Prune what in the states has one entry for each connection."""

    @abstractmethod
    def before_step(self) -> None:
        """Give the optimizer what it steps."""

    @abstractmethod
    def after_step(self) -> None:
        """Take back what only the optimizer sees."""

    @abstractmethod
    def end_interrupted(self) -> None:
        """Take back what only the optimizer sees, if its step has raised and left it so."""

    @abstractmethod
    def to_prune(self) -> tuple[Tensor, Tensor] | None:
        """Return weight and mask, if the weight must be pruned after each step."""

    @abstractmethod
    def buffers(self) -> list[Tensor]:
        """Return the buffers that this storage has put on the module."""

    @abstractmethod
    def tap(self) -> GradientTap:
        """Return a new tap for the dense gradient."""

    @abstractmethod
    def before_load(self, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> bool:
        """Prepare a state dict that the module is about to load.

        Returns:
            Whether it holds a weight without a mask, and the mask is to be made anew.
        """

    @abstractmethod
    def after_load(self, states: States) -> None:
        """Let optimizer states follow to the mask that was loaded."""

    @abstractmethod
    def move(self, module: nn.Module, param_name: str) -> None:
        """Follow the Parameter to another module that has it now.

        Args:
            module: the module.
            param_name: name of the Parameter in it.
        """

    @abstractmethod
    def remove(self, states: Callable[[], States], keep_mask: bool = False) -> None:
        """Leave an ordinary module that trains on.

        Args:
            states: gives the optimizer states.
            keep_mask: leave the mask in the module, as a buffer.
        """

    @staticmethod
    @abstractmethod
    def footprint(
        shape: torch.Size, kept: int, dtype: torch.dtype, kind: LayerKind | None
    ) -> Footprint:
        """Return what a weight takes that is held in this way.

        Args:
            shape: of the weight, or of a rank's part of it.
            kept: live connections.
            dtype: of the weight.
            kind: the kind of its layer; None only if it cannot be compressed.
        """

    @staticmethod
    @abstractmethod
    def why_not_step(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        """Return why an optimizer cannot step a weight that is held so; "" if it can.

        Args:
            optimizer: the optimizer.
            param: what it steps now, dense or compressed.
            ndim: dimensions of the weight.
        """

    @abstractmethod
    def why_not_spread(self) -> str:
        """Return why the weight cannot be a shard; "" if it can."""

    @abstractmethod
    def why_not_change(self, new: Tensor) -> str:
        """Return why replicas cannot change to a mask; "" if they can."""
