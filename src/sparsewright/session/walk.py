"""Walking over a user's model: its parameters, who owns them, where `apply` was called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsewright.errors import AttachError
from sparsewright.kernels import sharded
from sparsewright.layers import shown_name

# By the name of the class: to import torch's compiler takes a second.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module"
    ),
}
"""Classes of torch that wrap a whole module: the name they give it."""


def wrapped_name(module: nn.Module) -> str | None:
    """The name under which a wrapper of torch (compile, DDP, EMA) holds its module; else None."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As `module.named_modules()`, with the names of the model without torch's wrappers.

    Filters, seeds and checks see these names: a compiled, parallel or averaged model has the masks
    of the plain one.
    """
    known: dict[str, tuple[str, str | None]] = {}
    for full, inner in module.named_modules():
        above, _, last = full.rpartition(".")
        path, wrapped = known.get(above, ("", None))
        if full and last != wrapped:
            path = f"{path}.{last}" if path else last
        known[full] = path, wrapped_name(inner)
        yield path, inner


def named_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter, str]]:
    """Every parameter below `module`, once per name, with the reason why it must stay dense.

    Yields:
        Full name, owning module, name there, the parameter, and the reason ("" if there is none).
    """
    seen: dict[int, str] = {}
    dense_below: list[str] = []
    for path, owner in named_modules(module):
        if getattr(owner, "requires_dense", False):
            dense_below.append(path)
        is_dense = any(not top or path == top or path.startswith(top + ".") for top in dense_below)
        for param_name, param in owner._parameters.items():
            if param is None:
                continue
            shown = shown_name(owner, param_name)
            name = f"{path}.{shown}" if path else shown
            first = seen.setdefault(id(param), name)
            if first != name:
                reason = f"it is tied to {first}, under whose name it is decided"
            elif is_dense or getattr(param, "requires_dense", False):
                reason = "it or its module says requires_dense"
            elif not (param.is_floating_point() or param.is_complex()):
                reason = f"its dtype {param.dtype} is not floating point"
            else:
                reason = ""
            yield name, owner, param_name, param, reason


def root_of_apply(fn: object, module: nn.Module) -> nn.Module:
    """The module on which the user called `module.apply(fn)`, or `module` if called directly.

    `nn.Module.apply` visits children first and says nothing of where it was called; the outermost
    of its frames that carries `fn` does.
    """
    root = module
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is nn.Module.apply.__code__ and frame.f_locals.get("fn") is fn:
            root = frame.f_locals["self"]
        frame = frame.f_back
    return root


def find_owner(module: nn.Module, name: str, param: nn.Parameter) -> tuple[nn.Module, str]:
    """The module that holds `param`, and its name there."""
    for owner in module.modules():
        for param_name, own in owner._parameters.items():
            if own is param and name.split(".")[-1] in (param_name, shown_name(owner, param_name)):
                return owner, param_name
    raise AttachError(name, f"not a parameter of the {type(module).__name__} it was looked for in")


def check_weight(name: str, param: Tensor) -> None:
    """Raise AttachError if no mask can be made for a parameter."""
    if is_lazy(param):
        raise AttachError(name, "its shape is not known yet; run one forward pass first")
    if sharded.is_sharded(param):
        try:
            sharded.shards_of(param)
        except ValueError as error:
            raise AttachError(name, str(error)) from None
