"""Storages: how a weight and its mask are held between steps; nothing else knows which it is."""

from __future__ import annotations

from torch import Tensor, nn

from sparsewright.layers import as_compressed
from sparsewright.storage.compressed import CompressedStorage
from sparsewright.storage.masked import MaskedStorage
from sparsewright.storage.shadowed import ShadowedStorage
from sparsewright.storage.storage import Storage

__all__ = ["ALL", "CompressedStorage", "MaskedStorage", "ShadowedStorage", "Storage", "hold"]

ALL: tuple[type[Storage], ...] = (MaskedStorage, CompressedStorage, ShadowedStorage)


def hold(
    module: nn.Module, param_name: str, storage: str, name: str, shadows: dict[str, Tensor]
) -> Storage:
    """Return what holds a weight from now on.

    A weight that is to be compressed is masked first, since its mask has still to be made.

    Args:
        module: the module that owns the weight.
        param_name: name of the Parameter in it.
        storage: the name of a storage.
        name: full name of the weight.
        shadows: the algorithm's shadows, by full name.
    """
    layer = as_compressed(module)
    if layer is not None:
        return CompressedStorage(layer, [])
    if storage == ShadowedStorage.name:
        return ShadowedStorage(module, param_name, name, shadows)
    return MaskedStorage(module, param_name)
