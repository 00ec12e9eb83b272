"""Score shapers, compared with index arithmetic in plain Python."""

import pytest
import torch
from hypothesis import given

from helpers.twins import contests, rows_of
from sparsewright.errors import OptionError, OptionTypeError, ShapeError
from sparsewright.utils import (
    InputGroupScoreShaper,
    OutputGroupScoreShaper,
    ScoreFlattener,
    ScoreShaper,
)


@given(contests())
def test_rows_hold_the_flat_indices_of_their_group_in_order(contest):
    shape, dim, groups = contest
    shaper = {None: ScoreFlattener, 0: OutputGroupScoreShaper, 1: InputGroupScoreShaper}[dim](
        *([] if dim is None else [groups])
    )
    flat = torch.arange(torch.Size(shape).numel()).reshape(shape)
    rows, unshape = shaper(flat)
    assert rows.tolist() == rows_of(shape, dim, groups)
    assert torch.equal(unshape(rows), flat)


def test_the_unshaper_takes_another_dtype():
    rows, unshape = InputGroupScoreShaper(2)(torch.randn(3, 4, 2))
    assert unshape(rows > 0).dtype == torch.bool
    assert unshape(rows > 0).shape == (3, 4, 2)


def test_all_are_score_shapers_and_the_base_is_abstract():
    for shaper in (
        ScoreFlattener(),
        OutputGroupScoreShaper(2),
        InputGroupScoreShaper(num_groups=2),
    ):
        assert isinstance(shaper, ScoreShaper)
    with pytest.raises(TypeError, match=r"abstract"):
        ScoreShaper()


@pytest.mark.parametrize(
    ("shaper", "shape", "message"),
    [
        (OutputGroupScoreShaper(4), (6, 8), r"shape \(6, 8\): its output dimension 6 .* 4 equal"),
        (InputGroupScoreShaper(3), (6, 8), r"shape \(6, 8\): its input dimension 8 .* 3 equal"),
        (InputGroupScoreShaper(1), (6,), r"shape \(6,\): it has no input dimension"),
        (OutputGroupScoreShaper(1), (), r"shape \(\): it has no output dimension"),
    ],
)
def test_shapes_that_do_not_fit_raise(shaper, shape, message):
    with pytest.raises(ShapeError, match=message):
        shaper(torch.zeros(shape))


@pytest.mark.parametrize("make", [OutputGroupScoreShaper, InputGroupScoreShaper])
def test_bad_numbers_of_groups_raise(make):
    with pytest.raises(OptionError, match=r"^num_groups must be an integer >= 1; got 0\.$"):
        make(0)
    for wrong in (2.0, "2", True, None):
        with pytest.raises(OptionTypeError, match=r"num_groups"):
            make(wrong)


def test_representations_name_the_groups():
    assert repr(InputGroupScoreShaper(2)) == "InputGroupScoreShaper(num_groups=2)"
    assert repr(ScoreFlattener()) == "ScoreFlattener()"


def test_what_comes_back_is_contiguous():
    rows, back = InputGroupScoreShaper(2)(torch.zeros(2, 2))
    assert back(rows).is_contiguous()
