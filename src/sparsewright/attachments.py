"""Functions that find or remove the algorithm of a model."""

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

    A sparse model keeps its algorithm alive. A copy or a pickle of the model has only the masks.

    Args:
        model: the model, or a submodule.

    Returns:
        The algorithm, or None if none was applied.

    Raises:
        AttachError: several algorithms were applied to different parameters; pass a submodule.
        OptionTypeError: `model` is not a Module.
    """
    _check("find", model)
    owners = [session.owner for session in sessions_of(model)]
    if len(owners) > 1:
        names = ", ".join(type(owner).__name__ for owner in owners)
        raise AttachError(
            f"a {type(model).__name__}", f"it has several algorithms ({names}); pass a submodule"
        )
    found = owners[0] if owners else None
    assert found is None or isinstance(found, SparsityAlgorithm)
    return found


def remove(model: nn.Module) -> None:
    """Remove all algorithms and masks from a model; you do not need the algorithm object.

    The weights keep their zeros and continue to train as dense weights. If an optimizer no longer
    steps any weight of an algorithm, that algorithm stops following the optimizer.

    Args:
        model: the model, or a submodule.

    Raises:
        OptionTypeError: `model` is not a Module.
    """
    _check("remove", model)
    sessions = sessions_of(model)
    for session in sessions:
        release(session, model)
    decompress(model)
    if not drop_masks(model) and not sessions:
        warn(f"the {type(model).__name__} has no sparse weights; nothing was removed")


def _check(name: str, model: object) -> None:
    """Raise OptionTypeError unless the argument of a function is a Module."""
    if not isinstance(model, nn.Module):
        raise OptionTypeError(f"the argument of {name}", model, "a Module")
