"""One thin file per trainer, imported only when asked for."""

from __future__ import annotations

from torch import nn

from sparsewright.base import SparsityAlgorithm

__all__ = ["is_attached"]


def is_attached(sparsity: SparsityAlgorithm, module: nn.Module) -> bool:
    """Whether any parameter of a module is one of the algorithm's sparse parameters."""
    params = {id(param) for param in module.parameters()}
    return any(id(p.param) in params for p in sparsity.sparse_params.values())
