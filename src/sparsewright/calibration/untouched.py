"""A context manager that runs a model without leaving a trace in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.errors import AttachError
from sparsewright.kernels import sharded
from sparsewright.layers import as_compressed
from sparsewright.session.choice import check_kind
from sparsewright.torch_private import without_compilation, wrapped_name


@contextmanager
def untouched(
    model: nn.Module, clone: Callable[[Tensor], Tensor] = Tensor.clone
) -> Iterator[nn.Module]:
    """Run a model in eval mode on copies of its tensors, and restore it after the block.

    Inside the block, modules hold copies of their parameters and buffers, so gradients, in-place
    writes and hooks never reach the model's own tensors. Autograd is on, and compiled modules run
    without compilation. After the block, modules have the attributes and hooks that they had
    before, and PyTorch's random generators have their former states.

    Args:
        model: the model. PyTorch's wrappers around it, such as DDP, are left out.
        clone: returns the copy of a detached floating-point or complex tensor. It may change the
            dtype and the values. Tied weights get one copy.

    Yields:
        The model without PyTorch's wrappers.

    Raises:
        AttachError: a module is a TorchScript module, or a parameter is sharded.
    """
    inner = unwrapped(model)
    for name, module in inner.named_modules():
        check_kind(name or type(module).__name__, module)
    _check_whole(inner)
    modules = list(inner.modules())
    before = [dict(vars(module)) for module in modules]
    try:
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.random.fork_rng(devices=_generators()))
                stack.enter_context(torch.inference_mode(False))  # turns autograd on too
                stack.enter_context(without_compilation())
                if any(isinstance(module, nn.RNNBase) for module in modules):
                    stack.enter_context(_without_cudnn())
                _replace(modules, clone)
                yield inner
        finally:
            _restore(modules, before)
    finally:  # Ctrl-C may have interrupted the first call
        _restore(modules, before)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside PyTorch's wrappers, such as DDP or a compiled module."""
    inner: Any = model
    while (name := wrapped_name(inner)) is not None:
        inner = getattr(inner, name)
    module: nn.Module = inner
    return module


def _check_whole(model: nn.Module) -> None:
    """Raise AttachError if a parameter is sharded."""
    for name, param in model.named_parameters():
        if sharded.is_sharded(param):
            raise AttachError(
                name,
                "it is sharded; compute scores before you shard the model, and pass them to "
                "init.from_scores, which shards them like the weights",
            )


def _generators() -> Sequence[int]:
    """Return the indices of the CUDA devices that have a generator."""
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()


def _replace(modules: Sequence[nn.Module], clone: Callable[[Tensor], Tensor]) -> None:
    """Put copies of all parameters and buffers into modules, and set eval mode."""
    copies: dict[int, Tensor] = {}

    def cloned(tensor: Tensor | None) -> Tensor | None:
        if tensor is not None and id(tensor) not in copies:
            copies[id(tensor)] = _cloned(tensor, clone)
        return None if tensor is None else copies[id(tensor)]

    for module in modules:
        own = vars(module)
        for registry in ("_parameters", "_buffers"):
            tensors = {name: cloned(tensor) for name, tensor in own[registry].items()}
            own[registry] = type(own[registry])(tensors)
        hooks = {name: value for name, value in own.items() if name.endswith("_hooks")}
        own.update({name: copy.copy(value) for name, value in hooks.items()})
        own["training"] = False
        if as_compressed(module) is not None:
            own["tap"] = None  # else an algorithm would see these gradients at its next update


def _cloned(tensor: Tensor, clone: Callable[[Tensor], Tensor]) -> Tensor:
    is_continuous = tensor.is_floating_point() or tensor.is_complex()
    if not isinstance(tensor, nn.Parameter):
        return clone(tensor.detach()) if is_continuous else tensor.clone()
    if not is_continuous:  # a quantized weight, whose class holds more than its numbers
        return tensor
    return nn.Parameter(clone(tensor.detach()), requires_grad=tensor.requires_grad)


def _restore(modules: Sequence[nn.Module], before: Sequence[dict[str, Any]]) -> None:
    """Give modules back the attributes that they had; can be repeated if interrupted."""
    for module, attributes in zip(modules, before, strict=True):
        for name in vars(module).keys() - attributes.keys():
            del vars(module)[name]
        vars(module).update(attributes)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Switch cuDNN off, which cannot compute gradients of recurrent layers in eval mode."""
    was_enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = was_enabled
