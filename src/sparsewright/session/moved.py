"""Sparse weights whose layers were replaced, taken out of their model, or freed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torch import nn

from sparsewright.session.parameter import SparseParameter
from sparsewright.session.site import settle, vacate

if TYPE_CHECKING:
    from sparsewright.session.session import Session

logger = logging.getLogger("sparsewright")


def follow_moved(session: Session) -> None:
    """Follow weights whose Parameter stands in another layer now; let go of those that are gone.

    Tools that prepare a model for quantization, say, put layers of their own in the place of the
    model's, with the same Parameters.
    """
    roots = session.roots()
    at_home = {id(module) for root in roots for module in root.modules()}
    for parameter in list(session.parameters.values()):
        storage = parameter.storage
        is_elsewhere = session.root_of(parameter) is not None and (
            not storage.is_alive or id(storage.module) not in at_home
        )
        if storage.is_in_place and not is_elsewhere:
            continue
        place = _place_of(parameter, roots)
        if place is not None:
            _move(session, parameter, *place)
        elif not storage.is_alive:
            logger.info("%s: its layer is gone; it is no longer sparse", parameter.name)
            session.detach([parameter.name])


def let_go(session: Session, root: nn.Module) -> None:
    """Let go of weights that were attached with a model and are not in it any more."""
    follow_moved(session)
    at_home = {id(module) for module in root.modules()}
    gone = [
        parameter
        for parameter in session.parameters.values()
        if session.root_of(parameter) is root and id(parameter.module) not in at_home
    ]
    for parameter in gone:
        logger.info("%s left the model; it is no longer sparse", parameter.name)
    session.detach([parameter.name for parameter in gone])


def _place_of(
    parameter: SparseParameter, roots: Iterable[nn.Module]
) -> tuple[nn.Module, str] | None:
    """The layer that has the Parameter of a weight now, and its name there."""
    param = parameter.storage.last_param
    if param is None:
        return None
    return next((place for place, other in _places(roots) if other is param), None)


def _places(roots: Iterable[nn.Module]) -> Iterator[tuple[tuple[nn.Module, str], object]]:
    for root in roots:
        for module in root.modules():
            for name, param in module._parameters.items():
                yield (module, name), param


def _move(session: Session, parameter: SparseParameter, module: nn.Module, name: str) -> None:
    storage = parameter.storage
    old = storage.module if storage.is_alive else None
    if old is not None:
        vacate(old, storage.param_name)
    storage.move(module, name)
    session.refresh(parameter)
    logger.info("%s: its weight is in a %s now", parameter.name, type(module).__name__)
