"""Static sparsity: one mask for the whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch.optim import Optimizer

from sparsewright.base import SparsityAlgorithm
from sparsewright.errors import LevelError, OptionError
from sparsewright.init import InitMethod, from_zeros, make_init_method
from sparsewright.schedules.schedule import constant_value
from sparsewright.session.settings import Choices, LevelLike

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Static"]


class Static(SparsityAlgorithm):
    """Keep one mask for the whole run.

    Args:
        sparsity: a constant level, `0 <= sparsity < 1`: an int, a float, a constant schedule, or a
            mapping `{parameter: level}`. It may be None in two cases: with
            `init_method="from_zeros"`, which prunes exactly the zeros of the weight, or with a
            structure that has only one level.
        init_method: makes the mask, as for `SparsityAlgorithm`.
        choices: `seed`, `distribution`, `structure` and `storage`, as for `SparsityAlgorithm`.

    Raises:
        OptionError: the level is a schedule that is not constant.
        LevelError: the level is outside `0 <= sparsity < 1`.
    """

    name: ClassVar[str] = "static"

    def __init__(
        self,
        sparsity: LevelLike | None = None,
        init_method: str | InitMethod = "random",
        **choices: Unpack[Choices],
    ) -> None:
        if sparsity is None and make_init_method(init_method) is from_zeros:
            sparsity = 0
        super().__init__(sparsity, init_method, **choices)
        for name, schedule in self.schedules.items():
            level = constant_value(schedule)
            if level is None:
                advice = "For a level that changes, use GMP."
                raise OptionError(f"{name} of Static", schedule, "constant", advice=advice)
            if level == 1:
                raise LevelError(f"{name} of Static", level, "at least 0 and less than 1")

    def update(self, optimizer: Optimizer | None = None) -> None:
        """Count a step and prune the weights that it wrote.

        Args:
            optimizer: the optimizer that stepped; None means that all parameters were stepped.
        """
        with self.session.stepping(optimizer, [self]):
            pass
