"""Callbacks for trainers of other libraries; import the one that you need."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.session.optimizers import unwrapped

__all__ = ["follow_only", "is_attached", "prune_weights"]


def is_attached(sparsity: SparsityAlgorithm, module: nn.Module) -> bool:
    """Return whether the algorithm has any sparse parameter in a module."""
    params = {id(param) for param in module.parameters()}
    return any(id(p.param) in params for p in sparsity.sparse_params.values())


def follow_only(sparsity: SparsityAlgorithm, optimizers: Sequence[Optimizer]) -> None:
    """Follow a trainer's optimizers, and stop following all earlier ones."""
    present = [unwrapped(optimizer) for optimizer in optimizers]
    before = [f.optimizer for f in sparsity.session.followed if f.optimizer is not None]
    for optimizer in present:
        if optimizer not in before:
            sparsity.apply(optimizer)
    for optimizer in before:
        if optimizer not in present:
            sparsity.remove(optimizer)


def prune_weights(sparsity: SparsityAlgorithm) -> None:
    """Prune all weights, because a trainer may have loaded averages or a checkpoint into them."""
    for parameter in sparsity.sparse_params.values():
        parameter.prune()
