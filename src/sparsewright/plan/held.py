"""Determine the storage of each sparse weight, and why it differs from the requested storage."""

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
    """Return the storage of a weight.

    Args:
        algorithm: the algorithm that makes the weight sparse.
        owner: the module that owns the weight; may be on the meta device.
        param_name: the weight's name in its module.
        surroundings: the layers of the whole model.

    Returns:
        The storage class, and why a weight that should be compressed is masked ("" if it is not).
    """
    if as_compressed(owner) is not None:
        return CompressedStorage, ""
    if algorithm.storage != CompressedStorage.name:
        return next(cls for cls in ALL if cls.name == algorithm.storage), ""
    reason = why_not_compress(_on_cpu(owner), param_name)
    reason = reason or surroundings.why_not_replace(owner, param_name)
    return (MaskedStorage, reason) if reason else (CompressedStorage, "")


def _on_cpu(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer that has CPU parameters instead of meta parameters.

    All elements of each new parameter share one number, so the copy needs no memory.
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
