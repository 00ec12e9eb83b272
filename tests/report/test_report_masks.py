"""Test mask statistics against counts of single connections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsewright.formats.mask_bits import Mask, count_bits, pack_bits
from sparsewright.report import mask_statistics as m

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=19)
masks = hnp.arrays(bool, shapes)
pairs = shapes.flatmap(lambda s: st.tuples(hnp.arrays(bool, s), hnp.arrays(bool, s)))


@given(pairs)
def test_overlap_is_that_of_the_sets(pair: tuple[Mask, Mask]) -> None:
    a, b = ({i for i, live in enumerate(mask.flat) if live} for mask in pair)
    both = count_bits(pack_bits(pair[0]) & pack_bits(pair[1]))
    assert both == len(a & b)
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert m.jaccard(len(a), len(b), both) == pytest.approx(expected)


def test_chance_is_what_random_masks_give() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        a, b = (generator.permutation(np.arange(1000) < kept) for kept in (300, 100))
        found.append(m.jaccard(300, 100, int((a & b).sum())))
    assert np.mean(found) == pytest.approx(m.chance_jaccard(300, 100, 1000), rel=0.02)
    assert m.chance_jaccard(300, 100, 1000) != pytest.approx(m.chance_jaccard(300, 300, 1000))


@given(masks)
def test_dead_rows_and_columns(mask: Mask) -> None:
    expected = [i for i, row in enumerate(mask.tolist()) if not any(row)]
    assert m.dead_rows(mask).tolist() == expected
    columns = [i for i in range(mask.shape[1]) if not any(row[i] for row in mask.tolist())]
    assert m.dead_rows(mask.T).tolist() == columns


@given(masks, st.integers(1, 24))
def test_density_is_the_live_share_of_each_cell(mask: Mask, cells: int) -> None:
    rows, columns = (min(size, cells) for size in mask.shape)
    shares = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            r = slice(i * mask.shape[0] // rows, (i + 1) * mask.shape[0] // rows)
            c = slice(j * mask.shape[1] // columns, (j + 1) * mask.shape[1] // columns)
            shares[i, j] = mask[r, c].mean()
    grid, peak = m.density(mask, cells)
    assert peak == pytest.approx(shares.max())
    assert ((grid == 0) == (shares == 0)).all()
    np.testing.assert_allclose(grid / 255 * peak, shares, atol=max(peak, 1e-9) / 255)


def test_a_cell_with_one_live_connection_does_not_look_empty() -> None:
    mask = np.zeros((60, 60), dtype=bool)
    mask[:30, :30] = True
    mask[59, 59] = True
    assert m.density(mask, 2)[0].tolist() == [[255, 0], [0, 1]]
