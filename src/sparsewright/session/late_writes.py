"""What is said when weights are written to between the steps that prune them."""

from __future__ import annotations

from collections.abc import Iterable

from sparsewright.session.parameter import SparseParameter
from sparsewright.torch_private import version


class LateWrites:
    """Finds pruned connections that somebody gave a value after a step.

    A wrapper around an optimizer does so (Lookahead) if only the one inside was applied. Versions
    of tensors are compared, and values looked at after the 1st, 2nd, 4th, ... write only.
    """

    def __init__(self) -> None:
        self._left: dict[int, int] = {}
        self._writes = 0

    def note(self, parameters: Iterable[SparseParameter]) -> None:
        """Note what a step left, if it leaves pruned weights."""
        held = [p.param for p in parameters if p.storage.to_prune() is not None]
        self._left = {id(param): version(param) for param in held}

    def found(self, parameters: Iterable[SparseParameter]) -> str:
        """Return the name of a weight that is not pruned any more, or ""."""
        left, self._left = self._left, {}
        held = [(p, left.get(id(p.param))) for p in parameters]
        written = [p for p, at in held if at is not None and version(p.param) != at]
        self._writes += bool(written)
        if not written or self._writes & (self._writes - 1):
            return ""
        return next((p.name for p in written if _has_values_off(p)), "")


def _has_values_off(parameter: SparseParameter) -> bool:
    pair = parameter.storage.to_prune()
    return pair is not None and bool(pair[0].detach().masked_fill(pair[1], 0).any())
