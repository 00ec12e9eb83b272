"""A contest: entries of a weight that compete in rows, whether the weight is whole or sharded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sparsewright import kernels
from sparsewright.core.errors import OptionTypeError, ScoreError, ShapeError
from sparsewright.core.shapers import (
    InputGroupScoreShaper,
    OutputGroupScoreShaper,
    ScoreFlattener,
    ScoreShaper,
)
from sparsewright.kernels import sharded


class Contest(ABC):
    """Rows of competing entries of one weight.

    Attributes:
        rows: number of rows.
        n: entries in each row, on all ranks together.
    """

    rows: int
    n: int

    @abstractmethod
    def shape(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the weight, as its rows."""

    @abstractmethod
    def unshape(self, rows: Tensor) -> Tensor:
        """Rows back to the shape of the weight."""

    @abstractmethod
    def count(self, mask: Tensor) -> list[int]:
        """Number of True in each row of a mask that `shape` gave."""

    def select(
        self, score: Tensor, num: list[int], among: Tensor | None = None, magnitude: bool = False
    ) -> Tensor:
        """Per row, mark the `num[row]` largest scores among the candidates.

        Args:
            score: rows, floating point; complex only by magnitude.
            num: how many in each row; a row with fewer candidates marks them all.
            among: bool rows, the candidates; None: all entries.
            magnitude: rank by |score|, without making it.

        Returns:
            Bool rows; of equal scores the lower flat index is marked.

        Raises:
            ScoreError: NaN among the candidates.
        """
        if magnitude and score.is_complex():
            score, magnitude = score.abs(), False
        try:
            return self._select(score, num, among, magnitude)
        except kernels.NanError:
            raise ScoreError from None

    @abstractmethod
    def _select(
        self, score: Tensor, num: list[int], among: Tensor | None, magnitude: bool
    ) -> Tensor: ...


def make_contest(tensor: Tensor, shaper: ScoreShaper | None) -> Contest:
    """The contest among the entries of a weight.

    Args:
        tensor: shaped, and if sharded spread, like the weight.
        shaper: which entries compete; None: all.

    Raises:
        ShapeError: the shape does not fit the shaper.
        OptionTypeError: a shaper of the user's own, for a sharded weight.
    """
    shaper = shaper or ScoreFlattener()
    return (_Sharded if sharded.is_sharded(tensor) else _Whole)(tensor, shaper)


class _Whole(Contest):
    """Rows are `[rows, n]`."""

    def __init__(self, tensor: Tensor, shaper: ScoreShaper) -> None:
        self._shaper = shaper
        shaped, self._unshape = shaper(tensor)
        self.rows, self.n = shaped.shape

    def shape(self, tensor: Tensor) -> Tensor:
        return self._shaper(tensor)[0]

    def unshape(self, rows: Tensor) -> Tensor:
        return self._unshape(rows)

    def count(self, mask: Tensor) -> list[int]:
        return kernels.count_rows(mask).tolist()

    def _select(
        self, score: Tensor, num: list[int], among: Tensor | None, magnitude: bool
    ) -> Tensor:
        return kernels.select(score, num, among, magnitude)


class _Sharded(Contest):
    """Rows are this rank's entries, `[local numel]`, row after row: `lengths` of each."""

    def __init__(self, tensor: Tensor, shaper: ScoreShaper) -> None:
        self._like = tensor
        self._at = at = sharded.shards_of(tensor)
        part = sharded.local(tensor)
        shaped, _ = shaper(torch.empty(at.shape, device="meta"))
        self.rows, self.n = shaped.shape
        self._back: Callable[[Tensor], Tensor] = lambda rows: rows.reshape(part.shape)
        self._shaper: ScoreShaper = ScoreFlattener()
        if isinstance(shaper, ScoreFlattener):
            self._lengths = [part.numel()]
        elif isinstance(shaper, InputGroupScoreShaper):
            self._shaper = shaper
            own, back = shaper(part)
            self._back = lambda rows: back(rows.reshape(own.shape))
            self._lengths = [own.shape[1]] * self.rows
        elif isinstance(shaper, OutputGroupScoreShaper):
            starts = torch.arange(self.rows + 1, device="cpu") * (at.shape[0] // self.rows)
            within = (starts - at.first).clamp(0, part.shape[0])
            self._lengths = (within.diff() * at.shape[1:].numel()).tolist()
        else:
            raise OptionTypeError("score_shaper", shaper, "for sharded weights: those of utils")

    def shape(self, tensor: Tensor) -> Tensor:
        if not sharded.is_sharded(tensor) or tensor.shape != self._at.shape:
            raise ShapeError("a score", tensor.shape, f"the weight is sharded, {self._at.shape}")
        return self._shaper(sharded.local(tensor))[0].reshape(-1)

    def unshape(self, rows: Tensor) -> Tensor:
        return sharded.from_local(self._back(rows), self._like)

    def count(self, mask: Tensor) -> list[int]:
        return sharded.count_rows(mask, self._lengths, self._at.group).tolist()

    def _select(
        self, score: Tensor, num: list[int], among: Tensor | None, magnitude: bool
    ) -> Tensor:
        at = self._at
        return sharded.select(score, self._lengths, num, among, magnitude, at.group, at.index)
