"""One thin file per trainer, imported only when asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.session.optimizers import unwrapped

__all__ = ["follow_only", "is_attached", "prune_weights"]


def is_attached(sparsity: SparsityAlgorithm, module: nn.Module) -> bool:
    """Whether any parameter of a module is one of the algorithm's sparse parameters."""
    params = {id(param) for param in module.parameters()}
    return any(id(p.param) in params for p in sparsity.sparse_params.values())


def follow_only(sparsity: SparsityAlgorithm, optimizers: Sequence[Optimizer]) -> None:
    """Follow a trainer's optimizers, and let those go that stepped the model before them."""
    present = [unwrapped(optimizer) for optimizer in optimizers]
    before = [f.optimizer for f in sparsity.session.followed if f.optimizer is not None]
    for optimizer in present:
        if optimizer not in before:
            sparsity.apply(optimizer)
    for optimizer in before:
        if optimizer not in present:
            sparsity.remove(optimizer)


def prune_weights(sparsity: SparsityAlgorithm) -> None:
    """Prune all weights: a trainer may have put averages or a checkpoint into the model."""
    for parameter in sparsity.sparse_params.values():
        parameter.prune()
