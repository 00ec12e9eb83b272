"""Replicas: ranks that train copies of one model on data of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsewright import torch_private
from sparsewright.errors import AttachError, OptionTypeError
from sparsewright.kernels import sharded
from sparsewright.session.parameter import SparseParameter

if TYPE_CHECKING or dist.is_available():
    from torch.distributed import ProcessGroup
else:

    class ProcessGroup:
        """Stands for the class that torch lacks where it is built without `distributed`."""


AUTO: Final = "auto"

ReplicaGroup = ProcessGroup | Literal["auto"] | None
"""The ranks that train replicas: a `torch.distributed.ProcessGroup`, `"auto"` or None."""


def check_process_group(group: ReplicaGroup) -> ReplicaGroup:
    """Return the setting, if it is valid.

    Raises:
        OptionTypeError: neither `"auto"`, None nor a process group.
    """
    if not (group is None or group == AUTO or isinstance(group, ProcessGroup)):
        raise OptionTypeError("process_group", group, f"{AUTO!r}, None or a ProcessGroup")
    return group


def find_group(setting: ReplicaGroup) -> ProcessGroup | None:
    """Return the ranks that a setting means; None: this process trains alone.

    Args:
        setting: a process group; None: nobody; `"auto"`: every rank, once `torch.distributed` is
            initialized.
    """
    if setting is None or not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if setting == AUTO else setting
    return group if dist.get_world_size(group) > 1 else None


def group_of(module: nn.Module, setting: ReplicaGroup) -> ReplicaGroup:
    """Return the setting after applying to a module: a data parallel one brings its ranks."""
    if setting == AUTO and isinstance(module, DistributedDataParallel):
        return module.process_group
    return setting


def check_agreement(
    parameters: Iterable[SparseParameter],
    steps: Sequence[int],
    seeds: Sequence[int],
    group: ProcessGroup,
) -> None:
    """Raise if the ranks are not about to train the same sparse model; sends 8 bytes a parameter.

    Raises:
        AttachError: names what differs.
    """
    sparse = list(parameters)
    if not sparse:
        return
    device = sharded.local(sparse[0].param).device
    layout = [(p.name, tuple(p.shape), sharded.is_sharded(p.param)) for p in sparse]
    advice = "if these ranks do not train the same model, set process_group to those that do"
    if not _is_equal([_digest(repr((layout, list(steps), list(seeds))).encode())], group, device):
        raise AttachError(
            "the sparse model differs between ranks",
            f"names, shapes, steps {list(steps)} and seeds {list(seeds)} must be equal on all; "
            f"{advice}",
        )
    # A sharded mask differs by nature; it is made from the whole weight.
    digests = [0 if sharded.is_sharded(p.param) else _mask_digest(p.mask) for p in sparse]
    if not _is_equal(digests, group, device):
        raise AttachError(
            "masks differ between ranks",
            "they were made from weights that differed: seed the ranks alike, or apply after "
            f"wrapping the model in DistributedDataParallel; {advice}",
        )


def _is_equal(digests: list[int], group: ProcessGroup, device: torch.device) -> bool:
    own = torch.tensor(digests, dtype=torch.int64, device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return all(torch.equal(own, other) for other in every)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def _mask_digest(mask: Tensor) -> int:
    return _digest(mask.detach().cpu().contiguous().numpy().tobytes())


def hide_from_ddp(module: nn.Module, masks: Iterable[Tensor]) -> list[str]:
    """Keep masks out of the buffers that data parallelism sends at every forward.

    They are equal on all ranks by construction, and a byte a weight. Works if the module is
    wrapped later.

    Returns:
        The names hidden.
    """
    ids = {id(mask) for mask in masks}
    names = [name for name, buffer in module.named_buffers() if id(buffer) in ids]
    if names:
        torch_private.hide_from_ddp(module, names)
    return names
