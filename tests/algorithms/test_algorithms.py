"""The connections that each algorithm keeps, drops and grows."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import make_mlp, train
from helpers.twins import best, kept_exactly, rows_of
from sparsewright.errors import (
    ExclusiveOptionsError,
    LevelError,
    MissingOptionError,
    OptionError,
    ShapeError,
)
from sparsewright.utils import Constant, FreqSchedule, ListSchedule, OutputGroupScoreShaper


def live(mask):
    return set(mask.flatten().nonzero().squeeze(1).tolist())


def update_once(algorithm, weight, gradient):
    """Return the masks before and after one step at learning rate 0 with a given dense gradient."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    algorithm.apply(nn.Sequential(layer))
    optimizer = SGD(layer.parameters(), 0.0)
    algorithm.apply(optimizer)
    before = live(layer.weight_mask)
    (layer.weight * gradient).sum().backward()
    optimizer.step()
    return before, live(layer.weight_mask), layer


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_rigl_keeps_large_weights_and_grows_large_dense_gradients(fraction, level):
    weight, gradient = torch.randn(6, 10), torch.randn(6, 10)
    algorithm = sparse.RigL(fraction, sparsity=level, update=1)
    before, after, _ = update_once(algorithm, weight, gradient)
    assert len(before) == kept_exactly(level, 60)
    magnitudes = weight.abs().flatten().tolist()
    stay = best(magnitudes, sorted(before), kept_exactly(fraction, len(before)))
    free = [index for index in range(60) if index not in stay]
    grown = best(gradient.abs().flatten().tolist(), free, len(before) - len(stay))
    assert after == stay | grown


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_set_keeps_large_weights_and_grows_at_random(fraction):
    weight = torch.randn(6, 10)
    grown = []
    for seed in range(2):
        algorithm = sparse.SET(
            fraction, sparsity=0.5, update=1, seed=seed, init_method=lambda p, s: p.detach() > 0
        )
        before, after, _ = update_once(algorithm, weight, torch.ones(6, 10))
        target = kept_exactly(0.5, 60)
        number = min(kept_exactly(fraction, len(before)), target)
        stay = best(weight.abs().flatten().tolist(), sorted(before), number)
        assert stay <= after
        assert len(after) == target
        grown.append(after - stay)
    assert (grown[0] != grown[1]) == (number < target)


def test_set_grows_uniformly():
    counts = torch.zeros(60)
    weight = torch.zeros(6, 10)
    weight[0] = 1
    for seed in range(400):
        algorithm = sparse.SET(
            0.5, sparsity=0.5, update=1, seed=seed, init_method=lambda p, s: p.detach() > 0
        )
        _, after, _ = update_once(algorithm, weight, torch.ones(6, 10))
        counts[list(after)] += 1
    # Weights 0..4 stay, as all are equal. 25 of the other 55 grow: 400 * 25 / 55 = 181.8 +- 10.
    assert (counts[:5] == 400).all()
    assert (counts[5:] - 181.8).abs().max() < 50


@pytest.mark.parametrize(("side", "dim"), [("in", 1), ("out", 0)])
@pytest.mark.parametrize("init_method", ["random", "topk", "checkerboard"])
def test_balanced_rigl_gives_each_group_its_own_share(side, dim, init_method):
    weight, gradient = torch.randn(8, 12), torch.randn(8, 12)
    gradient[:4, :6] *= 100
    algorithm = sparse.RigL(
        0.5, sparsity=0.6, update=1, init_method=init_method, **{f"balance_{side}_groups": 4}
    )
    before, after, _ = update_once(algorithm, weight, gradient)
    expected = set()
    for row in rows_of((8, 12), dim, 4):
        mine = sorted(before & set(row))
        assert len(mine) == kept_exactly(0.6, 24)
        stay = best(weight.abs().flatten().tolist(), mine, kept_exactly(0.5, len(mine)))
        free = [index for index in row if index not in stay]
        stay |= best(gradient.abs().flatten().tolist(), free, len(mine) - len(stay))
        expected |= stay
    assert after == expected


def test_balanced_rigl_of_a_convolution():
    """FIX: weights of more than two dimensions."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    algorithm = sparse.RigL(sparsity=0.5, balance_in_groups=2, update=1)
    algorithm.apply(model)
    per_group = model[0].weight_mask.unflatten(1, (2, 2)).sum(dim=(0, 2, 3, 4))
    assert per_group.tolist() == [54, 54]


def test_gmp_keeps_the_largest_weights_at_each_level():
    algorithm = sparse.GMP({"type": "linear", "init": 0.0, "slope": 0.25}, update={"freq": 1})
    model = make_mlp()
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    for step in range(1, 5):
        before = live(model[0].weight_mask)
        train(model, optimizer, 1, start=step)
        after = live(model[0].weight_mask)
        assert len(after) == 128 - 32 * step
        assert after <= before


def test_a_connection_that_is_dropped_and_regrown_at_once_keeps_its_weight():
    weight = torch.full((2, 2), 0.5)
    before, after, layer = update_once(
        sparse.RigL(1.0, sparsity=0.5, update=1, init_method="topk"),
        weight,
        torch.tensor([[9.0, 0.0], [0.0, 8.0]]),
    )
    assert before == {0, 1}
    assert after == {0, 3}
    assert layer.weight.flatten().tolist() == [0.5, 0, 0, 0]


@pytest.mark.parametrize(
    ("update", "starts_sparse"),
    [
        (None, True),
        (5, True),
        ({"freq": 5, "start": 0}, True),
        ({"freq": 5, "start": 1}, False),
        ({"steps": [0, 3]}, True),
        ({"steps": [3]}, False),
        ({"steps": []}, False),
        (lambda step: step > 2, False),
        (FreqSchedule(5), True),
        (ListSchedule([2]), False),
    ],
)
def test_training_starts_sparse_if_step_0_is_an_update_step(update, starts_sparse):
    algorithm, model = sparse.SET(sparsity=0.5, update=update), make_mlp()
    assert algorithm.starts_sparse is starts_sparse
    algorithm.apply(model)
    assert int(model[0].weight_mask.sum()) == (64 if starts_sparse else 128)
    assert bool(algorithm.is_update_step) is starts_sparse
    assert algorithm.is_update_step.shape == ()
    assert algorithm.is_update_step.dtype == torch.bool
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    seen = []
    algorithm.register_mask_update_hook(lambda event: seen.append(event.step))
    for step in range(1, 8):
        train(model, optimizer, 1, start=step)
        assert bool(algorithm.is_update_step) == (step in seen)
        assert algorithm.step == step
    due = algorithm.update_schedule
    assert sorted(set(seen)) == [step for step in range(1, 8) if due(step)]
    if seen:
        assert int(model[0].weight_mask.sum()) == 64


@pytest.mark.parametrize(
    "level", [0, 0.5, Constant(0.5), {"type": "constant", "value": 0.5}, torch.tensor(0.5)]
)
def test_static_takes_any_constant_level(level):
    """FIX: integers and constant schedules are also valid levels."""
    algorithm, model = sparse.Static(level), make_mlp()
    algorithm.apply(model)
    assert int(model[0].weight_mask.sum()) == (128 if level == 0 else 64)


def test_bad_levels_raise_at_construction():
    for wrong in ([0.5], {"type": "linear", "init": 0, "slope": 1}, lambda step: 0.5):
        with pytest.raises(
            OptionError, match=r"^sparsity of Static must be constant; got .* use GMP\.$"
        ):
            sparse.Static(wrong)
    for wrong in (1, 1.0, -0.1, 1.1):
        with pytest.raises(LevelError):
            sparse.Static(wrong)
    for wrong in (0.5, Constant(0.5)):
        with pytest.raises(
            OptionError, match=r"^sparsity of GMP must be a schedule that changes, .* use Static\.$"
        ):
            sparse.GMP(wrong)
    for cls in (sparse.SET, sparse.RigL):
        for option in ({"sparsity": 1.1}, {"sparsity": [0.5, 2]}, {"drop_fraction": -1}):
            with pytest.raises(LevelError):
                cls(**{"sparsity": 0.5, **option})
    with pytest.raises(ExclusiveOptionsError, match=r"^give sparsity or schedule, not both\.$"):
        sparse.GMP([0.1], schedule=[0.1])
    with pytest.raises(
        MissingOptionError, match=r"^Static needs the option 'sparsity': .* pass sparsity=0\.9\.$"
    ):
        sparse.Static()


def test_gmp_takes_schedule_as_an_alias():
    """FIX."""
    assert sparse.GMP(schedule=[0.1, 0.2]).schedules["sparsity"].values == [0.1, 0.2]


@pytest.mark.parametrize(
    ("level", "update", "hints"),
    [
        ({"type": "linear", "init": 0.1, "slope": 0.1}, {"freq": 1, "stop": 4}, (0.1, 0.4, 0.4)),
        ({"type": "linear", "init": 0.1, "slope": 0.1}, {"freq": 2, "stop": 6}, (0.1, 0.5, 0.5)),
        ({"type": "linear", "init": 0.1, "slope": 0.1}, {"steps": [2, 5]}, (0.3, 0.6, 0.6)),
        ([0.3, 0.5, 0.4], 5, (0.3, 0.5, 0.4)),
        ({"type": "exp", "init": 0.1, "gamma": -1, "final": 0.7}, 5, (0.1, 0.7, 0.7)),
        (lambda step: 0.25, {"steps": [0, 3]}, (0.25, 0.25, 0.25)),
    ],
)
def test_hints_for_a_compiler(level, update, hints):
    algorithm = sparse.SET(sparsity=level, update=update)
    algorithm.apply(make_mlp())
    annotations = algorithm.sparse_params["0.weight"].annotations
    assert list(annotations) == ["min_sparsity", "max_sparsity", "sparsity"]
    assert tuple(annotations.values()) == pytest.approx(hints, abs=1e-6)


def test_a_function_of_the_step_is_never_asked_beyond_the_run():
    table = [0.1, 0.2, 0.3]
    algorithm, model = sparse.GMP(lambda step: table[int(step)], update=1), make_mlp()
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    train(model, optimizer, 2)
    assert int(model[0].weight_mask.sum()) == kept_exactly(0.3, 128)
    assert algorithm.sparse_params["0.weight"].annotations == {}


def test_a_level_that_rises_and_falls_is_met_at_each_update():
    algorithm, model = sparse.RigL(sparsity=[1.0, 0.25, 0.75, 0.0], update=1), make_mlp()
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    counts = [int(model[0].weight_mask.sum())]
    for step in range(3):
        train(model, optimizer, 1, start=step)
        counts.append(int(model[0].weight_mask.sum()))
    assert counts == [0, 96, 32, 128]


@pytest.mark.parametrize(
    "sparsity",
    [
        sparse.GMP([0.5, 0.75], update=1, init_method="topk"),
        sparse.SET(sparsity=0.5, update=1, init_method="topk"),
    ],
    ids=repr,
)
def test_a_score_shaper_counts_at_updates_too(sparsity):
    sparsity.score_shaper = OutputGroupScoreShaper(4)
    model = make_mlp()
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 1)
    for mask in (model[0].weight_mask, model[2].weight_mask):
        counts = mask.reshape(4, -1).sum(1)
        assert counts.unique().numel() == 1


def test_groups_that_do_not_divide_are_refused_by_any_algorithm():
    sparsity = sparse.Static(0.5)
    sparsity.score_shaper = OutputGroupScoreShaper(3)
    model = make_mlp()
    with pytest.raises(ShapeError, match=r"0\.weight"):
        sparsity.apply(model)
    assert not sparsity.is_attached


def test_balanced_groups_take_a_compressed_layer():
    model = nn.Sequential(nn.Linear(8, 8), sparse.nn.SparseLinear(8, 8, sparsity=0.5))
    sparsity = sparse.RigL(sparsity=0.5, balance_in_groups=2)
    sparsity.apply(model)
    assert [p.kept for p in sparsity.sparse_params.values()] == [32, 32]
