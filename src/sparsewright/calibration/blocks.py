"""The blocks of a model, which are calibrated one after another."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sparsewright.calibration.target import Target
from sparsewright.core.filters import GlobFilter
from sparsewright.errors import OptionError, OptionTypeError
from sparsewright.session.walk import named_modules
from sparsewright.wording import close_names

BlocksLike = str | Sequence[str | nn.Module] | None
"""A glob, or a list of globs and modules; None: the stacks of the model."""

_MANY = 16  # passes over the model, above which a log line says how to need fewer

logger = logging.getLogger("sparsewright")


@dataclass(eq=False)
class Block:
    """A module whose weights are pruned together.

    Attributes:
        name: full name of the module.
        module: the module.
        targets: its weights to prune.
    """

    name: str
    module: nn.Module
    targets: list[Target]


def find_blocks(model: nn.Module, targets: Sequence[Target], blocks: BlocksLike) -> list[Block]:
    """Divide the weights to prune among blocks.

    Without `blocks`, these are the modules in each `nn.ModuleList` or `nn.Sequential` whose
    modules all have one class and hold weights to prune; of nested ones, only the outermost. A
    weight outside of all blocks forms a block with its layer.

    Args:
        model: the model.
        targets: the weights to prune.
        blocks: the user's blocks; a glob picks modules by full name, and modules inside a picked
            one do not count.

    Raises:
        OptionError: a glob picks no module that holds weights to prune, or a module is not in the
            model.
        OptionTypeError: `blocks` is neither a glob nor a list of globs and modules.
    """
    modules = dict(named_modules(model))
    held = {id(layer) for target in targets for layer in target.layers}
    holders = {
        name: module
        for name, module in modules.items()
        if any(id(below) in held for below in module.modules())
    }
    picked = _stacks(holders) if blocks is None else _given(modules, holders, blocks)
    left, found = list(targets), []
    for name in picked:
        below = {id(module) for module in modules[name].modules()}
        own = [t for t in left if any(id(layer) in below for layer in t.layers)]
        left = [target for target in left if target not in own]
        if own:
            found.append(Block(name, modules[name], own))
    names = {id(module): name for name, module in modules.items()}
    alone: dict[int, Block] = {}
    for target in left:
        layer = target.layers[0]
        block = alone.setdefault(id(layer), Block(names[id(layer)], layer, []))
        block.targets.append(target)
    if not picked and len(alone) > _MANY:
        logger.warning(
            "%s has no stack of blocks, so each of its %d layers is calibrated in a pass over the "
            "model; pass blocks=, a glob such as 'encoder.layers.*' or a list of modules, to "
            "calibrate several layers together",
            *(type(model).__name__, len(alone)),
        )
    return [*found, *alone.values()]


def _stacks(holders: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the modules in the outermost stacks."""
    found: list[str] = []
    for name, module in holders.items():
        children = list(module.children())
        is_stack = isinstance(module, nn.ModuleList | nn.Sequential) and not _inside(name, found)
        names = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        is_layers = all(not list(child.children()) for child in children)
        if is_stack and not is_layers and len({type(child) for child in children}) == 1:
            found += [child for child in names if child in holders]
    return found


def _inside(name: str, others: Sequence[str]) -> bool:
    """Return whether a module is one of others, or inside one of them."""
    return any(name == other or name.startswith(other + ".") for other in others)


def _given(
    modules: Mapping[str, nn.Module], holders: Mapping[str, nn.Module], blocks: object
) -> list[str]:
    """Return the names of the modules that the user gave, without those inside others."""
    given = [blocks] if isinstance(blocks, str | nn.Module) else blocks
    if isinstance(blocks, nn.ModuleList | nn.Sequential):
        given = list(blocks)
    if not isinstance(given, list | tuple) or not given:
        raise OptionTypeError("blocks", blocks, "a glob, or a list of globs and modules")
    found: list[str] = []
    for each in given:
        for name in _named(each, modules, holders):
            if not _inside(name, found):
                found.append(name)
    return found


def _named(
    each: object, modules: Mapping[str, nn.Module], holders: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Yield the names of the modules that an entry of `blocks` picks."""
    if isinstance(each, nn.Module):
        names = [name for name, module in modules.items() if module is each]
        if not names:
            raise OptionError("a module in blocks", type(each).__name__, "part of the model")
        yield names[0]
        return
    if not isinstance(each, str):
        raise OptionTypeError("an entry of blocks", each, "a glob or a module")
    names = [name for name in holders if name and GlobFilter([each])(name, None)]
    if not names:
        near = close_names(each, [name for name in holders if name], 3)
        advice = f"Similar names: {', '.join(near)}." if near else ""
        allowed = "a glob that matches a module with weights to prune"
        raise OptionError("blocks", each, allowed, advice=advice)
    yield from names
