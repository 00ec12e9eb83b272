"""Masks and log lines of frozen layers and of layers that a step skips."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import sparsewright as sparse

CUBIC = {"type": "cubic", "init": 0.0, "final": 0.75, "begin": 0, "end": 20}
UPDATE = {"freq": 5, "stop": 21}
STORAGES = ["masked", "compressed", "shadowed"]
WAYS = {
    "cubic": {"sparsity": CUBIC, "update": UPDATE},
    "off the end": {"sparsity": CUBIC, "update": {"freq": 7}},
    "list": {"sparsity": [0.25, 0.5, 0.75], "update": {"steps": [5, 10, 20]}},
    "erk": {"sparsity": CUBIC, "update": UPDATE, "distribution": "erk"},
    "2:4": {"sparsity": {**CUBIC, "final": 0.5}, "update": UPDATE, "structure": "2:4"},
}


def trained(
    algorithm: sparse.SparsityAlgorithm,
    *,
    frozen: tuple[int, ...] = (),
    held: bool = True,
    dtype: torch.dtype = torch.float32,
    steps: int = 30,
) -> sparse.Group:
    """Train four layers; steps 10, 20, 21 and 30 skip the third."""
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4)).to(dtype)
    for index in frozen:
        layers[index].weight.requires_grad_(False)
    group = sparse.Group([("*weight", algorithm)])
    group.apply(layers)
    params = [p for p in layers.parameters() if held or p.requires_grad]
    optimizer = torch.optim.AdamW(params, 1e-3)
    group.apply(optimizer)
    for step in range(1, steps + 1):
        x = torch.randn(4, 16, dtype=dtype)
        for index, layer in enumerate(layers):
            if not (index == 2 and (step % 10 == 0 or step == 21)):
                x = x + torch.tanh(layer(x))
        optimizer.zero_grad()
        x.square().mean().backward()
        optimizer.step()
    return group


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings, without those about frozen weights that a filter picks."""
    texts = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [text for text in texts if not text.startswith("frozen weights become sparse")]


def levels(group: sparse.Group) -> dict[str, float]:
    return {name: p.computed_sparsity for name, p in group.sparse_params.items()}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("way", WAYS)
def test_gmp_brings_a_skipped_layer_to_the_last_level(storage: str, way: str) -> None:
    found = levels(trained(sparse.GMP(storage=storage, **WAYS[way])))
    assert found == dict.fromkeys(found, 0.5 if way == "2:4" else 0.75)


def test_a_frozen_layer_keeps_its_mask_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    found = levels(trained(sparse.GMP(CUBIC, UPDATE), frozen=(1,)))
    assert found == {"0.weight": 0.75, "1.weight": 0.0, "2.weight": 0.75, "3.weight": 0.75}
    (text,) = warnings_of(caplog)
    assert text == (
        "1.weight: mask not updated because the weight is frozen; after the last update its level "
        "is 0.000 instead of 0.750"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gmp_keeps_the_largest_of_a_skipped_layer(dtype: torch.dtype) -> None:
    before, after = (
        trained(sparse.GMP(CUBIC, {"steps": [20]}), dtype=dtype, steps=steps) for steps in (19, 20)
    )
    weight = before.sparse_params["2.weight"].param.detach().float().abs().flatten()
    kept = torch.zeros(256, dtype=torch.bool)
    kept[torch.sort(weight, descending=True, stable=True).indices[:64]] = True
    assert torch.equal(after.sparse_params["2.weight"].mask.flatten(), kept)


@pytest.mark.parametrize("make", [sparse.SET, sparse.RigL, sparse.STE])
def test_others_keep_the_mask_and_say_what_it_misses(
    make: type[sparse.DynamicSparsityAlgorithm], caplog: pytest.LogCaptureFixture
) -> None:
    group = trained(make(sparsity=CUBIC, update=UPDATE))
    found = levels(group)
    assert found.pop("2.weight") == pytest.approx(0.738, abs=2e-3)
    assert set(found.values()) == {0.75}
    (text,) = warnings_of(caplog)
    assert text == (
        "2.weight: mask not updated because the weight has no gradient; after the last update its "
        "level is 0.738 instead of 0.750"
    )


def test_nothing_is_said_where_nothing_is_missed(caplog: pytest.LogCaptureFixture) -> None:
    trained(sparse.RigL(sparsity=0.75, update=UPDATE))
    trained(sparse.GMP(CUBIC, UPDATE))
    assert warnings_of(caplog) == []


class Shrinking(sparse.GMP):
    """Use the gradient, which the base class does not need."""

    needs_dense_gradient = True

    def update_mask(self, p, mask, sparsity):
        return self.structure.topk(self.dense_gradient(p).abs(), sparsity)


def test_a_method_of_ones_own_is_never_asked_without_the_gradient_that_it_needs() -> None:
    found = levels(trained(Shrinking(CUBIC, UPDATE)))
    assert found["0.weight"] == 0.75
    assert found["2.weight"] < 0.75


@pytest.mark.parametrize("make", [sparse.GMP, sparse.RigL])
def test_a_weight_that_no_optimizer_steps_is_named(
    make: type[sparse.DynamicSparsityAlgorithm], caplog: pytest.LogCaptureFixture
) -> None:
    group = trained(make(sparsity=CUBIC, update={"steps": [20]}), frozen=(1, 3), held=False)
    assert levels(group)["1.weight"] == 0
    assert warnings_of(caplog)[:2] == [
        f"{n}.weight: its mask never changes because none of the optimizers passed to apply() "
        "steps it; pass its optimizer too"
        for n in (1, 3)
    ]


def test_a_static_mask_needs_no_optimizer(caplog: pytest.LogCaptureFixture) -> None:
    found = levels(trained(sparse.Static(0.75), frozen=(1,), held=False))
    assert set(found.values()) == {0.75}
    assert warnings_of(caplog) == []
