"""In-place conversion of masked layers to compressed layers and back."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsewright.core.filters import FilterLike, make_param_filter
from sparsewright.core.inference import outside_inference_mode
from sparsewright.errors import AttachError, LevelError, OptionError, OptionTypeError, warn
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import as_compressed, kind_of, why_not_compress
from sparsewright.schedules.updates import check_int
from sparsewright.session.parameter import SparseParameter
from sparsewright.session.route import logger
from sparsewright.session.rule import Rule
from sparsewright.session.session import Session
from sparsewright.session.site import holder_of, vacate
from sparsewright.session.walk import named_modules
from sparsewright.storage import CompressedStorage, MaskedStorage, Storage
from sparsewright.storage.compressed import Place, put, undone_if_interrupted
from sparsewright.storage.states import replace_shaped
from sparsewright.torch_private import wrapped_name

WhyNot = Callable[[str, nn.Module, Tensor], str]
"""`(name, layer, mask) -> reason`: why the layer stays masked; "" if it is compressed."""


@dataclass(frozen=True)
class Conversion:
    """Result of `compress` for one sparse weight.

    Attributes:
        name: full name of the weight.
        is_compressed: whether the weight was compressed.
        reason: why the weight stays masked; "" if it was compressed.
    """

    name: str
    is_compressed: bool
    reason: str = ""

    def __str__(self) -> str:
        result = f"stays masked: {self.reason}" if self.reason else "is compressed"
        return f"{self.name} {result}"


@outside_inference_mode()
@torch.no_grad()
def compress(
    model: nn.Module,
    min_sparsity: float = 0.0,
    only: FilterLike | None = None,
    where: Literal["faster"] | None = None,
    tokens: int = 1024,
    verbose: bool = True,
) -> list[Conversion]:
    """Replace masked layers of a model with compressed layers, in place.

    Each weight's Parameter remains the same object with smaller data. Its gradient and optimizer
    state are converted too, so you can call `compress` before or after you create the optimizer.
    Layers that cannot be compressed stay masked.

    A model's state dict fits both storages. An optimizer's state dict has the shapes of the storage
    in which it was saved. To continue in the other storage, load both state dicts first, then
    compress or decompress.

    Args:
        model: any module. A weight is sparse if its module has a mask for it.
        min_sparsity: lowest level to compress, 0..1. Weights below it stay masked.
        only: the weights to convert: a glob, a list of globs or a function
            `(name, weight) -> bool`. Default: all.
        where: `"faster"` times the forward and backward pass of each layer, and converts the layer
            only if that is faster. Default: None, which converts without timing.
        tokens: number of rows of the activations for the timing.
        verbose: whether to print the result for each weight.

    Returns:
        One `Conversion` for each sparse weight.

    Raises:
        LevelError: `min_sparsity` is outside 0..1.
        OptionError: `where` is unknown, or `tokens` is below 1.
        OptionTypeError: `model` is not a Module, or another argument has the wrong type.
        AttachError: the model is wrapped in DistributedDataParallel, or is sharded.
    """
    _check_module("compress", model)
    if not isinstance(min_sparsity, Real):
        raise OptionTypeError("min_sparsity", min_sparsity, "a number between 0 and 1")
    if not 0 <= min_sparsity <= 1:
        raise LevelError("min_sparsity", min_sparsity)
    check_int("tokens", tokens, 1)
    if where not in (None, "faster"):
        raise OptionError("where", where, "'faster' or None")
    picks = make_param_filter(only, "only") if only is not None else None

    def why_not(name: str, layer: nn.Module, mask: Tensor) -> str:
        level = 1 - float(mask.sum()) / max(1, mask.numel())
        if picks is not None and not picks(name, layer.get_parameter("weight")):
            return "the argument `only` does not select it"
        if level < min_sparsity:
            return f"its level {level:.3f} is below {min_sparsity}"
        if where == "faster":
            speed = measure_speed(layer, mask, tokens)
            if speed < 1:
                return f"compressed, it would run at {speed:.2f} times the dense layer's speed"
        return ""

    conversions = _compress_where(model, why_not)
    if not conversions and not any(as_compressed(module) for module in model.modules()):
        warn(f"the {type(model).__name__} has no sparse weights; nothing was compressed")
    for conversion in conversions:
        (print if verbose else logger.info)(str(conversion))
    return conversions


def compress_own(model: nn.Module, session: Session, rules: Sequence[Rule]) -> None:
    """Compress the weights of algorithms with storage `compressed`, and log the results."""
    wanted = [rule for rule in rules if rule.storage == CompressedStorage.name]
    if wanted:

        def why_not(name: str, layer: nn.Module, mask: Tensor) -> str:
            held = holder_of(layer, "weight")
            return "" if held and held.rule in wanted else "it belongs to another algorithm"

        for conversion in _compress_where(model, why_not):
            logger.info(str(conversion))


@torch.no_grad()
def _compress_where(model: nn.Module, why_not: WhyNot) -> list[Conversion]:
    """Compress each sparse layer unless there is a reason against it.

    Raises:
        AttachError: the model is data parallel or sharded; nothing is changed.
    """
    _check_unspread(model)
    conversions = []
    surroundings = Surroundings(model)
    for path, module in list(named_modules(model)):
        for param_name, mask in _masks(module):
            name = f"{path}.{param_name}" if path else param_name
            reason = (
                why_not_compress(module, param_name)
                or surroundings.why_not_replace(module, param_name)
                or _why_not_held(module, param_name)
                or why_not(name, module, mask)
            )
            if not reason:
                _compress_layer(module, mask, surroundings.places[module])
            conversions.append(Conversion(name, not reason, reason))
    return conversions


class Surroundings:
    """The places of a model's layers, and the layers that share weights.

    Attributes:
        places: layer -> all places that hold it. The model itself is not included.
    """

    def __init__(self, model: nn.Module) -> None:
        self.places = _places(model)
        modules = model.modules()
        self._uses = Counter(
            id(p) for m in modules for p in m._parameters.values() if p is not None
        )

    def why_not_replace(self, module: nn.Module, param_name: str) -> str:
        """Return why a layer cannot be replaced by another one; "" if it can."""
        if self._uses[id(module.get_parameter(param_name))] > 1:
            return "its weight is tied to another layer's weight"
        if module not in self.places:
            return "the model is this layer itself; to replace it, put it in an nn.Sequential"
        return ""


def _check_module(function: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"the argument of {function}", model, "a Module")


def _check_unspread(model: nn.Module) -> None:
    if isinstance(model, DistributedDataParallel):
        raise AttachError(
            "a DistributedDataParallel model",
            "it cannot be compressed because its gradient buckets are already allocated; compress "
            "the model before you wrap it",
        )
    for name, param in model.named_parameters():
        if sharded.is_sharded(param):
            raise AttachError(
                name,
                "it is sharded, and compressed weights support only data parallelism or a single "
                "process",
            )


@outside_inference_mode()
@torch.no_grad()
def decompress(model: nn.Module) -> None:
    """Replace compressed layers of a model with masked dense layers, in place.

    This is the inverse of `compress`. The values become the dense weight in the same Parameter
    object. Masks, gradients and optimizer states are converted too.

    Raises:
        OptionTypeError: `model` is not a Module.
    """
    _check_module("decompress", model)
    places = _places(model)
    for module in list(model.modules()):
        if as_compressed(module) is not None:
            _decompress_layer(module, places.get(module, []))


def measure_speed(layer: nn.Module, mask: Tensor, tokens: int = 1024, rounds: int = 5) -> float:
    """Return how many times faster a compressed linear layer is than the dense layer.

    The timing covers the forward pass and the gradients of input and weight.

    Args:
        layer: the dense layer; it is not changed.
        mask: the mask; bool, shape `[out, in]`.
        tokens: number of rows of the activations.
        rounds: number of interleaved measurements; the result is the ratio of their medians.
    """
    rows, cols = mask.shape
    dense, other = (nn.Linear(cols, rows, bias=False) for _ in range(2))
    kind = kind_of(layer)
    assert kind is not None
    compressed = kind.compress(other, mask)
    x = torch.randn(tokens, cols, requires_grad=True)
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
    """Return (name, mask) for each masked weight that a module owns."""
    buffers = dict(module._buffers.items())  # not a dict in a TorchScript module
    pairs = ((name, buffers.get(name + MASK_SUFFIX)) for name, _ in module._parameters.items())
    return [(name, mask) for name, mask in pairs if mask is not None and mask.dtype == torch.bool]


def _why_not_held(module: nn.Module, param_name: str) -> str:
    """Return why a weight's storage or optimizers prevent compression; "" if they do not."""
    parameter = holder_of(module, param_name)
    if parameter is None:
        return ""
    if parameter.storage.name != MaskedStorage.name:
        return f"it is {parameter.storage.name}"
    followed = (f for f in parameter.rule.session.followed if parameter in f.parameters())
    reasons = (f.why_not_step(parameter, CompressedStorage) for f in followed)
    return next(filter(None, reasons), "")


def _places(model: nn.Module) -> dict[nn.Module, list[Place]]:
    """Return module -> every (parent, name) in `model` that holds it.

    Wrappers are skipped. A compiled module, for example, would keep calling the original module.
    """
    found: dict[nn.Module, list[Place]] = defaultdict(list)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None and name != wrapped_name(parent):
                found[child].append((parent, name))
    return dict(found)


def _compress_layer(module: nn.Module, mask: Tensor, places: Sequence[Place]) -> None:
    kind, weight = kind_of(module), module.get_parameter("weight")
    assert kind is not None
    shape = weight.shape
    with _replacing(module, "weight", places) as held:
        layer = kind.compress(module, mask)
        put(layer, places)
        _move(held, CompressedStorage(layer, list(places)), shape, layer.gather)


def _decompress_layer(module: nn.Module, places: Sequence[Place]) -> None:
    kind, layer = kind_of(module), as_compressed(module)
    assert kind is not None
    assert layer is not None
    mask, shape = layer.weight_mask, layer.values.shape
    with _replacing(module, "values", places) as held:
        dense = kind.decompress(layer)
        dense.register_buffer("weight" + MASK_SUFFIX, mask)
        put(dense, places)
        _move(held, MaskedStorage(dense, "weight"), shape, lambda t: layer.scatter(t.detach()))


@contextmanager
def _replacing(
    module: nn.Module, param_name: str, places: Sequence[Place]
) -> Iterator[SparseParameter | None]:
    """Pass a layer's sparse parameter to a block that replaces the layer.

    If the block raises, the layer and its state are restored.
    """
    held, param = holder_of(module, param_name), module.get_parameter(param_name)
    storage = None if held is None else held.storage

    def hold_again() -> None:
        if held is not None and storage is not None:
            held.storage = storage
            held.rule.session.refresh(held)

    states = [] if held is None else held.optimizer_states()
    with undone_if_interrupted(module, param, places, states, hold_again):
        vacate(module, param_name)
        yield held


def _move(
    parameter: SparseParameter | None,
    storage: Storage,
    shape: torch.Size,
    fn: Callable[[Tensor], Tensor],
) -> None:
    """Move a sparse parameter to a new storage; `fn` converts state tensors of the old shape."""
    if parameter is not None:
        replace_shaped(parameter.optimizer_states(), shape, fn)
        parameter.storage = storage
        parameter.rule.session.refresh(parameter)
