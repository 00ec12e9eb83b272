"""Iteration over a user's model: its modules, its parameters and their owners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparsewright.errors import AttachError
from sparsewright.kernels import sharded
from sparsewright.layers import shown_name
from sparsewright.torch_private import wrapped_name


class Dense(NamedTuple):
    """The reason that a parameter stays dense.

    Attributes:
        kind: plural noun for the counts in the log; "" if the parameter counts under another name.
        reason: a clause about the parameter, such as "it is an embedding".
    """

    kind: str
    reason: str


_MARKED = Dense("marked requires_dense", "it or its module sets requires_dense")


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield `module.named_modules()` with names that ignore PyTorch's wrappers.

    Filters, seeds and checks use these names, so a compiled, parallel or averaged model gets the
    same masks as the plain model.
    """
    known: dict[str, tuple[str, str | None]] = {}
    for full, inner in module.named_modules():
        above, _, last = full.rpartition(".")
        path, wrapped = known.get(above, ("", None))
        if full and last != wrapped:
            path = f"{path}.{last}" if path else last
        known[full] = path, wrapped_name(inner)
        yield path, inner


def named_weights(
    module: nn.Module,
) -> Iterator[tuple[str, nn.Module, str, nn.Parameter, Dense | None]]:
    """Yield every parameter of `module`, once per name, with the reason if it must stay dense.

    Yields:
        Full name, owning module, name in that module, parameter, and reason (None if there is
        no reason).
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
            why: Dense | None = None
            if first != name:
                why = Dense("", f"it is tied to {first}, and filters see only that name")
            elif is_dense or getattr(param, "requires_dense", False):
                why = _MARKED
            elif not (param.is_floating_point() or param.is_complex()):
                why = Dense("integers", f"its dtype {param.dtype} is not floating point")
            yield name, owner, param_name, param, why


def find_owner(module: nn.Module, name: str, param: nn.Parameter) -> tuple[nn.Module, str]:
    """Return the module that holds `param` and the parameter's name in that module.

    Raises:
        AttachError: no module below `module` holds it under this name.
    """
    for owner in module.modules():
        for param_name, own in owner._parameters.items():
            if own is param and name.split(".")[-1] in (param_name, shown_name(owner, param_name)):
                return owner, param_name
    raise AttachError(name, f"it is not a parameter of the given {type(module).__name__}")


def check_weight(name: str, param: Tensor) -> None:
    """Raise AttachError if a parameter cannot have a mask."""
    if is_lazy(param):
        raise AttachError(name, "it is lazy and has no shape yet; run one forward pass first")
    if param.is_inference():
        raise AttachError(
            name,
            "it was created under torch.inference_mode() and cannot be modified in place later; "
            "create or load the model outside inference mode",
        )
    problem = sharded.why_not_sharded(param)
    if problem:
        raise AttachError(name, problem)
