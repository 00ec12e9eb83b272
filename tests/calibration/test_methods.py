"""Scores and masks of the one-shot methods, against plain float64 references."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsewright as sparse
from helpers.calibrated import keep_best
from sparsewright.core.counts import num_kept

LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.9])


@st.composite
def layers(draw, dead=True):
    """Draw a linear layer and its inputs, both float64."""
    outputs, inputs = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    tokens = draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    layer = nn.Linear(inputs, outputs).double()
    layer.weight.data = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64)
    x = x * torch.rand(inputs, generator=generator, dtype=torch.float64) + 0.3
    if dead and draw(st.booleans()):
        x[:, draw(st.integers(0, inputs - 1))] = 0
    if draw(st.booleans()):  # ties
        layer.weight.data.mul_(2).round_()
    return layer, x


def pruned(layer, x, **config):
    """Return the mask and the weight after one-shot pruning of a layer with these inputs."""
    weight = layer.weight.detach().clone()
    sparsity = sparse.oneshot(layer, {"param_filter": "weight", **config}, [x])
    mask, new = sparsity.sparse_params["weight"].mask.clone(), layer.weight.detach().clone()
    sparsity.remove()
    layer.weight.data = weight
    return mask, new


@given(layers(), LEVELS)
def test_magnitude(case, level):
    layer, x = case
    size = layer.weight.detach().abs().reshape(1, -1)
    expected = keep_best(size, num_kept(level, size.numel())).reshape(layer.weight.shape)
    mask, new = pruned(layer, x, method="magnitude", sparsity=level)
    assert torch.equal(mask, expected)
    assert torch.equal(new, layer.weight * expected)


@given(layers(), LEVELS)
def test_wanda(case, level):
    layer, x = case
    score = layer.weight.detach().abs() * x.square().sum(0).sqrt()
    mask, new = pruned(layer, x, method="wanda", sparsity=level)
    assert torch.equal(mask, keep_best(score, num_kept(level, x.shape[1])))
    assert torch.equal(new, layer.weight * mask)


@given(layers(), LEVELS, st.sampled_from([0.0, 0.5, 1.0]))
def test_ria(case, level, power):
    layer, x = case
    size = layer.weight.detach().abs()
    columns, rows = size.sum(0, keepdim=True), size.sum(1, keepdim=True)
    score = torch.nan_to_num(size / columns) + torch.nan_to_num(size / rows)
    score = score * x.square().sum(0).sqrt() ** power
    mask, new = pruned(layer, x, method="ria", sparsity=level, power=power)
    kept = num_kept(level, size.numel())
    assert int(mask.sum()) == kept
    # Sums in another order differ in the last bit, so only scores that differ more are compared.
    if 0 < kept < size.numel():
        assert float(score[mask].min()) >= float(score[~mask].max()) * (1 - 1e-12)
    assert torch.equal(new, layer.weight * mask)


def error(weight, mask, x):
    """Return DSnoT's error of each output: the sum of its pruned contributions."""
    return (weight * x.mean(0)).masked_fill(mask, 0).sum(1)


@given(layers(), st.sampled_from([0.25, 0.5, 0.75]), st.sampled_from(["wanda", "magnitude", "ria"]))
def test_dsnot_never_raises_the_error_and_keeps_the_counts(case, level, start):
    layer, x = case
    structure = "fan_in"
    first, _ = pruned(layer, x, method=start, sparsity=level, structure=structure)
    options = {"sparsity": level, "start": start, "threshold": 0.0, "structure": structure}
    mask, new = pruned(layer, x, method="dsnot", **options)
    weight = layer.weight.detach()
    before, after = error(weight, first, x).abs(), error(weight, mask, x).abs()
    assert bool((after <= before + 1e-12).all())
    assert torch.equal(mask.sum(1), first.sum(1))
    assert torch.equal(new, weight * mask)


def slow_dsnot(weight, mask, x, rounds, threshold, contest):
    """Swap connections of each row one at a time, as the definition says."""
    mask, mean, variance = mask.clone(), x.mean(0), x.var(0, correction=0)
    norm = x.square().sum(0).sqrt()
    for row in range(len(weight)):
        for _ in range(rounds):
            change = (weight[row] * mean).tolist()
            live = mask[row].tolist()
            e = sum(c for c, alive in zip(change, live, strict=True) if not alive)
            if abs(e) < threshold:
                break
            gone = [j for j, alive in enumerate(live) if not alive and change[j] * e > 0]
            if not gone:
                break
            revived = max(gone, key=lambda j: abs(change[j]) / float(variance[j]))
            rivals = [
                j
                for j, alive in enumerate(live)
                if alive and change[j] * e < 0 and contest(j) == contest(revived)
            ]
            if not rivals:
                break
            dropped = min(rivals, key=lambda j: float(weight[row, j].abs() * norm[j]))
            if abs(e - change[revived] + change[dropped]) >= abs(e):
                break
            mask[row, revived], mask[row, dropped] = True, False
    return mask


@given(st.integers(0, 10**6), st.sampled_from([None, "2:4"]), st.integers(0, 6))
def test_dsnot_makes_the_swaps_of_its_definition(seed, structure, rounds):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(12, 5).double()
    layer.weight.data = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    x = torch.randn(30, 12, generator=generator, dtype=torch.float64) + 0.4
    config = {"sparsity": 0.5, "structure": structure}
    first, _ = pruned(layer, x, method="wanda", **config)
    mask, _ = pruned(layer, x, method="dsnot", rounds=rounds, threshold=0.05, **config)
    group = (lambda j: j // 4) if structure else (lambda j: 0)
    assert torch.equal(mask, slow_dsnot(layer.weight.detach(), first, x, rounds, 0.05, group))


@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "dsnot", "sparsegpt"])
@pytest.mark.parametrize("structure", ["2:4", "1:4", "4:8"])
def test_n_m_holds_in_every_group(method, structure):
    layer, x = nn.Linear(16, 6).double(), torch.randn(40, 16, dtype=torch.float64)
    mask, new = pruned(layer, x, method=method, structure=structure)
    n, m = map(int, structure.split(":"))
    assert bool((mask.reshape(-1, m).sum(1) == n).all())
    assert torch.equal(new != 0, mask)


@pytest.mark.parametrize(
    "structure",
    [
        *("unstructured", "fan_in", {"type": "fan_in", "ablate": 0.1}),
        *({"type": "block", "shape": [2, 4]}, {"type": "channel", "axis": 0}),
        *({"type": "channel", "axis": 1}, {"type": "groups", "inputs": 4}),
        *({"type": "groups", "outputs": 2}, {"type": "n_m", "n": 2, "m": 4, "transposable": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "sparsegpt"])
def test_every_structure_selects_from_the_scores(method, structure):
    layer, x = nn.Linear(16, 8).double(), torch.randn(40, 16, dtype=torch.float64)
    mask, new = pruned(layer, x, method=method, sparsity=0.5, structure=structure)
    own = sparse.structures.make_structure(structure)
    assert torch.equal(mask, own.topk(mask.double(), 0.5))  # the mask is valid for the structure
    assert bool((new[~mask] == 0).all())
    size = layer.weight.detach().abs()
    if method in ("magnitude", "wanda"):
        score = size * (x.square().sum(0).sqrt() if method == "wanda" else 1)
        assert torch.equal(mask, own.topk(score, 0.5))


@pytest.mark.parametrize("structure", [None, "2:4", {"type": "groups", "inputs": 2}])
def test_wanda_with_equal_norms_is_magnitude_in_each_row(structure):
    layer, x = nn.Linear(8, 8).double(), torch.eye(8, dtype=torch.float64)
    wanda, _ = pruned(layer, x, method="wanda", sparsity=0.5, structure=structure)
    rows = structure or "fan_in"
    magnitude, _ = pruned(layer, x, method="magnitude", sparsity=0.5, structure=rows)
    assert torch.equal(wanda, magnitude)


def test_ria_without_activations_and_with_constant_sums_is_magnitude():
    layer, x = nn.Linear(4, 4).double(), torch.randn(9, 4, dtype=torch.float64)
    layer.weight.data = torch.tensor(
        [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 1.0], [3.0, 4.0, 1.0, 2.0], [4.0, 1.0, 2.0, 3.0]]
    ).double()
    ria, _ = pruned(layer, x, method="ria", sparsity=0.5, power=0)
    magnitude, _ = pruned(layer, x, method="magnitude", sparsity=0.5)
    assert torch.equal(ria, magnitude)


def test_a_row_of_zeros_has_no_relative_importance():
    layer, x = nn.Linear(4, 2).double(), torch.randn(9, 4, dtype=torch.float64)
    layer.weight.data[0] = 0
    mask, _ = pruned(layer, x, method="ria", sparsity=0.5)
    assert mask.tolist() == [[False] * 4, [True] * 4]


def test_dsnot_needs_single_connections():
    layer, x = nn.Linear(8, 8), torch.randn(9, 8)
    message = (
        r"^structure=<Block of shape \(4, 4\)> does not work with method='dsnot', which swaps "
        r"single connections of an output\.$"
    )
    with pytest.raises(sparse.errors.IncompatibleOptionError, match=message):
        pruned(layer, x, method="dsnot", sparsity=0.5, structure={"type": "block"})
    structure = {"type": "n_m", "n": 2, "m": 4, "transposable": True}
    with pytest.raises(sparse.errors.IncompatibleOptionError, match="swaps single connections"):
        pruned(layer, x, method="dsnot", structure=structure)
