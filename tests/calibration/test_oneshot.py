"""`oneshot` as a whole: what it returns, levels, several entries, and training afterwards."""

import logging
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsewright as sparse
from helpers.calibrated import Tower, floats, gpt2, keep_best, llama, seeded, words
from sparsewright.core.counts import num_kept

WANDA = {"method": "wanda", "sparsity": 0.5}


def test_the_algorithm_is_a_static_that_keeps_the_masks():
    model, batches = seeded(Tower), floats()
    sparsity = sparse.oneshot(model, WANDA, batches)
    assert type(sparsity) is sparse.Static
    assert repr(sparsity) == "Static(sparsity=0.5, init_method='from_zeros', structure=FanIn())"
    assert sparse.find(model) is sparsity
    masks = {name: p.mask.clone() for name, p in sparsity.sparse_params.items()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    sparsity.apply(optimizer)
    before = model.blocks[1].up.weight.detach().clone()
    for batch in batches:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    assert not torch.equal(model.blocks[1].up.weight, before)
    for name, p in sparsity.sparse_params.items():
        assert torch.equal(p.mask, masks[name])
        assert bool((p.param[~p.mask] == 0).all())
        assert p.computed_sparsity == 0.5


def test_remove_leaves_a_plain_model():
    model, plain = seeded(Tower), seeded(Tower)
    sparse.oneshot(model, WANDA, floats()).remove()
    assert list(model.state_dict()) == list(plain.state_dict())
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        assert sorted(vars(module)) == sorted(vars(other))
    zeros = sum(int((param == 0).sum()) for param in model.parameters() if param.ndim == 2)
    assert zeros >= sum(param.numel() // 2 for param in model.parameters() if param.ndim == 2)


def test_a_dense_state_dict_keeps_the_masks():
    """The masks come from data, so they are not computed again from loaded weights."""
    model, dense = seeded(Tower), seeded(Tower)
    sparsity = sparse.oneshot(model, WANDA, floats())
    masks = {name: p.mask.clone() for name, p in sparsity.sparse_params.items()}
    state = {**model.state_dict(), **dense.state_dict()}
    del state["stem.weight_mask"]
    model.load_state_dict(state, strict=False)
    for name, p in sparsity.sparse_params.items():
        assert torch.equal(p.mask, masks[name])
        assert torch.equal(p.param, dense.get_parameter(name) * p.mask)


def test_a_live_zero_receives_its_correction():
    layer = nn.Linear(3, 1).double()
    layer.weight.data = torch.tensor([[0.1, 0.0, 5.0]], dtype=torch.float64)
    x = torch.randn(100, 3, dtype=torch.float64)
    x[:, 1] = x[:, 0] + 0.01 * x[:, 1]
    live = torch.tensor([[False, True, True]])
    shaper = Given(live)
    config = {"method": "sparsegpt", "sparsity": 0.3, "structure": shaper, "param_filter": "weight"}
    sparsity = sparse.oneshot(layer, config, [x])
    assert torch.equal(sparsity.sparse_params["weight"].mask, live)
    assert 0.05 < layer.weight[0, 1].item() < 0.15


class Given(sparse.structures.Unstructured):
    """A structure that always gives the same mask."""

    def __init__(self, mask):
        self.mask = mask

    def topk(self, score, sparsity, *, magnitude=False):
        return self.mask


@pytest.mark.parametrize(
    "distribution",
    [
        *("uniform", "erk", "global", "lamp", "uniform_plus"),
        *({"layers": {"stem.weight": 0.25}}, {"type": "erk", "dense": "stem.weight"}),
        lambda shapes, level: dict.fromkeys(shapes, level / 2),
    ],
    ids=lambda value: "function" if callable(value) else str(value),
)
def test_levels_are_those_of_the_distribution(distribution):
    model, dense = seeded(Tower), seeded(Tower)
    config = {**WANDA, "sparsity": 0.6, "distribution": distribution}
    sparsity = sparse.oneshot(model, config, floats())

    class Weights:
        def weight(self, name):
            return dense.get_parameter(name).detach()

        def score(self, name):
            return None

    shapes = {name: p.shape for name, p in sparsity.sparse_params.items()}
    make = sparse.distributions.make_distribution(distribution)
    levels = make(shapes, 0.6, Weights())
    for name, p in sparsity.sparse_params.items():
        rows = p.mask.flatten(1).sum(1)
        assert rows.tolist() == [num_kept(levels[name], p.shape[1])] * p.shape[0], name


@pytest.mark.parametrize("options", [{}, {"m": 1.2, "spread": 0.2}])
def test_owl_levels_come_from_the_dense_blocks(options):
    model, dense, batches = llama(), llama(), words()
    statistics = sparse.calibration.statistics(dense, batches)
    scores = {}
    for name, own in statistics.items():
        score = dense.get_parameter(name).detach().abs() * own.norms
        scores.setdefault(name.split(".")[2], []).append(score)
    levels = sparse.distributions.owl(scores, 0.6, **options)
    config = {"method": "wanda", "sparsity": 0.6, "distribution": {"type": "owl", **options}}
    sparsity = sparse.oneshot(model, config, batches)
    assert len(set(levels.values())) == 2 or not options
    for name, p in sparsity.sparse_params.items():
        kept = num_kept(levels[name.split(".")[2]], p.shape[1])
        assert p.mask.sum(1).tolist() == [kept] * p.shape[0], name


def test_owl_with_magnitude_needs_data():
    config = {"method": "magnitude", "sparsity": 0.5, "distribution": "owl"}
    message = "method 'magnitude' needs the option 'batches': calibration data"
    with pytest.raises(sparse.errors.MissingOptionError, match=message):
        sparse.oneshot(seeded(Tower), config)
    sparsity = sparse.oneshot(seeded(Tower), config, floats())
    assert len(sparsity.sparse_params) == 8


def test_several_entries():
    model, batches = gpt2(), words()
    config = [
        {"method": "sparsegpt", "structure": "2:4", "param_filter": "*.mlp.*.weight"},
        {"sparsity": 0.75, "groups": [{"method": "wanda"}]},
    ]
    sparsity = sparse.oneshot(model, config, batches)
    assert type(sparsity) is sparse.Group
    assert [repr(each) for each in sparsity] == [
        "Static(sparsity=0.5, init_method='from_zeros', structure=NM(2, 4))",
        "Static(sparsity=0.75, init_method='from_zeros', structure=FanIn())",
    ]
    for name, p in sparsity.sparse_params.items():
        assert p.computed_sparsity == (0.5 if "mlp" in name else 0.75), name
        inputs = p.mask.t()  # GPT-2 stores (inputs, outputs)
        if "mlp" in name:
            assert bool((inputs.reshape(inputs.shape[0], -1, 4).sum(2) == 2).all())
        else:
            assert bool((inputs.sum(1) == 4).all())


def test_options_by_glob():
    model = seeded(Tower)
    globs = {"*.up.weight": {"sparsity": 0.25}, "*.down.weight": {"method": "magnitude"}}
    sparsity = sparse.oneshot(model, {**WANDA, "param_filter": globs}, floats())
    for name, p in sparsity.sparse_params.items():
        assert p.computed_sparsity == (0.25 if ".up." in name else 0.5)
    assert len(sparsity.sparse_params) == 6


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_on_a_convolution(groups):
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups).double()
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    size, each = layer.weight.detach().abs(), 4 // groups
    score = torch.empty_like(size)
    for out in range(6):
        first = out // (6 // groups) * each
        patches = F.unfold(x[:, first : first + each], 3, padding=1, stride=2)
        norms = patches.square().sum((0, 2)).sqrt().reshape(each, 3, 3)
        score[out] = size[out] * norms
    sparsity = sparse.oneshot(layer, {**WANDA, "param_filter": "weight"}, [x])
    expected = keep_best(score.flatten(1), num_kept(0.5, each * 9)).reshape(size.shape)
    assert torch.equal(sparsity.sparse_params["weight"].mask, expected)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "dsnot"])
def test_n_m_on_a_convolution_is_along_the_channels(method):
    layer = nn.Conv2d(8, 4, 3, padding=1)
    config = {"method": method, "structure": "2:4", "param_filter": "weight"}
    sparsity = sparse.oneshot(layer, config, [torch.randn(3, 8, 6, 6)])
    mask = sparsity.sparse_params["weight"].mask
    assert bool((mask.reshape(4, 2, 4, 3, 3).sum(2) == 2).all())


def test_sparsegpt_beats_wanda_beats_magnitude_on_a_layer():
    torch.manual_seed(1)
    x = torch.randn(400, 64) @ torch.randn(64, 64) * torch.rand(64).square()
    layers = {
        method: nn.Linear(64, 32, bias=False) for method in ("magnitude", "wanda", "sparsegpt")
    }
    out = layers["magnitude"](x).detach()
    for layer in layers.values():
        layer.weight.data = layers["magnitude"].weight.data.clone()
    losses = []
    for method, layer in layers.items():
        config = {"method": method, "sparsity": 0.6, "structure": "fan_in", "param_filter": "*"}
        sparse.oneshot(layer, config, [x])
        losses.append((layer(x) - out).square().mean().item())
    assert losses[0] > losses[1] > losses[2]


def test_it_works_in_inference_mode_and_the_model_can_train_later():
    model, batches = seeded(Tower), floats()
    with torch.inference_mode():
        sparsity = sparse.oneshot(model, {"method": "sparsegpt", "sparsity": 0.5}, batches)
    model(batches[0]).sum().backward()
    assert all(bool((p.param.grad[~p.mask] == 0).all()) for p in sparsity.sparse_params.values())


def test_modes_and_buffers_are_as_before():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 6)).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model[2].eval()
    x, state = torch.randn(9, 6), torch.get_rng_state()

    def forward(model, batch):
        return model.train()(batch)  # changes buffers and modes, and draws random numbers

    sparse.oneshot(model, WANDA, [x], forward=forward)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(model.get_buffer(name), value) for name, value in before.items())


def test_the_log_counts_what_is_sparse(caplog):
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparse.oneshot(seeded(Tower), WANDA, floats())
    last = caplog.records[-1].getMessage()
    assert last == (
        "oneshot: 8 sparse weights, 332 of 664 entries kept (level 0.5000); left dense: vectors "
        "(8), norms (8)"
    )


def test_the_progress_bar_is_quiet_without_a_terminal(capfd):
    sparse.oneshot(seeded(Tower), WANDA, floats())
    assert capfd.readouterr() == ("", "")


def test_tqdm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    sparsity = sparse.oneshot(seeded(Tower), WANDA, floats())
    assert len(sparsity.sparse_params) == 8
