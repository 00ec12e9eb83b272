"""Optimizer states that belong to a weight, and which of their tensors follow its mask."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import kernels
from sparsewright.kernels import sharded
from sparsewright.storage.probe import (
    Path,
    ProbeError,
    StateKinds,
    Toy,
    is_number,
    path_name,
    probe,
    read,
    tensors_by_path,
    why_not_values,
)

logger = logging.getLogger("sparsewright")

DECLARED = "entrywise_state"
"""Attribute with which an optimizer declares the keys of its state that follow the mask."""


class OptimizerState:
    """State of one weight in one optimizer.

    Attributes:
        data: the optimizer's data for the weight: dicts, lists and tensors.
        kinds: which of its tensors have one entry for each connection.
    """

    def __init__(self, owner: str, data: Any, kinds: StateKinds) -> None:
        self._owner, self.data, self.kinds = owner, data, kinds

    def shaped(self, shape: torch.Size) -> Iterator[tuple[Path, Tensor]]:
        """Yield numeric tensors of the weight's shape, except those that set `requires_dense`."""
        for path, tensor in tensors_by_path(self.data):
            if tensor.shape != shape or getattr(tensor, "requires_dense", False):
                continue
            if is_number(tensor):
                yield path, tensor
            elif tensor.dtype in (torch.uint8, torch.int8):
                self._leave_codes(path)

    def entries(self, shape: torch.Size, mask: Tensor) -> Iterator[Tensor]:
        """Yield the tensors that have one entry for each connection.

        A tensor that trial steps did not classify counts if it is zero where the mask is False.
        Otherwise it is skipped, and a warning is logged once.

        Args:
            shape: shape of the weight.
            mask: mask with which the weight was trained until now.
        """
        for path, tensor in self.shaped(shape):
            is_entry = self.kinds.is_entry(path)
            if is_entry or (is_entry is None and _is_zero_off(tensor, mask)):
                yield tensor
            elif is_entry is None:
                self._leave(path)

    def _leave(self, path: Path) -> None:
        why = f" ({self.kinds.why_not_known})" if self.kinds.why_not_known else ""
        _say_once(
            f"{self._owner}: its state {path_name(path)!r} has the weight's shape, but trial steps "
            f"did not show whether it follows the mask{why}, so it is not pruned. If it has one "
            f"entry for each connection, set {DECLARED} = ({path_name(path)!r}, ...) on the "
            "optimizer, listing all such keys"
        )

    def _leave_codes(self, path: Path) -> None:
        _say_once(
            f"{self._owner}: its state {path_name(path)!r} is quantized, so dropped connections "
            "keep their entries in it; their weights and gradients are pruned"
        )

    def prune(self, tensor: Tensor, mask: Tensor) -> None:
        """Prune one of the state's tensors, or warn once if its type cannot be pruned."""
        tensor, mask = sharded.local(tensor), sharded.local(mask)
        if _is_plain(tensor):
            kernels.prune_(tensor, mask)
        elif not _prune_foreign(tensor, mask):
            _say_once(
                f"{self._owner}: its state of type {type(tensor).__name__} cannot be read, so "
                "dropped connections keep their entries in it; their weights and gradients are "
                "pruned"
            )


States = list[OptimizerState]
"""One state for each optimizer that has the weight."""


class _Known:
    """Results of trials with one optimizer, by parameter group and kind of weight."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[Mapping[str, Any], str]] = {}
        self._kinds: dict[Hashable, StateKinds] = {}
        self._problems: dict[Hashable, str] = {}

    def kinds(self, optimizer: Optimizer, param: Tensor) -> StateKinds:
        at, group = self._place(optimizer, param, param.ndim)
        if at not in self._kinds:
            self._kinds[at] = _find_kinds(optimizer, group, param)
        return self._kinds[at]

    def why_not_values(self, optimizer: Optimizer, param: Tensor, ndim: int) -> str:
        at, group = self._place(optimizer, param, ndim)
        if at not in self._problems:
            try:
                self._problems[at] = why_not_values(_toy(optimizer, group, param, ndim))
            except ProbeError as error:
                self._problems[at] = f"trial steps are not possible, because {error}"
        return self._problems[at]

    def _place(
        self, optimizer: Optimizer, param: Tensor, ndim: int
    ) -> tuple[Hashable, Mapping[str, Any]]:
        if id(param) not in self._places:
            for each in optimizer.param_groups:
                options = repr({key: value for key, value in each.items() if key != "params"})
                self._places |= {id(p): (each, options) for p in each["params"]}
        group, options = self._places.get(id(param), ({}, ""))
        return (options, ndim, param.dtype, param.device), group


_KNOWN: WeakKeyDictionary[Optimizer, _Known] = WeakKeyDictionary()


def state_of(optimizer: Optimizer, param: Tensor) -> OptimizerState | None:
    """Return a parameter's state in an optimizer; None if it has no state there."""
    data = getattr(optimizer, "state", {}).get(param)
    if not data:
        return None
    return OptimizerState(type(optimizer).__name__, data, kinds_of(optimizer, param))


def kinds_of(optimizer: Optimizer, param: Tensor) -> StateKinds:
    """Classify the tensors in a parameter's state; the result is cached by kind of weight."""
    return _KNOWN.setdefault(optimizer, _Known()).kinds(optimizer, param)


def why_not_step_values(optimizer: Optimizer, param: Tensor, ndim: int) -> str:
    """Return why an optimizer cannot step the live values of a weight; "" if it can.

    Args:
        optimizer: the optimizer; the weight's present state in it is checked as well.
        param: the weight, or its live values.
        ndim: number of dimensions of the weight.
    """
    problem = _KNOWN.setdefault(optimizer, _Known()).why_not_values(optimizer, param, ndim)
    if not problem:
        for path, tensor in tensors_by_path(getattr(optimizer, "state", {}).get(param, {})):
            if tensor.numel() > 1 and not _is_plain(tensor):
                problem = f"its state {path_name(path)} is a {_type_name(tensor)}"
    return problem and f"{type(optimizer).__name__} cannot step compressed weights: {problem}"


def _find_kinds(optimizer: Optimizer, group: Mapping[str, Any], param: Tensor) -> StateKinds:
    declared = getattr(optimizer, DECLARED, None)
    if declared is not None:
        return StateKinds(frozenset((key,) for key in declared), is_declared=True)
    try:
        return probe(_toy(optimizer, group, param, param.ndim))
    except ProbeError as error:
        return StateKinds(why_not_known=str(error))


def _toy(optimizer: Optimizer, group: Mapping[str, Any], param: Tensor, ndim: int) -> Toy:
    if inner_optimizers(optimizer):
        raise ProbeError("it wraps another optimizer")
    return Toy(optimizer, group, param, ndim)


def forget_history(optimizer: Optimizer, param: Tensor) -> None:
    """Clear LBFGS's state: its curvature estimate belongs to the connections before the change."""
    held = (each for group in optimizer.param_groups for each in group["params"])
    if isinstance(optimizer, torch.optim.LBFGS) and any(each is param for each in held):
        optimizer.state.clear()


def inner_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers among an optimizer's attributes, including those in lists and dicts."""
    found: list[Optimizer] = []
    for name, value in vars(optimizer).items():
        if name not in ("state", "param_groups", "defaults"):
            values = value.values() if isinstance(value, dict) else value
            many = values if isinstance(value, dict | list | tuple) else [value]
            found += [each for each in many if isinstance(each, Optimizer)]
    return found


Replacement = tuple[Any, Any, Tensor]
"""A dict or list, a key of it, and the tensor to put there."""


def replacements(
    states: States, shape: torch.Size, fn: Callable[[Tensor], Tensor]
) -> Iterator[Replacement]:
    """Yield replacements by `fn` for all tensors of a shape, including nested lists and dicts."""
    for state in states:
        yield from _replacements_in(state.data, shape, fn)


def _replacements_in(
    data: Any, shape: torch.Size, fn: Callable[[Tensor], Tensor]
) -> Iterator[Replacement]:
    if isinstance(data, dict):
        items: Any = list(data.items())
    elif isinstance(data, list | deque):
        items = list(enumerate(data))
    else:
        return
    for key, value in items:
        if not isinstance(value, Tensor):
            yield from _replacements_in(value, shape, fn)
        elif value.shape == shape:
            yield data, key, fn(value)


def put_all(replaced: Iterable[Replacement]) -> None:
    """Put each tensor back."""
    for data, key, tensor in replaced:
        data[key] = tensor


def replace_shaped(states: States, shape: torch.Size, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace each tensor of a given shape in some states by `fn` of the tensor."""
    put_all(list(replacements(states, shape, fn)))


def _is_plain(tensor: Tensor) -> bool:
    return is_number(tensor) and type(sharded.local(tensor)) in (Tensor, nn.Parameter)


def _type_name(tensor: Tensor) -> str:
    return f"{tensor.dtype} tensor" if type(tensor) is Tensor else type(tensor).__name__


def _is_zero_off(tensor: Tensor, mask: Tensor) -> bool:
    """Return whether a tensor is zero where the mask is False; False if the mask is all True."""
    off, values = ~sharded.local(mask), read(sharded.local(tensor))
    return values is not None and bool(off.any()) and not bool(values[off].any())


def _prune_foreign(tensor: Tensor, mask: Tensor) -> bool:
    """Prune a Tensor subclass through a dense copy; return whether the class supports this."""
    dense = read(tensor)
    try:
        if dense is not None:
            tensor.copy_(dense.masked_fill(~mask, 0))
    except Exception:  # the subclass may not implement the operator
        return False
    return dense is not None


_SAID: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _SAID:
        _SAID.add(text)
        logger.warning(text)
