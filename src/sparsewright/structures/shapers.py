"""Score shapers, which are structures under the names of the public API."""

from __future__ import annotations

from sparsewright.core.rows import Unstructured
from sparsewright.structures.groups import Groups, check_groups


class ScoreFlattener(Unstructured):
    """Let all entries of a weight compete in one row, like `structures.Unstructured`.

    >>> import torch
    >>> rows, back = ScoreFlattener()(torch.zeros(2, 3))
    >>> rows.shape, back(rows).shape
    (torch.Size([1, 6]), torch.Size([2, 3]))
    """

    def __repr__(self) -> str:
        return "ScoreFlattener()"


class OutputGroupScoreShaper(Groups):
    """Divide output features (dimension 0) into groups, like `structures.Groups(outputs=...)`.

    Args:
        num_groups: number of groups; must divide the weight's output dimension.
    """

    def __init__(self, num_groups: int) -> None:
        self.num_groups = check_groups("num_groups", num_groups)
        super().__init__(outputs=num_groups)

    def __repr__(self) -> str:
        return f"OutputGroupScoreShaper(num_groups={self.num_groups})"


class InputGroupScoreShaper(Groups):
    """Divide input features (dimension 1) into groups, like `structures.Groups(inputs=...)`.

    Args:
        num_groups: number of groups; must divide the weight's input dimension.
    """

    def __init__(self, num_groups: int) -> None:
        self.num_groups = check_groups("num_groups", num_groups)
        super().__init__(inputs=num_groups)

    def __repr__(self) -> str:
        return f"InputGroupScoreShaper(num_groups={self.num_groups})"
