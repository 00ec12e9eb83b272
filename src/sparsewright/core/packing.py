"""Packing of masks for checkpoints, at one bit per entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsewright.errors import OptionTypeError, ShapeError, StateError
from sparsewright.formats.mask_bits import pack_bits, unpack_bits, why_not_packed
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.wording import show


def pack_mask(mask: Tensor) -> Tensor:
    """Pack a bool mask into bits: entry i of the flattened mask is bit `i % 8` of byte `i // 8`.

    Args:
        mask: bool, any shape, any device.

    Returns:
        uint8 `[ceil(numel / 8)]` on the CPU; unused bits are 0.

    >>> pack_mask(torch.tensor([True, False, True]))
    tensor([5], dtype=torch.uint8)
    """
    return torch.from_numpy(pack_bits(mask.detach().cpu().numpy()))


def unpack_mask(bits: Tensor, shape: torch.Size) -> Tensor:
    """Unpack a bool mask that `pack_mask` packed.

    Raises:
        ShapeError: the number of bytes does not match the shape, or unused bits are set.
    """
    stored = bits.cpu().numpy()
    if problem := why_not_packed(stored, shape.numel()):
        raise ShapeError("a packed mask", bits.shape, problem)
    return torch.from_numpy(unpack_bits(stored, tuple(shape)))


def is_packed(tensor: Tensor, shape: torch.Size) -> bool:
    """Return whether a tensor has the dtype and size of a packed mask of that shape."""
    return tensor.dtype == torch.uint8 and tensor.shape == ((shape.numel() + 7) // 8,)


def pack_masks(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a state dict with packed masks, which take one eighth of the bytes.

    You can load the result into a sparsified model with `model.load_state_dict`.

    Args:
        state_dict: result of `model.state_dict()`; not modified.

    Returns:
        A new dict with the same keys. Each bool `<name>_mask` is packed by `pack_mask` if the
        dict also has a `<name>` of the same shape.
    """
    packed = _copy("pack_masks", state_dict)
    for key, shape in _masks(state_dict):
        if packed[key].dtype == torch.bool and packed[key].shape == shape:
            packed[key] = pack_mask(packed[key])
    return packed


def unpack_masks(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a state dict with every packed mask unpacked, on the CPU.

    Raises:
        ShapeError: a packed mask has bits set beyond the entries of its weight.
    """
    unpacked = _copy("unpack_masks", state_dict)
    for key, shape in _masks(state_dict):
        if is_packed(unpacked[key], shape):
            unpacked[key] = unpack_mask(unpacked[key], shape)
    return unpacked


def read_mask(saved: Tensor, shape: torch.Size) -> Tensor:
    """Return the bool mask stored in a checkpoint in any supported form.

    Args:
        saved: bool mask, packed bits, or a tensor of any dtype that has only 0 and 1.
        shape: shape of the weight.

    Raises:
        ShapeError: `saved` is not a mask of that shape.
        StateError: `saved` is not a tensor.
    """
    if not isinstance(saved, Tensor):
        raise StateError("a mask", f"expected a tensor, got {show(saved)}")
    if is_packed(saved, shape):
        return unpack_mask(saved, shape)
    if saved.shape != shape:
        raise ShapeError("a mask", saved.shape, f"expected the weight's shape {tuple(shape)}")
    mask = saved != 0
    if not bool((saved == mask).all()):
        raise ShapeError("a mask", saved.shape, f"it has {saved.dtype} values other than 0 and 1")
    return mask


def _copy(function: str, state_dict: object) -> dict[str, Any]:
    """Return a shallow copy of a function's argument, which must be a state dict."""
    if not isinstance(state_dict, Mapping):
        what = f"the argument of {function}"
        raise OptionTypeError(what, state_dict, "a state dict, such as model.state_dict()")
    return dict(state_dict)


def _masks(state_dict: Mapping[str, Any]) -> list[tuple[str, torch.Size]]:
    """Return the key of each mask that has its weight in the dict, and the weight's shape."""
    pairs = (
        (key, key.removesuffix(MASK_SUFFIX)) for key in state_dict if key.endswith(MASK_SUFFIX)
    )
    return [(key, state_dict[weight].shape) for key, weight in pairs if weight in state_dict]
