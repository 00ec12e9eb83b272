"""Find and take off the algorithm that a model has."""

from __future__ import annotations

from torch import nn

from sparsewright.base import SparsityAlgorithm
from sparsewright.errors import AttachError, OptionTypeError, warn
from sparsewright.session.convert import decompress
from sparsewright.session.route import release, sessions_of
from sparsewright.session.site import drop_masks

__all__ = ["find", "remove"]


def find(model: nn.Module) -> SparsityAlgorithm | None:
    """Return the algorithm, or the Group, that was applied to a model.

    A sparse model keeps its algorithm alive; a copy or a pickle of it has the masks only.

    Args:
        model: the model, or a part of one.

    Returns:
        The algorithm; None if nothing was applied.

    Raises:
        AttachError: several were applied, each to parameters of its own; ask for a part.
        OptionTypeError: not a Module.
    """
    _check("find", model)
    owners = [session.owner for session in sessions_of(model)]
    if len(owners) > 1:
        names = ", ".join(type(owner).__name__ for owner in owners)
        raise AttachError(
            f"a {type(model).__name__}", f"it has several algorithms ({names}); ask for a part"
        )
    found = owners[0] if owners else None
    assert found is None or isinstance(found, SparsityAlgorithm)
    return found


def remove(model: nn.Module) -> None:
    """Take every algorithm and every mask off a model, without having the algorithm.

    The weights keep their zeros, and train on as dense weights. An optimizer of which an algorithm
    steps no weight any more is no longer followed.

    Args:
        model: the model, or a part of one.

    Raises:
        OptionTypeError: not a Module.
    """
    _check("remove", model)
    sessions = sessions_of(model)
    for session in sessions:
        release(session, model)
    decompress(model)
    if not drop_masks(model) and not sessions:
        warn(f"the {type(model).__name__} has no sparse weight; nothing changes")


def _check(name: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"the argument of {name}", model, "a Module")
