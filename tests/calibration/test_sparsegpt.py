"""SparseGPT and reconstruction, against the textbook update with explicit inverse Hessians."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsewright as sparse
from helpers.calibrated import keep_best
from sparsewright.core.counts import num_kept


def made(seed, outputs, inputs, tokens, dead=False):
    """Return a float64 layer and correlated inputs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layer = nn.Linear(inputs, outputs).double()
    layer.weight.data = draw(outputs, inputs)
    x = draw(tokens, inputs) @ (draw(inputs, inputs) / inputs**0.5 + torch.eye(inputs)) + 0.1
    if dead:
        x[:, seed % inputs] = 0
    return layer, x


def pruned(layer, x, **config):
    weight = layer.weight.detach().clone()
    sparsity = sparse.oneshot(layer, {"param_filter": "weight", **config}, [x])
    mask, new = sparsity.sparse_params["weight"].mask.clone(), layer.weight.detach().clone()
    sparsity.remove()
    layer.weight.data = weight
    return mask, new


def hessian(x, damping):
    products = x.T @ x
    diagonal = products.diag()
    dead = diagonal == 0
    mean = diagonal[~dead].mean() if bool((~dead).any()) else torch.ones(()).double()
    return products + torch.diag(torch.where(dead, mean, 0.0) + damping * mean)


def slow_sparsegpt(weight, x, choose, step, damping=0.01, block=None):
    """Remove columns from left to right; the remaining columns absorb each removed weight.

    After each column, the inverse Hessian of the remaining columns is computed again. Removing
    weight `w_j` adds `-w_j * G_j / G_jj` to the remaining ones, with G this inverse.
    """
    weight, size = weight.clone(), weight.shape[1]
    weight[:, x.square().sum(0) == 0] = 0
    full, mask = hessian(x, damping), torch.ones_like(weight, dtype=torch.bool)
    corners = [1 / torch.linalg.inv(full[j:, j:])[0, 0] for j in range(size)]
    for j in range(size):
        start = j % block if block else j
        if start % step == 0:
            end = min(j + step, size if block is None else j - start + block)
            score = weight[:, j:end] ** 2 * torch.stack(corners[j:end])
            mask[:, j:end] = choose(score, j, min(end, size))
        rest = torch.linalg.inv(full[j:, j:])
        lost = torch.where(mask[:, j], 0.0, weight[:, j])
        weight[:, j:] -= lost[:, None] * rest[0] / rest[0, 0]
    return mask, weight.masked_fill(~mask, 0)


def tile(level):
    def choose(score, start, end):
        kept = num_kept(level, score.numel())
        return keep_best(score.reshape(1, -1), kept).reshape(score.shape)

    return choose


SIZES = (st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.booleans())


@given(*SIZES, st.sampled_from([0.0, 0.3, 0.5, 0.8]), st.sampled_from([3, 4, 8, 128]))
def test_tiles_agree_with_the_textbook(seed, outputs, fours, dead, level, block):
    layer, x = made(seed, outputs, 4 * fours, 25, dead)
    mask, new = pruned(layer, x, method="sparsegpt", sparsity=level, block=block)
    weight = layer.weight.detach()
    expected, updated = slow_sparsegpt(weight, x, tile(level), block, block=block)
    assert torch.equal(mask, expected)
    torch.testing.assert_close(new, updated, rtol=1e-6, atol=1e-9)


@given(*SIZES, st.sampled_from([1, 2, 3]))
def test_groups_of_n_m_agree_with_the_textbook(seed, outputs, fours, dead, n):
    layer, x = made(seed, outputs, 4 * fours, 25, dead)
    mask, new = pruned(layer, x, method="sparsegpt", structure=f"{n}:4", block=8)
    weight = layer.weight.detach()
    choose = lambda score, start, end: keep_best(score, n)  # noqa: E731
    expected, updated = slow_sparsegpt(weight, x, choose, 4)
    assert torch.equal(mask, expected)
    torch.testing.assert_close(new, updated, rtol=1e-6, atol=1e-9)


@given(*SIZES)
def test_a_given_structure_is_chosen_first(seed, outputs, fours, dead):
    layer, x = made(seed, outputs, 4 * fours, 25, dead)
    mask, new = pruned(layer, x, method="sparsegpt", sparsity=0.5, structure="fan_in")
    weight = layer.weight.detach().masked_fill(x.square().sum(0) == 0, 0)
    score = weight**2 / torch.linalg.inv(hessian(x, 0.01)).diag()
    assert torch.equal(mask, keep_best(score, 2 * fours))
    choose = lambda _, start, end: mask[:, start:end]  # noqa: E731
    _, updated = slow_sparsegpt(layer.weight.detach(), x, choose, 1)
    torch.testing.assert_close(new, updated, rtol=1e-6, atol=1e-9)


@given(*SIZES, st.sampled_from(["wanda", "magnitude", "ria", "dsnot"]))
def test_reconstruct_corrects_the_mask_of_another_method(seed, outputs, fours, dead, method):
    layer, x = made(seed, outputs, 4 * fours, 25, dead)
    config = {"method": method, "sparsity": 0.5}
    mask, _ = pruned(layer, x, **config)
    again, new = pruned(layer, x, **config, reconstruct=True)
    assert torch.equal(mask, again)
    choose = lambda _, start, end: mask[:, start:end]  # noqa: E731
    _, updated = slow_sparsegpt(layer.weight.detach(), x, choose, 1)
    torch.testing.assert_close(new, updated, rtol=1e-6, atol=1e-9)


def loss(weight, new, full):
    return float(((weight - new) @ full * (weight - new)).sum())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
def test_the_loss_is_between_the_optimum_and_that_of_the_mask_alone(seed, method):
    layer, x = made(seed, 6, 24, 60)
    weight, full = layer.weight.detach().clone(), hessian(x, 0.01)
    mask, new = pruned(layer, x, method=method, sparsity=0.5, reconstruct=True)
    best = torch.zeros_like(weight)
    for row, live in enumerate(mask):  # least squares on the support of each row
        target = (full @ weight[row])[live]
        best[row, live] = torch.linalg.solve(full[live][:, live], target)
    optimum, found = loss(weight, best, full), loss(weight, new, full)
    assert optimum <= found * (1 + 1e-9)
    assert found < loss(weight, weight * mask, full)


def test_orthonormal_inputs_give_magnitude_without_update():
    layer, x = nn.Linear(12, 5).double(), torch.eye(12, dtype=torch.float64)
    mask, new = pruned(layer, x, method="sparsegpt", sparsity=0.5, block=4)
    parts = [keep_best(c.abs().reshape(1, -1), 10).reshape(5, 4) for c in layer.weight.split(4, 1)]
    assert torch.equal(mask, torch.cat(parts, 1))
    torch.testing.assert_close(new, layer.weight * mask)


def test_dead_features_lose_their_weights():
    layer, x = made(0, 4, 8, 30)
    x[:, [2, 5]] = 0
    mask, new = pruned(layer, x, method="sparsegpt", sparsity=0.25)
    assert not bool(mask[:, [2, 5]].any())  # they have the lowest scores
    assert int(mask.sum()) == 24
    mask, new = pruned(layer, x, method="sparsegpt", sparsity=0.0)
    assert bool(mask.all())
    assert bool((new[:, [2, 5]] == 0).all())
    others = [0, 1, 3, 4, 6, 7]
    torch.testing.assert_close(new[:, others], layer.weight.detach()[:, others])


def test_all_features_dead():
    layer = nn.Linear(4, 3)
    mask, new = pruned(layer, torch.zeros(5, 4), method="sparsegpt", sparsity=0.5)
    assert int(mask.sum()) == 6
    assert bool((new == 0).all())


def test_more_damping_is_added_until_the_hessian_is_positive_definite(caplog):
    layer, x = made(1, 3, 6, 40)
    x = x[:, :1].expand(-1, 6).clone()  # one direction only, so damping alone makes H regular
    with caplog.at_level(logging.WARNING, "sparsewright"):
        _, new = pruned(layer, x, method="sparsegpt", sparsity=0.5, damping=1e-18)
    (record,) = caplog.records
    assert record.getMessage() == (
        "weight: the Hessian of its inputs is not positive definite with damping 1e-18, so damping "
        "1e-15 is used; more calibration data may help"
    )
    assert bool(new.isfinite().all())


def test_a_hessian_that_stays_singular_is_an_error():
    layer, x = made(1, 3, 6, 40)
    x = x[:, :1].expand(-1, 6).clone()
    before = layer.weight.detach().clone()
    message = (
        r"^weight: the Hessian of its inputs is not positive definite, even with damping 1e-23; "
        r"check the calibration data, or use method 'wanda'$"
    )
    with pytest.raises(sparse.errors.CalibrationError, match=message):
        pruned(layer, x, method="sparsegpt", sparsity=0.5, damping=1e-30)
    assert torch.equal(layer.weight, before)


def test_a_block_must_hold_whole_groups():
    layer, x = made(1, 3, 8, 40)
    message = r"^weight of shape \(3, 8\): block = 6 is not divisible by m = 4$"
    with pytest.raises(sparse.errors.ShapeError, match=message):
        pruned(layer, x, method="sparsegpt", structure="2:4", block=6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_their_dtype(dtype):
    layer, x = made(2, 6, 16, 40)
    exact, _ = pruned(layer, x, method="sparsegpt", sparsity=0.5)
    layer, x = layer.to(dtype), x.to(dtype)
    mask, new = pruned(layer, x, method="sparsegpt", sparsity=0.5)
    assert new.dtype == dtype
    assert float((mask == exact).double().mean()) > 0.95
    assert int(mask.sum()) == 48
    same = layer.float()
    _, single = pruned(same, x.float(), method="sparsegpt", sparsity=0.5)
    assert torch.equal(new, single.to(dtype))  # computed in float32, and rounded once
