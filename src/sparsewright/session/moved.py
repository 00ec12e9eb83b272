"""Sparse weights whose layers were replaced, taken out of their model, or freed."""

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
    """The models that sparse parameters were attached with; none is kept alive."""

    def __init__(self) -> None:
        self._by_name: dict[str, weakref.ref[nn.Module]] = {}

    def note(self, root: nn.Module, names: Iterable[str]) -> None:
        """Note the model that parameters were attached with."""
        self._by_name |= dict.fromkeys(names, weakref.ref(root))

    def rename(self, new: Mapping[str, str]) -> None:
        """Follow parameters to other names."""
        self._by_name = {new.get(name, name): root for name, root in self._by_name.items()}

    def forget(self, name: str) -> None:
        """Forget that of one parameter."""
        self._by_name.pop(name, None)

    def of(self, name: str) -> nn.Module | None:
        """Return the model that a parameter was attached with, if it is alive."""
        root = self._by_name.get(name)
        return None if root is None else root()

    def alive(self) -> list[nn.Module]:
        """Return those that are alive."""
        alive = (root() for root in self._by_name.values())
        return list({id(root): root for root in alive if root is not None}.values())


def follow_moved(session: Session) -> None:
    """Follow weights whose Parameter stands in another layer now; let go of those that are gone.

    Tools that prepare a model for quantization, say, put layers of their own in the place of the
    model's, with the same Parameters.
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
    """Let a Parameter that several sparse weights have now keep one mask: that of its own weight.

    Layers that are tied after `apply` share a Parameter that each of them had alone.
    """
    by_id: dict[int, list[SparseParameter]] = {}
    for parameter in session.parameters.values():
        by_id.setdefault(id(parameter.storage.param), []).append(parameter)
    for sharing in by_id.values():
        own = next((p for p in sharing if session.is_hooked(p)), sharing[0])
        for parameter in sharing:
            if parameter is not own:
                module = parameter.module
                logger.info(
                    "%s shares the weight of %s now, and its mask", parameter.name, own.name
                )
                session.detach([parameter.name])
                session.follow_tied([(module, own.param)])


def let_go(session: Session, root: nn.Module) -> None:
    """Let go of weights that were attached with a model and are not in it any more.

    A Parameter of another shape in the place of a weight is a new one.

    If none is left, the model is a new one, and its steps are counted from 0.
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
    """Give weights whose layers have another place in their model now the names of today."""
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
    """Let go of weights whose layers are gone from a model that is still there."""
    parameters = session.parameters.values()
    if any(not p.storage.is_alive and session.roots.of(p.name) is not None for p in parameters):
        follow_moved(session)


def _drop(session: Session, parameters: Iterable[SparseParameter]) -> None:
    for parameter in parameters:
        logger.info("%s left the model; it is no longer sparse", parameter.name)
        session.detach([parameter.name])


def _places(roots: Iterable[nn.Module]) -> dict[int, tuple[nn.Module, str]]:
    """The layers that have Parameters, and their names there, by the ids of the Parameters."""
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
    logger.info("%s: its weight is in a %s now", parameter.name, type(module).__name__)
