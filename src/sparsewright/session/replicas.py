"""Replicas: ranks that train copies of one model on data of their own."""

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
        """Stands for the class that torch lacks where it is built without `distributed`."""


AUTO: Final = "auto"
_OWN = re.compile(r"0x[0-9a-fA-F]+|(?<=cuda:)\d+")
"""What in the text of an algorithm belongs to one rank: addresses, the number of a device."""

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
    """Raise if the ranks are not about to train the same sparse model; sends 8 bytes a parameter.

    Args:
        parameters: all sparse parameters of this rank, perhaps none.
        steps: completed by each optimizer.
        group: the ranks.
        device: where to put what is sent.

    Raises:
        AttachError: names what differs.
    """
    advice = "if these ranks do not train the same model, set process_group to those that do"
    _check_plans(parameters, steps, group, device, advice)
    # A sharded mask differs by nature; it is made from the whole weight.
    digests = [0 if sharded.is_sharded(p.param) else _mask_digest(p.mask) for p in parameters]
    if not all(_compare(digests, group, device)):
        raise AttachError(
            "masks differ between ranks",
            "they were made from weights that differed: seed the ranks alike, or apply after "
            f"wrapping the model in DistributedDataParallel; {advice}",
        )


def check_shards(parameters: Iterable[SparseParameter], steps: Sequence[int]) -> None:
    """Raise if the ranks that share sharded weights are not about to make their masks alike.

    All of them take part in that; if they did not agree, one would wait for another forever.

    Raises:
        AttachError: names what differs.
    """
    shared: dict[ProcessGroup, list[SparseParameter]] = {}
    for parameter in parameters:
        group = sharded.group_of(parameter.param)
        if group is not None:
            shared.setdefault(group, []).append(parameter)
    for group, own in shared.items():
        _check_plans(own, steps, group, own[0].param.device, "they share its weights")


def _check_plans(
    parameters: Sequence[SparseParameter],
    steps: Sequence[int],
    group: ProcessGroup,
    device: torch.device,
    advice: str,
) -> None:
    """Raise if ranks differ in what is sparse, or by which algorithms."""
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
            f"names, shapes, storages, steps {list(steps)} and seeds {seeds} must be equal on all; "
            f"{advice}",
        )
    if not same_algorithms:
        raise AttachError(
            "the algorithms differ between ranks",
            f"this one has {', '.join(map(repr, rules))}; {advice}",
        )


def _compare(digests: list[int], group: ProcessGroup, device: torch.device) -> list[bool]:
    """Whether each digest is equal on all ranks, which have equally many."""
    own = torch.tensor(digests, dtype=torch.int64, device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    return [bool((column == column[0]).all()) for column in torch.stack(every).unbind(1)]


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def _mask_digest(mask: Tensor) -> int:
    return _digest(mask.detach().cpu().contiguous().numpy().tobytes())


class HiddenMasks:
    """Masks that are kept out of the buffers that data parallelism sends at every forward.

    They are equal on all ranks by construction, and a byte a weight.
    """

    def __init__(self) -> None:
        self._names: list[tuple[weakref.ref[nn.Module], list[str]]] = []

    def hide(self, module: nn.Module, masks: Iterable[Tensor]) -> None:
        """Hide masks in a module, which may be wrapped later."""
        ids = {id(mask) for mask in masks}
        names = [name for name, buffer in module.named_buffers() if id(buffer) in ids]
        torch_private.hide_from_ddp(module, names)
        self._names.append((weakref.ref(module), names))

    def reshard(self) -> None:
        """Let modules that FSDP2 holds gathered be shards again."""
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
