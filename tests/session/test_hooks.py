"""User hooks for levels and mask updates."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import UserDefined, make_mlp, train
from sparsewright.errors import OptionTypeError


def run(sparsity, model, steps, targets=None, computed=None, events=None):
    """Train with hooks that append to the given lists."""
    handles = []
    if targets is not None:
        handles.append(
            sparsity.register_target_sparsity_hook(
                lambda s, name, level: targets.append((s, name, round(float(level), 6)))
            )
        )
    if computed is not None:
        handles.append(
            sparsity.register_computed_sparsity_hook(
                lambda s, name, level: computed.append((s, name, round(float(level), 6)))
            )
        )
    if events is not None:
        handles.append(sparsity.register_mask_update_hook(events.append))
    if not sparsity.num_sparse_params:
        sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, steps)
    return handles, optimizer


def test_static_hooks_fire_each_step():
    """FIX: in the reference implementation, hooks of Static never fire."""
    sparsity, targets, computed = sparse.Static(0.33), [], []
    run(sparsity, make_mlp(), 2, targets, computed)
    assert targets == [(sparsity, "*", 0.33)] * 2
    # The hook gets the measured level: 128 * 0.67 = 85.76 and 64 * 0.67 = 42.88 are rounded.
    assert (
        computed
        == [
            (sparsity, "0.weight", round(1 - 85 / 128, 6)),
            (sparsity, "2.weight", round(1 - 42 / 64, 6)),
        ]
        * 2
    )


def test_values_are_0d_tensors():
    seen = []
    sparsity = sparse.Static(0.5)
    sparsity.register_target_sparsity_hook(lambda s, n, value: seen.append(value))
    sparsity.register_computed_sparsity_hook(lambda s, n, value: seen.append(value))
    run(sparsity, make_mlp(), 1)
    assert [value.shape for value in seen] == [()] * 3
    assert all(isinstance(value, torch.Tensor) for value in seen)


def test_target_is_told_once_per_distinct_schedule_with_the_common_prefix():
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    )
    schedule = sparse.utils.Linear(0.1, 0.1)
    sparsity = sparse.SET(
        sparsity={
            model[0].weight: 0.5,
            model[1].weight: 0.25,
            model[2][0].weight: schedule,
            model[2][1].weight: schedule,
        },
        update=1,
    )
    targets = []
    run(sparsity, model, 2, targets)
    assert [(name, level) for _, name, level in targets] == [
        ("0.weight*", 0.5),
        ("1.weight*", 0.25),
        ("2.*", 0.2),
        ("0.weight*", 0.5),
        ("1.weight*", 0.25),
        ("2.*", 0.3),
    ]


def test_equal_constant_levels_are_one_schedule():
    model = make_mlp()
    sparsity = sparse.Static({model[0].weight: 0.5, model[2].weight: 0.5})
    targets = []
    run(sparsity, model, 1, targets)
    assert [(name, level) for _, name, level in targets] == [("*", 0.5)]


def test_gmp_is_told_the_level_used_and_the_level_reached():
    sparsity = sparse.GMP({"type": "linear", "init": 0.1, "slope": 0.1}, update={"freq": 2})
    targets, computed = [], []
    run(sparsity, make_mlp(), 4, targets, computed)
    assert [level for *_, level in targets] == [0.2, 0.3, 0.4, 0.5]
    of_first = [level for _, name, level in computed if name == "0.weight"]
    # floor(0.9, 0.7, 0.5 of 128) are kept; masks change at steps 2 and 4 only.
    expected = [1 - 115 / 128, 1 - 89 / 128, 1 - 89 / 128, 1 - 64 / 128]
    assert of_first == pytest.approx(expected, abs=1e-6)


def test_levels_out_of_range_are_told_clamped():
    sparsity, targets = sparse.GMP(lambda step: int(step) - 1.5, update=1), []
    run(sparsity, make_mlp(), 3, targets)
    assert [level for *_, level in targets] == [0, 0.5, 1]


def test_mask_updates_are_events_at_update_steps():
    sparsity, events = sparse.SET(0.5, sparsity=0.5, update={"steps": [0, 2]}), []
    model = make_mlp()
    sparsity.apply(model)
    before = sparsity.sparse_params["0.weight"].mask.clone()
    run(sparsity, model, 3, events=events)
    assert [(e.step, e.name, e.total, e.kept, e.target, e.computed) for e in events] == [
        (2, "0.weight", 128, 64, 0.5, 0.5),
        (2, "2.weight", 64, 32, 0.5, 0.5),
    ]
    after = sparsity.sparse_params["0.weight"].mask
    assert events[0].dropped == int((before & ~after).sum()) > 0
    assert events[0].grown == int((after & ~before).sum()) == events[0].dropped


def test_the_first_update_of_a_dense_start_drops_to_the_level():
    sparsity, events = UserDefined(sparsity=0.75, update={"freq": 5, "start": 1}), []
    run(sparsity, make_mlp(), 1, events=events)
    assert [(e.kept, e.dropped, e.grown) for e in events] == [(32, 96, 0), (16, 48, 0)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: sparse.Static(0.5),
        lambda: sparse.SET(sparsity=0.5, update=1),
        lambda: sparse.Group({"0.*": sparse.Static(0.5), "2.weight": sparse.SET(sparsity=0.5)}),
    ],
)
def test_handles_take_the_hook_off(make):
    sparsity, model = make(), make_mlp()
    if isinstance(sparsity, sparse.Group):
        model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4))
    targets, computed, events = [], [], []
    handles, optimizer = run(sparsity, model, 1, targets, computed, events)
    counts = len(targets), len(computed), len(events)
    assert counts[0] >= 1
    assert counts[1] == 2
    for handle in handles:
        handle.remove()
        handle.remove()
    train(model, optimizer, 2, start=1)
    assert (len(targets), len(computed), len(events)) == counts


def test_a_group_tells_each_algorithms_own_levels():
    static, dynamic = sparse.Static(0.25), sparse.SET(sparsity=0.5, update=1)
    group, targets = sparse.Group({"0.weight": static, "2.weight": dynamic}), []
    run(group, make_mlp(), 1, targets)
    assert targets == [(static, "0.weight*", 0.25), (dynamic, "2.weight*", 0.5)]


def test_hooks_are_called_in_order_and_must_be_functions():
    sparsity, calls = sparse.Static(0.5), []
    sparsity.register_target_sparsity_hook(lambda *args: calls.append(1))
    handle = sparsity.register_target_sparsity_hook(lambda *args: calls.append(2))
    sparsity.register_target_sparsity_hook(lambda *args: (handle.remove(), calls.append(3)))
    run(sparsity, make_mlp(), 2)
    assert calls == [1, 2, 3, 1, 3]
    with pytest.raises(OptionTypeError, match=r"^hook must be a function; got 3 \(int\)\.$"):
        sparsity.register_target_sparsity_hook(3)
