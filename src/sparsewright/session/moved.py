"""Sparse weights whose layers were replaced, moved, removed from their model, or freed."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from sparsewright.session.parameter import SparseParameter
from sparsewright.session.site import vacate
from sparsewright.session.walk import named_weights

if TYPE_CHECKING:
    from sparsewright.session.session import Session

logger = logging.getLogger("sparsewright")


class Roots:
    """Remember, by weak reference, the model that each sparse parameter was attached with."""

    def __init__(self) -> None:
        self._by_name: dict[str, weakref.ref[nn.Module]] = {}

    def note(self, root: nn.Module, names: Iterable[str]) -> None:
        """Record the model that parameters were attached with."""
        self._by_name |= dict.fromkeys(names, weakref.ref(root))

    def rename(self, new: Mapping[str, str]) -> None:
        """Rename parameters: old full name -> new full name."""
        self._by_name = {new.get(name, name): root for name, root in self._by_name.items()}

    def forget(self, name: str) -> None:
        """Forget the model of one parameter."""
        self._by_name.pop(name, None)

    def of(self, name: str) -> nn.Module | None:
        """Return the model that a parameter was attached with, or None if it was freed."""
        root = self._by_name.get(name)
        return None if root is None else root()

    def alive(self) -> list[nn.Module]:
        """Return the distinct models that are still alive."""
        alive = (root() for root in self._by_name.values())
        return list({id(root): root for root in alive if root is not None}.values())


def follow_moved(session: Session) -> None:
    """Follow weights whose Parameter moved to another layer, and drop weights that were freed.

    For example, quantization tools replace the layers of a model with their own layers, which hold
    the same Parameters.
    """
    roots = session.roots.alive()
    at_home = {id(module) for root in roots for module in root.modules()}
    missing = [
        parameter
        for parameter in session.parameters.values()
        if not parameter.storage.is_in_place
        or not parameter.storage.is_alive
        or (session.roots.of(parameter.name) is not None and id(parameter.module) not in at_home)
    ]
    places = _places(roots) if missing else {}
    for parameter in missing:
        place = places.get(id(parameter.storage.last_param))
        if place is not None:
            _move(session, parameter, *place)
        elif not parameter.storage.is_alive:
            _drop(session, [parameter])


def merge_shared(session: Session) -> None:
    """Keep one mask for a Parameter that several sparse weights now share.

    This happens if layers are tied after `apply`: each had its own Parameter and mask before. The
    mask of the layer that originally owned the Parameter remains.
    """
    by_id: dict[int, list[SparseParameter]] = {}
    for parameter in session.parameters.values():
        by_id.setdefault(id(parameter.storage.param), []).append(parameter)
    for sharing in by_id.values():
        own = next((p for p in sharing if session.is_hooked(p)), sharing[0])
        for parameter in sharing:
            if parameter is not own:
                module = parameter.module
                text = "%s is now tied to %s and uses the mask of that weight"
                logger.info(text, parameter.name, own.name)
                session.detach([parameter.name])
                session.follow_tied([(module, own.param)])


def let_go(session: Session, root: nn.Module) -> None:
    """Drop weights that were attached with a model but are no longer in it.

    A weight that was replaced by a Parameter of another shape is dropped too. If no weight
    remains, the model counts as a new one, and its steps are counted from 0.
    """
    before = bool(session.parameters)
    at_home = {id(module) for module in root.modules()}
    every = session.parameters.values()
    _drop(session, [p for p in every if p.storage.is_outgrown and id(p.module) in at_home])
    follow_moved(session)
    gone = [
        parameter
        for parameter in session.parameters.values()
        if session.roots.of(parameter.name) is root and id(parameter.module) not in at_home
    ]
    _drop(session, gone)
    _rename(session, root)
    if before and not session.parameters:
        session.start_anew()


def _rename(session: Session, root: nn.Module) -> None:
    """Rename weights whose layers have moved to another place in their model."""
    own = [p for p in session.parameters.values() if session.roots.of(p.name) is root]
    places: dict[tuple[int, str], list[str]] = {}
    for name, module, param_name, _, _ in named_weights(root) if own else ():
        places.setdefault((id(module), param_name), []).append(name)
    renamed = {}
    for parameter in own:
        names = places.get((id(parameter.module), parameter.storage.param_name), [])
        if names and parameter.name.partition("#")[0] not in names and not parameter.rule.shadows:
            renamed[parameter.name] = names[0]
    if renamed:
        session.rename(renamed)


def let_go_freed(session: Session) -> None:
    """Drop weights whose layers were freed while their model is still alive."""
    parameters = session.parameters.values()
    if any(not p.storage.is_alive and session.roots.of(p.name) is not None for p in parameters):
        follow_moved(session)


def _drop(session: Session, parameters: Iterable[SparseParameter]) -> None:
    for parameter in parameters:
        logger.info("%s is no longer sparse because it left the model", parameter.name)
        session.detach([parameter.name])


def _places(roots: Iterable[nn.Module]) -> dict[int, tuple[nn.Module, str]]:
    """Return Parameter id -> (layer, name of the Parameter in that layer)."""
    places: dict[int, tuple[nn.Module, str]] = {}
    for root in roots:
        for module in root.modules():
            for name, param in module._parameters.items():
                places.setdefault(id(param), (module, name))
    return places


def _move(session: Session, parameter: SparseParameter, module: nn.Module, name: str) -> None:
    storage = parameter.storage
    old = storage.module if storage.is_alive else None
    if old is not None:
        vacate(old, storage.param_name)
    storage.move(module, name)
    session.refresh(parameter)
    logger.info("%s moved to a layer of type %s", parameter.name, type(module).__name__)
