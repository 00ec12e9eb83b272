"""Walking over a user's model: its parameters, who owns them, where `apply` was called."""

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
    """Why a parameter stays dense.

    Attributes:
        kind: what it is, in the plural, for counts; "" if it counts under another name.
        reason: a clause about it.
    """

    kind: str
    reason: str


_MARKED = Dense("marked requires_dense", "it or its module says requires_dense")


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


def named_weights(
    module: nn.Module,
) -> Iterator[tuple[str, nn.Module, str, nn.Parameter, Dense | None]]:
    """Every parameter below `module`, once per name, with the reason why it must stay dense.

    Yields:
        Full name, owning module, name there, the parameter, and the reason, if there is one.
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
                why = Dense("", f"it is tied to {first}, under whose name it is decided")
            elif is_dense or getattr(param, "requires_dense", False):
                why = _MARKED
            elif not (param.is_floating_point() or param.is_complex()):
                why = Dense("integers", f"its dtype {param.dtype} is not floating point")
            yield name, owner, param_name, param, why


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
    if param.is_inference():
        raise AttachError(
            name,
            "it was made under torch.inference_mode(), so nothing may write to it later; "
            "build or load the model outside of that",
        )
    problem = sharded.why_not_sharded(param)
    if problem:
        raise AttachError(name, problem)
