"""How a sparse weight will be held: its storage, and why that is not the one asked for."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sparsewright.base import SparsityAlgorithm
from sparsewright.layers import as_compressed, kind_of, why_not_compress
from sparsewright.session.convert import Surroundings
from sparsewright.storage import ALL, CompressedStorage, MaskedStorage, Storage


def storage_of(
    algorithm: SparsityAlgorithm, owner: nn.Module, param_name: str, surroundings: Surroundings
) -> tuple[type[Storage], str]:
    """Return how a weight will be held.

    Args:
        algorithm: the algorithm that it goes to.
        owner: the module that owns it; may be on the meta device.
        param_name: its name there.
        surroundings: the layers of the whole model.

    Returns:
        The storage; and why it is masked, if it was to be compressed.
    """
    if as_compressed(owner) is not None:
        return CompressedStorage, ""
    if algorithm.storage != CompressedStorage.name:
        return next(cls for cls in ALL if cls.name == algorithm.storage), ""
    reason = why_not_compress(_on_cpu(owner), param_name)
    reason = reason or surroundings.why_not_replace(owner, param_name)
    return (MaskedStorage, reason) if reason else (CompressedStorage, "")


def _on_cpu(layer: nn.Module) -> nn.Module:
    """A layer with parameters on the CPU, where it will be, for those on the meta device.

    They share one number each, and so take no memory.
    """
    if kind_of(layer) is None:
        return layer
    shown = copy.copy(layer)
    shown._parameters = {
        name: nn.Parameter(torch.zeros((), dtype=p.dtype, device="cpu").expand(p.shape))
        if type(p) is nn.Parameter and p.is_meta
        else p
        for name, p in layer._parameters.items()
    }
    return shown
