"""Detection of writes to pruned connections between training steps."""

from __future__ import annotations

from collections.abc import Iterable

from sparsewright.session.parameter import SparseParameter
from sparsewright.torch_private import version


class LateWrites:
    """Find pruned connections that became nonzero after a step.

    An optimizer wrapper such as Lookahead causes this if only the inner optimizer was passed to
    `apply`. The check compares tensor versions. To keep it cheap, it looks at values only after
    the 1st, 2nd, 4th, 8th, ... write.
    """

    def __init__(self) -> None:
        self._left: dict[int, int] = {}
        self._writes = 0

    def note(self, parameters: Iterable[SparseParameter]) -> None:
        """Record the tensor versions after a step, for storages that keep weights pruned."""
        held = [p.param for p in parameters if p.storage.to_prune() is not None]
        self._left = {id(param): version(param) for param in held}

    def found(self, parameters: Iterable[SparseParameter]) -> str:
        """Return the name of a weight with nonzero pruned connections; "" if none was found."""
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
