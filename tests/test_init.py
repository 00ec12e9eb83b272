"""Mask initializers."""

import pytest
import torch
from hypothesis import given
from torch import nn

from helpers.twins import DTYPES, as_mask, best, contests, kept_exactly, levels, rows_of, scores
from sparsewright import SET, Static, init
from sparsewright.errors import LevelError, OptionError, OptionTypeError, ScoreError
from sparsewright.utils import InputGroupScoreShaper, OutputGroupScoreShaper

METHODS = [init.random, init.topk, init.checkerboard]


def shaper_of(dim, groups):
    return {None: lambda _: None, 0: OutputGroupScoreShaper, 1: InputGroupScoreShaper}[dim](groups)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@given(contest=contests(), level=levels)
def test_every_row_keeps_exactly_its_count(method, contest, level):
    shape, dim, groups = contest
    shaper = shaper_of(dim, groups)
    mask = method(torch.randn(shape), level, shaper)
    assert mask.dtype == torch.bool
    assert mask.shape == shape
    flat = mask.flatten().tolist()
    for row in rows_of(shape, dim, groups):
        assert sum(flat[index] for index in row) == kept_exactly(level, len(row))


@pytest.mark.parametrize("method", [*METHODS, init.from_zeros], ids=lambda method: method.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_signature_dtypes_and_device(method, dtype):
    p = torch.nn.Parameter(torch.randn(6, 4).to(dtype))
    mask = method(p, 0.5, score_shaper=None, device=None)
    assert mask.device == p.device
    assert not mask.requires_grad
    assert torch.equal(method(p, torch.tensor(0.0), None, "cpu"), torch.ones(6, 4) > 0)
    if method in (init.random, init.checkerboard):
        elsewhere = method(p.detach().to("meta"), 0.5, device="cpu")
        assert elsewhere.device.type == "cpu"
        assert elsewhere.sum() == 12
    assert method is init.from_zeros or not method(p, 1.0).any()


@given(contests(), levels)
def test_topk_keeps_the_largest_magnitudes(contest, level):
    shape, dim, groups = contest
    p = torch.randn(shape).mul(3).round()
    flat = p.abs().flatten().tolist()
    chosen = set()
    for row in rows_of(shape, dim, groups):
        chosen |= best(flat, row, kept_exactly(level, len(row)))
    assert torch.equal(init.topk(p, level, shaper_of(dim, groups)), as_mask(shape, chosen))


@given(scores((4, 5)), levels)
def test_from_zeros_is_where_the_weight_is_not_zero(p, level):
    assert torch.equal(init.from_zeros(p, level), p != 0)


@given(contests(), levels)
def test_checkerboard_is_as_even_as_it_can_be_along_the_last_dimension(contest, level):
    shape, _, _ = contest
    if torch.Size(shape).numel() == 0:
        return
    mask = init.checkerboard(torch.ones(shape), level).reshape(-1, shape[-1])
    density = 1 - level
    for line in mask.int():
        count = int(line.sum())
        # The count in every line differs from the average by less than two.
        assert abs(count - density * shape[-1]) < 2


def test_checkerboard_alternates_at_one_half_in_any_number_of_dimensions():
    for shape in ((7,), (4, 6), (3, 4, 5), (2, 3, 4, 5)):
        mask = init.checkerboard(torch.ones(shape), 0.5)
        for dim in range(mask.ndim):
            left = mask.narrow(dim, 0, shape[dim] - 1)
            right = mask.narrow(dim, 1, shape[dim] - 1)
            assert (left ^ right).all()


def test_random_is_uniform():
    counts = torch.zeros(4, 5)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2000):
        counts += init.random(counts, 0.75, generator=generator)
    assert counts.sum() == 2000 * 5
    # 2000 draws with probability 1/4 have a standard deviation of 19.4.
    assert (counts - 500).abs().max() < 5 * 19.4


def test_random_uses_the_generator_given_and_else_the_global_one():
    p = torch.zeros(20, 20)
    first, second = (
        init.random(p, 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    torch.manual_seed(5)
    third = init.random(p, 0.5)
    assert not torch.equal(init.random(p, 0.5), third)
    torch.manual_seed(5)
    assert torch.equal(init.random(p, 0.5), third)


def test_topk_of_nan_raises_and_levels_out_of_range_raise():
    with pytest.raises(ScoreError):
        init.topk(torch.tensor([1.0, float("nan")]), 0.5)
    for method in METHODS:
        with pytest.raises(LevelError):
            method(torch.ones(3), 1.1)


@pytest.mark.parametrize("name", ["random", "topk", "from_zeros", "checkerboard"])
def test_methods_by_name(name):
    assert init.make_init_method(name) is getattr(init, name)
    assert init.make_init_method(name.upper()) is getattr(init, name)


def test_functions_are_taken_as_they_are():
    def keep_all(p, sparsity):
        return torch.ones_like(p, dtype=torch.bool)

    assert init.make_init_method(keep_all) is keep_all


@pytest.mark.parametrize(
    "function",
    [
        lambda p, sparsity: p > 0,
        lambda p, sparsity, score_shaper=None, device=None: (p > 0).to(device),
        lambda p, sparsity, **rest: p > 0,
        lambda p, sparsity, device=None: (p > 0).to(device),
    ],
)
def test_functions_need_no_annotations_and_may_leave_arguments_out(function):
    layer = torch.nn.Linear(5, 4)
    expected = layer.weight.detach() > 0
    sparsity = Static(0.5, function)
    sparsity.apply(torch.nn.Sequential(layer))
    assert torch.equal(sparsity.sparse_params["0.weight"].mask, expected)


def test_a_function_gets_the_level_as_a_0d_tensor():
    seen = []
    sparsity = Static(0.25, lambda p, sparsity: seen.append(sparsity) or p.detach() > 0)
    sparsity.apply(torch.nn.Sequential(torch.nn.Linear(3, 3)))
    assert [float(level) for level in seen] == [0.25]
    assert seen[0].shape == ()


def test_a_function_that_returns_no_mask_raises_and_names_the_parameter():
    for wrong in (lambda p, sparsity: p, lambda p, sparsity: None):
        with pytest.raises(
            OptionTypeError, match=r"^the new mask of 0.weight must be a bool tensor with the shape"
        ):
            Static(0.5, wrong).apply(torch.nn.Sequential(torch.nn.Linear(3, 3)))


def test_bad_methods_raise():
    with pytest.raises(OptionError, match=r"^unknown init_method 'rnadom'; did you mean 'random'"):
        init.make_init_method("rnadom")
    for wrong in (None, 3, ["random"]):
        with pytest.raises(OptionTypeError, match="init_method"):
            init.make_init_method(wrong)


@pytest.mark.parametrize(("level", "kept"), [(1 / 3, 200), (2 / 3, 100), ([1 / 3, 0.5], 200)])
def test_a_level_is_read_as_it_was_given(level, kept):
    model = nn.Linear(15, 20)
    SET(sparsity=level, update=1).apply(model)
    assert int(model.weight_mask.sum()) == kept
