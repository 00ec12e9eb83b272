"""What is said when weights are written to between the steps that prune them."""

from __future__ import annotations

from collections.abc import Iterable

from sparsewright.kernels import sharded
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
        held = [p.param for p in parameters if _is_masked(p)]
        self._left = {id(param): version(param) for param in held}

    def found(self, parameters: Iterable[SparseParameter]) -> str:
        """Return the name of a weight that is not pruned any more, or ""."""
        left, self._left = self._left, {}
        held = [(p, left.get(id(p.param))) for p in parameters if _is_masked(p)]
        written = [p for p, at in held if at is not None and version(p.param) != at]
        self._writes += bool(written)
        if not written or self._writes & (self._writes - 1):
            return ""
        return next((p.name for p in written if _has_values_off(p)), "")


def _is_masked(parameter: SparseParameter) -> bool:
    return not (parameter.storage.trains_pruned or parameter.is_compressed)


def _has_values_off(parameter: SparseParameter) -> bool:
    weight, mask = sharded.local(parameter.param.detach()), sharded.local(parameter.mask)
    return bool(weight.masked_fill(mask, 0).any())
