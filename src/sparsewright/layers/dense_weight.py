"""The dense weight of a compressed layer, for code that expects an ordinary weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.errors import AttachError
from sparsewright.torch_private import map_tensors, not_compiled, shares_memory, version

if TYPE_CHECKING:
    from sparsewright.layers.compressed_layer import CompressedLayer


class Origin:
    """The layer and the values from which a dense weight was made; writes go back there.

    Args:
        layer: the layer.
        target: the live values, or their gradient: `[nnz]`.
        dense: the same numbers in the shape of the weight.
    """

    def __init__(self, layer: CompressedLayer, target: Tensor, dense: Tensor) -> None:
        self.layer, self.target, self.dense = layer, target, dense
        self._index, self._seen = layer.index, target.detach().clone()

    def take(self, is_drawn: bool) -> None:
        """Update the live values after a write to `dense`, or to a view of it.

        Args:
            is_drawn: whether the weight was initialized; if so, its pruned entries are set to zero.

        Raises:
            AttachError: the values have changed since the weight was read, or they cannot store
                what was written.
        """
        seen, now = self._seen, self.target.detach()
        is_same = self._index is self.layer.index and seen.shape == now.shape
        if not is_same or not torch.allclose(seen, now, rtol=0, atol=0, equal_nan=True):
            raise self.error("the values changed after it was read; read `layer.weight` again")
        if is_drawn:
            kernels.prune_(self.dense, self.layer.weight_mask)
        self.write(self.dense)

    @torch.no_grad()
    def write(self, dense: Tensor) -> None:
        """Copy the live entries of a dense tensor to the values.

        Raises:
            AttachError: the tensor has another shape or dtype, or is nonzero where the mask is
                False.
        """
        shape, dtype = self.layer.weight_shape, self.target.dtype
        if dense.shape != shape or dense.dtype != dtype:
            given = f"{dense.dtype} of shape {tuple(dense.shape)}"
            raise self.error(f"expected {dtype} of shape {tuple(shape)}, got {given}")
        pruned = int(dense.masked_fill(self.layer.weight_mask, 0).count_nonzero())
        if pruned:
            raise self.error(
                f"{pruned} pruned connections would get a nonzero value, but only live "
                "connections are stored; multiply by `weight_mask` first, or call "
                "sparsewright.decompress(model)"
            )
        self.target.copy_(self.layer.gather(dense))
        self._seen = self.target.detach().clone()

    def error(self, problem: str) -> AttachError:
        """Return the error for a write with the given problem."""
        return AttachError(f"write to the weight of a {type(self.layer).__name__}", problem)


class DenseWeight(Tensor):
    """Show live values in the shape of their weight, with zeros elsewhere.

    The weight is computed from the values each time it is read, so gradients of anything that uses
    it flow to the values. An in-place write to it, to a view, to `data` or to `grad` reaches the
    values. A write that sets pruned connections raises, except that `torch.nn.init` initializes
    only the live ones. After the values change, a weight read earlier shows the old values; it can
    still be read, but not written to.
    """

    _plain: Tensor
    _origin: Origin

    @classmethod
    def show(cls, plain: Tensor, origin: Origin) -> DenseWeight:
        """Return the origin's tensor, or a view of it, as a tensor that forwards writes."""
        shown = plain.as_subclass(cls)
        shown._plain, shown._origin = plain, origin
        return shown

    def set_(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise, because torch does not report that `set_` has replaced a tensor's memory.

        Raises:
            AttachError: always.
        """
        raise self._origin.error("set_ would replace its memory; use copy_ instead")

    @classmethod
    @not_compiled
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        whole = args[0]._origin if args and isinstance(args[0], cls) else None
        if whole is not None and func in _OF_A_PARAMETER and args[0]._plain is whole.dense:
            return _OF_A_PARAMETER[func](whole, *args[1:], **(kwargs or {}))
        given: list[tuple[DenseWeight, int, bool]] = []

        def plain(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, DenseWeight):
                return tensor
            given.append((tensor, version(tensor._plain), tensor._plain.requires_grad))
            return tensor._plain

        def shown(tensor: Tensor) -> Tensor:
            for own, *_ in given:
                if tensor is own._plain:
                    return own
                if shares_memory(tensor, own._plain):
                    return cls.show(tensor, own._origin)
            return tensor

        plain_args, plain_kwargs = map_tensors(plain, (args, kwargs or {}))
        out = func(*plain_args, **plain_kwargs)
        # Functions of torch.nn.init write under no_grad, but are called outside of it.
        is_init = getattr(func, "__module__", "") == "torch.nn.init"
        for own, before, requires_grad in given:
            if version(own._plain) == before:
                continue
            if requires_grad and torch.is_grad_enabled() and not is_init:
                problem = "it requires a gradient; write to it inside torch.no_grad()"
                raise own._origin.error(problem)
            own._origin.take(is_init or func in _DRAWS)
        if isinstance(out, np.ndarray):
            out.flags.writeable = False
        return map_tensors(shown, out)


def dense_weight(layer: CompressedLayer, values: Tensor, dense: Tensor) -> DenseWeight:
    """Return values, or their gradient, in the shape of the weight.

    Args:
        layer: the layer.
        values: `[nnz]`.
        dense: the same numbers as a dense tensor, which was made inside `tracked`.
    """
    return DenseWeight.show(dense, Origin(layer, values, dense))


@contextmanager
def tracked() -> Iterator[None]:
    """Make tensors that are created inside the block count writes, even in inference mode."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield


def _set_data(origin: Origin, data: Tensor) -> None:
    origin.write(data.detach())


def _get_grad(origin: Origin) -> Tensor | None:
    grad = origin.target.grad
    if grad is None:
        return None
    with tracked():
        return dense_weight(origin.layer, grad, origin.layer.scatter(grad.detach()))


def _set_grad(origin: Origin, grad: Tensor | None) -> None:
    target = origin.target
    if grad is None:
        target.grad = None
    else:
        new = torch.empty_like(target)
        Origin(origin.layer, new, grad).write(grad)
        target.grad = new


def _set_requires_grad(origin: Origin, requires_grad: bool = True) -> None:
    origin.target.requires_grad_(requires_grad)


def _requires_grad_(origin: Origin, requires_grad: bool = True) -> Tensor:
    origin.target.requires_grad_(requires_grad)
    return origin.layer.weight


def _refuse_hook(origin: Origin, *args: object) -> None:
    what = f"hook on the weight of a {type(origin.layer).__name__}"
    raise AttachError(what, "the layer trains `values` instead; register the hook on `values`")


def _copy(origin: Origin, memo: object) -> Tensor:
    return origin.dense.detach().clone()


_DRAWS = {Tensor.uniform_, Tensor.normal_, Tensor.fill_}
_TENSOR: Any = Tensor  # as Any, because Tensor's attributes are annotated for instances
# Attributes that a Parameter has, and a tensor computed from a Parameter does not have.
_OF_A_PARAMETER: dict[Any, Callable[..., Any]] = {
    _TENSOR.data.__set__: _set_data,
    _TENSOR.grad.__get__: _get_grad,
    _TENSOR.grad.__set__: _set_grad,
    _TENSOR.grad.__delete__: lambda origin: _set_grad(origin, None),
    _TENSOR.requires_grad.__get__: lambda origin: origin.target.requires_grad,
    _TENSOR.requires_grad.__set__: _set_requires_grad,
    Tensor.requires_grad_: _requires_grad_,
    Tensor.register_hook: _refuse_hook,
    Tensor.__deepcopy__: _copy,
}
