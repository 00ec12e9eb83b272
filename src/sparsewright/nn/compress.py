"""Masked linear layers to compressed ones and back, in place, with their optimizer state."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsewright.core.errors import AttachError, LevelError, OptionError
from sparsewright.core.filters import make_param_filter
from sparsewright.core.packing import MASK_SUFFIX
from sparsewright.kernels import csr, sharded
from sparsewright.nn.linear import SparseLinear, check_compressible
from sparsewright.runtime.attach import Attachment, Owner, logger
from sparsewright.runtime.loading import attached_to
from sparsewright.runtime.parameter import SparseParameter, against_compressed
from sparsewright.runtime.storage import (
    CompressedStorage,
    MaskedStorage,
    Storage,
    put,
    replace_shaped,
)
from sparsewright.runtime.walk import named_modules, wrapped_name


@dataclass(frozen=True)
class Conversion:
    """What became of one sparse weight.

    Attributes:
        name: full name of the weight.
        is_compressed: whether it is stored compressed now.
        reason: why not; "" if it is.
    """

    name: str
    is_compressed: bool
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {'compressed' if self.is_compressed else 'masked: ' + self.reason}"


@torch.no_grad()
def compress(
    model: nn.Module,
    min_sparsity: float = 0.0,
    only: Any = None,
    where: str | None = None,
    tokens: int = 1024,
    verbose: bool = True,
) -> list[Conversion]:
    """Store the sparsified `nn.Linear` layers below a module compressed, in place.

    The weight's Parameter stays the same object with smaller data, and gradient and optimizer
    state follow, so it does not matter whether the optimizer exists yet. Layers that cannot be
    compressed stay masked.

    A model's state dict fits either storage; an optimizer's has the shapes of the storage it was
    saved in. To go on in the other one, load both first, then compress or decompress.

    Args:
        model: any module; its sparse weights are those with a mask.
        min_sparsity: leave weights below this level masked, 0..1.
        only: a glob, a list of globs or a function `(name, weight) -> bool`; None: all.
        where: None, or `"faster"`: time each layer, forward and backward, and convert only where
            that is faster.
        tokens: rows of activations to time with.
        verbose: print what was converted and what was not, and why.

    Returns:
        One `Conversion` for each sparse weight.

    Raises:
        LevelError: `min_sparsity` outside 0..1.
        OptionError: unknown `where`.
    """
    if not 0 <= min_sparsity <= 1:
        raise LevelError("min_sparsity", min_sparsity)
    if where not in (None, "faster"):
        raise OptionError("where", where, ["faster"])
    picks = make_param_filter(only) if only is not None else None

    def against(name: str, linear: nn.Linear, mask: Tensor) -> str:
        level = 1 - float(mask.sum()) / max(1, mask.numel())
        if picks is not None and not picks(name, linear.weight):
            return "not among those to convert"
        if level < min_sparsity:
            return f"its sparsity {level:.3f} is below {min_sparsity}"
        if where == "faster":
            speed = measure_speed(linear, mask, tokens)
            if speed < 1:
                return f"it would run at {speed:.2f} of the dense layer's speed"
        return ""

    conversions = compress_where(model, against)
    for conversion in conversions:
        (print if verbose else logger.info)(str(conversion))
    return conversions


def compress_attached(model: nn.Module, owner: Owner) -> list[Conversion]:
    """Compress the layers whose weights belong to one algorithm; what stays masked is logged."""

    def against(name: str, linear: nn.Linear, mask: Tensor) -> str:
        attached = attached_to(linear, "weight")
        is_own = attached is not None and attached[1].owner is owner
        return "" if is_own else "another algorithm has it"

    conversions = compress_where(model, against)
    for conversion in conversions:
        logger.info(str(conversion))
    return conversions


@torch.no_grad()
def compress_where(
    model: nn.Module, against: Callable[[str, nn.Linear, Tensor], str]
) -> list[Conversion]:
    """Compress each sparse linear layer to which `against(name, layer, mask)` has no objection.

    Raises:
        AttachError: the model is data parallel already, or sharded; nothing is changed then.
    """
    if isinstance(model, DistributedDataParallel):
        raise AttachError(
            "a DistributedDataParallel model", "its buffers are laid out; compress before wrapping"
        )
    for name, param in model.named_parameters():
        if sharded.is_sharded(param):
            raise AttachError(
                name, "it is sharded; compressed weights train alone or with data parallelism"
            )
    conversions, changed = [], []
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    for path, module in list(named_modules(model)):
        for param_name, mask in _masks(module):
            name = f"{path}.{param_name}" if path else param_name
            reason = check_compressible(module)
            sites = _sites(model, module)
            if not reason and uses[id(module._parameters[param_name])] > 1:
                reason = "its weight is tied to another layer's"
            if not reason and not sites:
                reason = "the layer is the model itself; nothing holds it that could hold another"
            reason = reason or _against_optimizers(attached_to(module, param_name))
            if not reason and isinstance(module, nn.Linear):
                reason = against(name, module, mask)
                if not reason:
                    changed.append(_compress_layer(module, mask, sites))
            conversions.append(Conversion(name, not reason, reason))
    _refresh(changed)
    return conversions


@torch.no_grad()
def decompress(model: nn.Module) -> None:
    """Put a masked `nn.Linear` in the place of every compressed layer below a module.

    Values become the dense weight (the same Parameter object); masks, gradient and optimizer
    state follow. The inverse of `compress`.
    """
    changed = []
    for module in list(model.modules()):
        if isinstance(module, SparseLinear):
            changed.append(_decompress_layer(module, _sites(model, module)))
    _refresh(changed)


def measure_speed(linear: nn.Linear, mask: Tensor, tokens: int = 1024, rounds: int = 5) -> float:
    """How many times faster a layer is compressed than dense: forward and both gradients.

    Args:
        linear: the dense layer; not changed.
        mask: bool `[out, in]`.
        tokens: rows of activations.
        rounds: interleaved measurements; the medians count.
    """
    dense = nn.Linear(linear.in_features, linear.out_features, bias=False)
    layer = nn.Linear(linear.in_features, linear.out_features, bias=False)
    compressed = SparseLinear.from_linear(layer, mask)
    x = torch.randn(tokens, linear.in_features, requires_grad=True)
    times: dict[nn.Module, list[float]] = {dense: [], compressed: []}
    with torch.enable_grad():
        for index in range(rounds + 1):
            for candidate, measured in times.items():
                begin = time.perf_counter()
                candidate(x).sum().backward()
                if index:
                    measured.append(time.perf_counter() - begin)
    return statistics.median(times[dense]) / statistics.median(times[compressed])


def _masks(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Name and mask of each masked weight that a module owns."""
    pairs = ((name, module._buffers.get(name + MASK_SUFFIX)) for name in module._parameters)
    return [(name, mask) for name, mask in pairs if mask is not None and mask.dtype == torch.bool]


Changed = tuple[SparseParameter, Attachment] | None


def _against_optimizers(attached: Changed) -> str:
    """Why the optimizers that step a weight could not step it compressed; "" if they can."""
    if attached is None:
        return ""
    parameter, attachment = attached
    stepped_by = (o for o in attachment.optimizers if parameter in attachment.of(o))
    return next(filter(None, map(against_compressed, stepped_by)), "")


def _sites(model: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """(parent, name) of each place below `model` that holds a module.

    A wrapper is none: a compiled module, for one, goes on calling what it was made of.
    """
    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is module and name != wrapped_name(parent)
    ]


def _compress_layer(
    linear: nn.Linear, mask: Tensor, sites: Sequence[tuple[nn.Module, str]]
) -> Changed:
    attached, shape = attached_to(linear, "weight"), linear.weight.shape
    layer = SparseLinear.from_linear(linear, mask)
    put(layer, sites)
    storage = CompressedStorage(layer, list(sites))
    _move(attached, storage, shape, lambda t: csr.gather_dense(t, layer.layout))
    return attached


def _decompress_layer(layer: SparseLinear, sites: Sequence[tuple[nn.Module, str]]) -> Changed:
    attached, shape = attached_to(layer, "values"), layer.values.shape
    mask, linear = layer.weight_mask, layer.to_linear()
    linear.register_buffer("weight" + MASK_SUFFIX, mask)
    put(linear, sites)
    storage = MaskedStorage(linear, "weight")
    _move(attached, storage, shape, lambda t: csr.scatter_dense(t, layer.layout))
    return attached


def _move(
    attached: Changed, storage: Storage, shape: torch.Size, fn: Callable[[Tensor], Tensor]
) -> None:
    """Give a sparse parameter its new storage; `fn` converts state shaped like its old weight."""
    if attached is None:
        return
    parameter, attachment = attached
    replace_shaped(parameter.states(), shape, fn)
    parameter.storage = storage
    attachment.follow_loading(parameter)


def _refresh(changed: Iterable[Changed]) -> None:
    """Let the algorithms of changed parameters collect what they need from the new layers."""
    for owner in {id(a.owner): a.owner for _, a in filter(None, changed)}.values():
        owner.after_state_change()
