"""Recorded calls of a module, which can be repeated later."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsewright.torch_private import version

_CONSTANTS = (type(None), bool, int, float, str, torch.dtype, torch.device)
_NOTHING = object()


class Arguments(NamedTuple):
    """Positional and keyword arguments: values, or the sources of values."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class FromOutput(NamedTuple):
    """A value that is a tensor in the output of the previous block."""

    place: int


class FromFirst(NamedTuple):
    """A value that the first block of a chain received too, such as a mask of attention."""

    place: int


class Held(NamedTuple):
    """A tensor that is kept on the CPU between two blocks."""

    tensor: Tensor
    device: torch.device


@dataclass
class Call:
    """One call of a block.

    Attributes:
        arguments: the arguments, with `Held` tensors.
        first: values of the first block in the chain, with `Held` tensors.
        padding: mask of the batch, 0 for padding; None if there is no padding.
    """

    arguments: Arguments
    first: Sequence[Any]
    padding: Tensor | None

    def repeat(self, module: nn.Module) -> Any:
        """Call a module with the arguments, and return its output.

        The module receives copies, because it may write to its arguments or fill a cache.
        """
        return self._run(module, {})

    def advance(self, module: nn.Module, sources: Arguments) -> Call:
        """Call a module, and return the call of the next block in the chain.

        The next block receives shared objects and tensors, such as a cache, as the module leaves
        them.

        Args:
            module: the block of this call.
            sources: sources of the next block's arguments, from `find_sources`.
        """
        copies: dict[int, Any] = {}
        outputs = tensors_in(self._run(module, copies))
        first = [_after(leaf, copies) for leaf in self.first]

        def value(source: FromOutput | FromFirst) -> Any:
            is_output = isinstance(source, FromOutput)
            return hold(outputs[source.place]) if is_output else first[source.place]

        return Call(map_leaves(value, sources), first, self.padding)

    def _run(self, module: nn.Module, copies: dict[int, Any]) -> Any:
        """Call a module with copies of the arguments, and note the copies by id."""
        args, kwargs = map_leaves(lambda leaf: _fresh(leaf, copies), self.arguments)
        return module(*args, **kwargs)


def record(args: tuple[Any, ...], kwargs: dict[str, Any], padding: Tensor | None) -> Call:
    """Return the call of the first block in a chain."""
    arguments = map_leaves(hold, Arguments(args, kwargs))
    return Call(arguments, [leaf for _, leaf in _placed(arguments)], padding)


def hold(value: Any) -> Any:
    """Return a tensor as `Held`, and any other value unchanged."""
    return Held(value.detach().to("cpu"), value.device) if isinstance(value, Tensor) else value


def _fresh(leaf: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of an argument; tensors go back to their device."""
    if isinstance(leaf, Held):
        if id(leaf.tensor) not in copies:
            copies[id(leaf.tensor)] = leaf.tensor.to(leaf.device, copy=True)
        return copies[id(leaf.tensor)]
    return leaf if isinstance(leaf, (*_CONSTANTS, nn.Module)) else copy.deepcopy(leaf, copies)


def _after(leaf: Any, copies: dict[int, Any]) -> Any:
    """Return a value as a block left it, from the copies that the block received."""
    if not isinstance(leaf, Held):
        return copies.get(id(leaf), leaf)
    copied = copies.get(id(leaf.tensor))
    return leaf if copied is None or not version(copied) else hold(copied)


def find_sources(given: Arguments, first: Arguments, output: Any) -> Arguments | None:
    """Return where the arguments of a block come from.

    A tensor must be an output of the previous block or an argument of the first one. Any other
    value must be an argument of the first block too.

    Args:
        given: arguments of the block.
        first: arguments of the first block in the chain.
        output: output of the previous block.

    Returns:
        The sources; None if a value comes from elsewhere, so the block needs a pass of its own.
    """
    outputs, before = tensors_in(output), list(_placed(first))
    at_place = {place: (index, leaf) for index, (place, leaf) in enumerate(before)}
    found: list[FromOutput | FromFirst] = []
    for place, leaf in _placed(given):
        source = next((FromOutput(i) for i, each in enumerate(outputs) if each is leaf), None)
        if source is None and isinstance(leaf, _CONSTANTS):
            index, other = at_place.get(place, (0, _NOTHING))
            matches = [index] if type(leaf) is type(other) and leaf == other else []
        else:
            matches = [i for i, (_, each) in enumerate(before) if each is leaf]
        if source is None and not matches:
            return None
        found.append(source or FromFirst(matches[0]))
    if not any(isinstance(source, FromOutput) for source in found):
        return None
    left = iter(found)
    return map_leaves(lambda leaf: next(left), given)


def map_leaves(fn: Callable[[Any], Any], arguments: Arguments) -> Arguments:
    """Return arguments with `fn` applied to each value in nested tuples, lists and dicts."""

    def mapped(tree: Any) -> Any:
        if type(tree) in (tuple, list):
            return type(tree)(mapped(each) for each in tree)
        if type(tree) is dict:
            return {key: mapped(each) for key, each in tree.items()}
        return fn(tree)

    return Arguments(*mapped(tuple(arguments)))


def _placed(arguments: Arguments) -> Iterator[tuple[tuple[object, ...], Any]]:
    """Yield the place and the value of each leaf, in the order of `map_leaves`."""

    def walk(tree: Any, place: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], Any]]:
        if type(tree) in (tuple, list, dict):
            items = tree.items() if type(tree) is dict else enumerate(tree)
            for key, each in items:
                yield from walk(each, (*place, key))
        else:
            yield place, tree

    return walk(tuple(arguments), ())


def tensors_in(output: Any) -> list[Tensor]:
    """Return the tensors in an output, in order: a tensor, or nested sequences and mappings."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [each for value in output.values() for each in tensors_in(value)]
    if isinstance(output, tuple | list):
        return [each for value in output for each in tensors_in(value)]
    return []
