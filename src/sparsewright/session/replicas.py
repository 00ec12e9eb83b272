"""Data-parallel replicas: ranks that train copies of one model on different data."""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsewright import torch_private
from sparsewright.errors import AttachError, OptionTypeError
from sparsewright.kernels import sharded
from sparsewright.session.parameter import SparseParameter
from sparsewright.torch_private import wrapped_name

if TYPE_CHECKING or dist.is_available():
    from torch.distributed import ProcessGroup
else:

    class ProcessGroup:
        """Placeholder for PyTorch builds without `torch.distributed`."""


AUTO: Final = "auto"
_OWN = re.compile(r"0x[0-9a-fA-F]+|(?<=cuda:)\d+")
"""Parts of an algorithm's repr that may differ between ranks: addresses and device indices."""

ReplicaGroup = ProcessGroup | Literal["auto"] | None
"""The setting `process_group`: a `torch.distributed.ProcessGroup`, `"auto"` or None."""


def check_process_group(group: ReplicaGroup) -> ReplicaGroup:
    """Return the setting if it is valid.

    Raises:
        OptionTypeError: the setting is not `"auto"`, None or a process group.
    """
    if not (group is None or group == AUTO or isinstance(group, ProcessGroup)):
        raise OptionTypeError("process_group", group, f"{AUTO!r}, None or a ProcessGroup")
    return group


def find_group(setting: ReplicaGroup) -> ProcessGroup | None:
    """Return the process group that a setting selects, or None if this process trains alone.

    Args:
        setting: a process group; None for no group; or `"auto"` for all ranks, if
            `torch.distributed` is initialized.
    """
    if setting is None or not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if setting == AUTO else setting
    return group if dist.get_world_size(group) > 1 else None


def group_of(module: nn.Module, setting: ReplicaGroup) -> ReplicaGroup:
    """Return the setting after `apply(module)`: `"auto"` becomes the process group of DDP."""
    if setting == AUTO:
        inner: Any = module
        while not isinstance(inner, DistributedDataParallel):
            name = wrapped_name(inner)
            if name is None:
                return setting
            inner = getattr(inner, name)
        found: ProcessGroup = inner.process_group
        return found
    return setting


def check_agreement(
    parameters: Sequence[SparseParameter],
    steps: Sequence[int],
    group: ProcessGroup,
    device: torch.device,
) -> None:
    """Raise AttachError if the ranks do not train the same sparse model.

    The ranks exchange 8 bytes per parameter.

    Args:
        parameters: all sparse parameters of this rank; may be empty.
        steps: steps completed by each optimizer.
        group: the ranks to compare.
        device: device for the exchanged tensors.

    Raises:
        AttachError: the sparse parameters, algorithms or masks differ between ranks.
    """
    advice = (
        "if these ranks train different models, set process_group to the ranks that train the "
        "same model"
    )
    _check_plans(parameters, steps, group, device, advice)
    # Shards of a mask always differ. They are computed from the whole weight, so skip them.
    digests = [0 if sharded.is_sharded(p.param) else _mask_digest(p.mask) for p in parameters]
    if not all(_compare(digests, group, device)):
        raise AttachError(
            "masks differ between ranks",
            "they were computed from different weights; use the same seed on all ranks, or call "
            f"apply() after wrapping the model in DistributedDataParallel; {advice}",
        )


def check_shards(parameters: Iterable[SparseParameter], steps: Sequence[int]) -> None:
    """Raise AttachError if the ranks of sharded weights would compute their masks differently.

    The ranks compute these masks together, so ranks that disagree would wait for each other
    forever.

    Raises:
        AttachError: the sparse parameters or algorithms differ between ranks.
    """
    shared: dict[ProcessGroup, list[SparseParameter]] = {}
    for parameter in parameters:
        group = sharded.group_of(parameter.param)
        if group is not None:
            shared.setdefault(group, []).append(parameter)
    for group, own in shared.items():
        advice = "the weights are sharded over these ranks"
        _check_plans(own, steps, group, own[0].param.device, advice)


def _check_plans(
    parameters: Sequence[SparseParameter],
    steps: Sequence[int],
    group: ProcessGroup,
    device: torch.device,
    advice: str,
) -> None:
    """Raise AttachError if sparse parameters or algorithms differ between ranks."""
    layout = [
        (p.name, tuple(p.shape), p.storage.name, sharded.is_sharded(p.param)) for p in parameters
    ]
    rules = list(dict.fromkeys(parameter.rule for parameter in parameters))
    seeds = [rule.seed for rule in rules]
    facts = [repr((layout, list(steps), seeds)), _OWN.sub("", repr(rules))]
    same_model, same_algorithms = _compare([_digest(f.encode()) for f in facts], group, device)
    if not same_model:
        raise AttachError(
            "the sparse model differs between ranks",
            f"names, shapes, storages, steps (here {list(steps)}) and seeds (here {seeds}) must be "
            f"equal on all ranks; {advice}",
        )
    if not same_algorithms:
        raise AttachError(
            "the algorithms differ between ranks",
            f"this rank has {', '.join(map(repr, rules))}; {advice}",
        )


def _compare(digests: list[int], group: ProcessGroup, device: torch.device) -> list[bool]:
    """Return, for each digest, whether it is equal on all ranks."""
    own = torch.tensor(digests, dtype=torch.int64, device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return [bool((column == column[0]).all()) for column in torch.stack(every).unbind(1)]


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def _mask_digest(mask: Tensor) -> int:
    return _digest(mask.detach().cpu().contiguous().numpy().tobytes())


class HiddenMasks:
    """Hide masks from DDP, which broadcasts all other buffers in every forward pass.

    Masks are equal on all ranks by construction, so the broadcast would waste a byte per weight.
    """

    def __init__(self) -> None:
        self._names: list[tuple[weakref.ref[nn.Module], list[str]]] = []

    def hide(self, module: nn.Module, masks: Iterable[Tensor]) -> None:
        """Hide the masks in a module that is, or may later be, wrapped in DDP."""
        ids = {id(mask) for mask in masks}
        names = [name for name, buffer in module.named_buffers() if id(buffer) in ids]
        torch_private.hide_from_ddp(module, names)
        self._names.append((weakref.ref(module), names))

    def reshard(self) -> None:
        """Reshard modules whose parameters FSDP2 still holds gathered."""
        for module, _ in self._alive():
            sharded.reshard(module)

    def show(self) -> None:
        """Undo `hide`."""
        for module, names in self._alive():
            torch_private.show_to_ddp(module, names)
        self._names = []

    def _alive(self) -> Iterator[tuple[nn.Module, list[str]]]:
        every = ((module(), names) for module, names in self._names)
        return ((module, names) for module, names in every if module is not None)
