"""Score shapers: which entries of a weight compete with each other for a place in the mask.

A shaper turns a tensor shaped like the weight into `[rows, competing entries]`, every row its own
contest, and hands back the way to undo it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from sparsewright.core.errors import OptionError, OptionTypeError, ShapeError

Unshaper = Callable[[Tensor], Tensor]


class ScoreShaper(ABC):
    """Reshapes scores into rows of entries that compete."""

    @abstractmethod
    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Shape a tensor for a contest.

        Args:
            tensor: scores or a mask, shaped like the weight.

        Returns:
            The tensor as `[rows, n]`, entries of a row in ascending flat index, and a function
            that takes a tensor of that shape back to the weight's shape.

        Raises:
            ShapeError: the weight's shape does not fit.
        """


class ScoreFlattener(ScoreShaper):
    """One row: all entries of the weight compete.

    >>> rows, back = ScoreFlattener()(torch.zeros(2, 3))
    >>> rows.shape, back(rows).shape
    (torch.Size([1, 6]), torch.Size([2, 3]))
    """

    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Shape to `[1, numel]`."""
        shape = tensor.shape
        return tensor.reshape(1, -1), lambda rows: rows.reshape(shape)

    def __repr__(self) -> str:
        return "ScoreFlattener()"


class _GroupScoreShaper(ScoreShaper):
    """Divides one dimension of the weight into `num_groups` groups; each is a row."""

    dim: int
    side: str

    def __init__(self, num_groups: int) -> None:
        if isinstance(num_groups, bool) or not isinstance(num_groups, int):
            raise OptionTypeError("num_groups", num_groups, "an integer >= 1")
        if num_groups < 1:
            raise OptionError("num_groups", num_groups, "an integer >= 1")
        self.num_groups = num_groups

    def __call__(self, tensor: Tensor) -> tuple[Tensor, Unshaper]:
        """Shape to `[num_groups, numel / num_groups]`."""
        if tensor.ndim <= self.dim:
            raise ShapeError("a weight", tensor.shape, f"it has no {self.side} dimension")
        size, groups = tensor.shape[self.dim], self.num_groups
        if size % groups:
            raise ShapeError(
                "a weight",
                tensor.shape,
                f"its {self.side} dimension {size} cannot be divided into {groups} equal groups; "
                f"nearest that divide it: {_divisors_around(size, groups)}",
            )
        split = tensor.unflatten(self.dim, (groups, size // groups)).movedim(self.dim, 0)
        shape = split.shape

        def unshape(rows: Tensor) -> Tensor:
            shaped = rows.reshape(shape).movedim(0, self.dim)
            return shaped.flatten(self.dim, self.dim + 1).contiguous()

        return split.reshape(groups, tensor.numel() // groups), unshape

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_groups={self.num_groups})"


def _divisors_around(size: int, groups: int) -> str:
    """The divisors of a size next below and above a number that does not divide it."""
    below = next((n for n in range(min(groups, size), 0, -1) if size % n == 0), None)
    above = next((n for n in range(groups, size + 1) if size % n == 0), None)
    return ", ".join(str(n) for n in (below, above) if n is not None)


class OutputGroupScoreShaper(_GroupScoreShaper):
    """Groups of output features (dimension 0): each keeps its own equal share.

    Args:
        num_groups: how many groups; must divide the weight's output dimension.

    >>> rows, _ = OutputGroupScoreShaper(2)(torch.arange(8).reshape(4, 2))
    >>> rows.tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    """

    dim, side = 0, "output"


class InputGroupScoreShaper(_GroupScoreShaper):
    """Groups of input features (dimension 1): each keeps its own equal share.

    Args:
        num_groups: how many groups; must divide the weight's input dimension.

    >>> rows, _ = InputGroupScoreShaper(2)(torch.arange(8).reshape(2, 4))
    >>> rows.tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """

    dim, side = 1, "input"
