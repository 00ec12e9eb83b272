"""Observation of the inputs of layers while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsewright.calibration.target import Target
from sparsewright.torch_private import memory_id, watching_products

Padding = Callable[[], Tensor | None]
"""A function that returns the mask of the running batch, 0 for padding; None: no padding."""


@contextmanager
def watching(targets: Sequence[Target], padding: Padding) -> Iterator[None]:
    """Add the inputs of layers to their statistics while the model runs inside the block.

    The argument of a layer's forward pass is its input. If the weight is multiplied elsewhere, as
    in `nn.MultiheadAttention` and fused experts, the other factor of that product is its input;
    padding is then not left out.

    Args:
        targets: the layers.
        padding: returns the mask of the running batch.
    """
    by_memory: dict[int, list[Target]] = {}
    for target in targets:
        by_memory.setdefault(memory_id(target.param), []).append(target)
    running: list[int] = []

    def see_product(weight: Tensor, x: Tensor, ends: Tensor | None) -> None:
        for target in by_memory.get(memory_id(weight), ()):
            start = target.param.storage_offset()
            is_own = start <= weight.storage_offset() < start + target.param.numel()
            if is_own and id(target) not in running:
                target.see_product(weight, x, ends)

    with ExitStack() as stack:
        for target in targets:
            for layer in target.layers if target.shapes.has_argument else ():
                for handle in _hook(layer, target, padding, running):
                    stack.callback(handle.remove)
        stack.enter_context(watching_products(see_product))
        yield


def _hook(
    layer: nn.Module, target: Target, padding: Padding, running: list[int]
) -> list[RemovableHandle]:
    """Add hooks that see a layer's argument, and return their handles."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(id(target))
        x = next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
        target.see_argument(x, padding())

    def after(module: nn.Module, args: object, output: object) -> None:
        running.remove(id(target))

    return [
        layer.register_forward_pre_hook(before, with_kwargs=True),
        layer.register_forward_hook(after),
    ]
