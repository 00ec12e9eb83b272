"""Storages: ways to store a weight and its mask, interchangeable for all other code."""

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
    """Return a storage for a weight.

    If `storage` is "compressed", the weight is masked at first, because its mask does not exist
    yet. A layer that is already compressed stays compressed.

    Args:
        module: module that owns the weight.
        param_name: the Parameter's name in the module.
        storage: name of a storage.
        name: full name of the weight.
        shadows: the algorithm's shadows, by full name.
    """
    layer = as_compressed(module)
    if layer is not None:
        return CompressedStorage(layer, [])
    if storage == ShadowedStorage.name:
        return ShadowedStorage(module, param_name, name, shadows)
    return MaskedStorage(module, param_name)
