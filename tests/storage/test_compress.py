"""Training with `compress`, `decompress` and `storage: compressed` equals masked training."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsewright as sparse
from sparsewright.errors import AttachError, LevelError, OptionError, ShapeError
from sparsewright.nn import SparseLinear
from sparsewright.session.convert import measure_speed

CUBIC = {"type": "cubic", "init": 0.3, "final": 0.9, "begin": 0, "end": 16}
CONFIGS = {
    "static": {"algorithm": "static", "sparsity": 0.8},
    "gmp": {"algorithm": "gmp", "sparsity": CUBIC, "update": 4},
    "set": {"algorithm": "set", "sparsity": 0.8, "update": 4},
    "rigl": {"algorithm": "rigl", "sparsity": 0.8, "update": 4},
    "rigl in groups": {"algorithm": "rigl", "sparsity": 0.8, "update": 4, "balance_out_groups": 2},
    "user-defined": {"algorithm": "LargestGradients", "sparsity": 0.8, "update": 4},
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.1),
}


class LargestGradients(sparse.DynamicSparsityAlgorithm):
    """Keep the largest |weight| + |dense gradient|."""

    needs_dense_gradient = True

    def update_mask(self, p, mask, sparsity):
        score = p.abs() + self.dense_gradient(p).abs()
        return sparse.utils.make_mask_topk_sparsity(score, sparsity)


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)
    )


def run(config, optimizer, steps, at=None, back_at=None):
    """Train, compressing before step `at` and decompressing before step `back_at`.

    Returns:
        The losses, the model, the algorithm and the optimizer.
    """
    model, sparsity = make_model(), sparse.configure(config)
    sparsity.apply(model)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    sparsity.apply(optimizer)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        if step == at:
            sparse.compress(model, verbose=False)
        if step == back_at:
            sparse.decompress(model)
        optimizer.zero_grad()
        for _ in range(2):
            x = torch.randn(30, 20, generator=generator)
            loss = F.cross_entropy(model(x), x[:, :4].argmax(1)) / 2
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, model, sparsity, optimizer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_same_training_whenever_it_is_compressed(name, optimizer):
    losses, masked, _, _ = run(CONFIGS[name], optimizer, 18)
    for at, back_at in ((0, None), (3, None), (5, 11)):
        other, model, _, _ = run(CONFIGS[name], optimizer, 18, at, back_at)
        assert isinstance(model[0], nn.Linear if back_at else SparseLinear)
        assert other == pytest.approx(losses, abs=2e-5)
        for key, value in masked.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_storage_in_a_config(name):
    losses, _, _, _ = run(CONFIGS[name], "adamw", 10)
    other, model, sparsity, optimizer = run({**CONFIGS[name], "storage": "compressed"}, "adamw", 10)
    assert other == pytest.approx(losses, abs=2e-5)
    for parameter in sparsity.sparse_params.values():
        assert parameter.is_compressed
        assert parameter.param.numel() == parameter.kept == int(parameter.mask.sum())
        state = optimizer.state[parameter.param]
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.param.shape
    sparsity.remove()
    assert list(model.state_dict()) == list(make_model().state_dict())
    assert all(type(layer) in (nn.Linear, nn.Tanh) for layer in model)


def test_grown_connections_start_at_zero_and_kept_ones_keep_their_state():
    _, model, sparsity, optimizer = run(CONFIGS["rigl"], "adamw", 6, at=0)
    parameter = sparsity.sparse_params["2.weight"]
    before, weight = parameter.mask, model[2].weight.clone()
    moment = torch.zeros(64, 64)
    moment[before] = optimizer.state[parameter.param]["exp_avg"]
    new = before.roll(1, 0)
    assert parameter.change_mask(new) == (int((before & ~new).sum()), int((new & ~before).sum()))
    assert torch.equal(model[2].weight, weight * new)
    expected = (moment * new)[new]
    assert torch.equal(optimizer.state[parameter.param]["exp_avg"], expected)


def test_the_parameter_stays_the_same_object():
    model = make_model()
    sparse.Static(0.9).apply(model)
    weight = model[0].weight
    sparse.compress(model, verbose=False)
    assert model[0].values is weight
    sparse.decompress(model)
    assert model[0].weight is weight
    assert weight.shape == (64, 20)


def test_resume_equals_uninterrupted():
    config = {**CONFIGS["rigl"], "storage": "compressed"}
    _, model, sparsity, optimizer = run(config, "adamw", 7)
    other, again = make_model(), sparse.configure(config)
    again.apply(other)
    second = OPTIMIZERS["adamw"](other.parameters())
    again.apply(second)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(sparsity.state_dict())
    for step in range(9):
        x = torch.randn(30, 20, generator=torch.Generator().manual_seed(step))
        for trained, stepped in ((model, optimizer), (other, second)):
            stepped.zero_grad()
            trained(x).square().mean().backward()
            stepped.step()
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_says_what_it_left_masked_and_why(capsys):
    shared = nn.Linear(8, 8)
    tied = nn.Linear(8, 8)
    tied.weight = shared.weight
    model = nn.ModuleDict(
        {
            "conv": nn.Conv1d(8, 8, 3),
            "shared": shared,
            "tied": tied,
            "wide": nn.Linear(8, 8).double(),
            "low": nn.Linear(8, 8),
            "high": nn.Linear(8, 8),
        }
    )
    sparse.Group([("low.weight", sparse.Static(0.2)), ("*weight", sparse.Static(0.9))]).apply(model)
    done = {c.name: c for c in sparse.compress(model, min_sparsity=0.5)}
    assert {name for name, c in done.items() if c.is_compressed} == {"high.weight"}
    assert "no kernel for Conv1d" in done["conv.weight"].reason
    assert done["shared.weight"].reason == "its weight is tied to another layer's weight"
    assert done["wide.weight"].reason == (
        "its weight is torch.float64; the kernels require float32"
    )
    assert re.fullmatch(r"its level 0\.\d{3} is below 0\.5", done["low.weight"].reason)
    printed = capsys.readouterr().out
    assert "high.weight is compressed" in printed
    assert "conv.weight stays masked: no kernel for Conv1d" in printed


def test_only_and_where():
    model = make_model()
    sparse.Static(0.9).apply(model)
    done = sparse.compress(model, only="2.*", verbose=False)
    assert [c.is_compressed for c in done] == [False, True, False]
    assert measure_speed(nn.Linear(64, 64), model[2].weight_mask, tokens=16, rounds=1) > 0
    with pytest.raises(OptionError, match=r"^where must be 'faster' or None; got "):
        sparse.compress(model, where="quicker")
    with pytest.raises(LevelError, match=r"^min_sparsity must be between 0 and 1; got "):
        sparse.compress(model, min_sparsity=2)
    with pytest.raises(
        OptionError, match=r"^unknown storage 'compresed'; did you mean 'compressed'"
    ):
        sparse.configure({"algorithm": "static", "sparsity": 0.5, "storage": "compresed"})


def test_a_layer_built_compressed_is_trained_by_any_algorithm():
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(20, 32, sparsity=0.8), nn.Tanh(), nn.Linear(32, 2))
    sparsity = sparse.SET(sparsity=0.8, update=2)
    sparsity.apply(model)
    assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity.apply(optimizer)
    before = model[0].weight_mask
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
    assert not torch.equal(model[0].weight_mask, before)
    assert model[0].layout.nnz == sparse.core.counts.num_kept(0.8, 640)


def step(model, optimizer, seed=0):
    """Train one step on random data."""
    optimizer.zero_grad()
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(seed))
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_removed_model_trains_on_as_the_masked_one_does(optimizer):
    trained = {}
    for storage in ("masked", "compressed"):
        model, calls = make_model(), []
        model[2].register_forward_hook(lambda module, args, y, calls=calls: calls.append(module))
        sparsity = sparse.SET(sparsity=0.5, update=5)
        sparsity.storage = storage
        sparsity.apply(model)
        stepped = OPTIMIZERS[optimizer](model.parameters())
        sparsity.apply(stepped)
        step(model, stepped)
        sparsity.remove()
        trained[storage] = [model[2].weight.grad.clone()]
        step(model, stepped, 1)
        assert calls[1] is model[2]
        assert list(model.state_dict()) == list(make_model().state_dict())
        trained[storage] += model.state_dict().values()
    for masked, compressed in zip(*trained.values(), strict=True):
        torch.testing.assert_close(compressed, masked, atol=1e-5, rtol=1e-4)


def test_remove_leaves_layers_that_the_algorithm_did_not_compress():
    built = nn.Sequential(SparseLinear(20, 32, sparsity=0.5))
    compressed, other = make_model(), sparse.Static(0.5)
    other.storage = "compressed"
    other.apply(compressed)
    for model in (built, copy.deepcopy(compressed)):
        before = copy.deepcopy(model.state_dict())
        sparsity = sparse.Static(0.5)
        sparsity.apply(model)
        optimizer = torch.optim.Adam(model.parameters())
        sparsity.apply(optimizer)
        sparsity.remove()
        assert isinstance(model[0], SparseLinear)
        assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
        step(model, optimizer)


HOOKS = {
    "forward": lambda m, f: m.register_forward_hook(f),
    "forward_kwargs": lambda m, f: m.register_forward_hook(f, with_kwargs=True),
    "forward_always": lambda m, f: m.register_forward_hook(f, always_call=True),
    "forward_pre": lambda m, f: m.register_forward_pre_hook(f),
    "forward_pre_kwargs": lambda m, f: m.register_forward_pre_hook(f, with_kwargs=True),
    "backward": lambda m, f: m.register_full_backward_hook(f),
    "backward_pre": lambda m, f: m.register_full_backward_pre_hook(f),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_the_user_are_called_with_either_storage(kind):
    model, calls = make_model(), []
    handle = HOOKS[kind](model[2], lambda *args: calls.append(len(args)))
    sparse.Static(0.5).apply(model)

    def call(x):
        model(x).sum().backward()
        if kind == "forward_always":
            with pytest.raises((RuntimeError, ShapeError)):
                model[2](x[:, :3])

    call(torch.randn(4, 20))
    expected = list(calls)
    for convert in (
        lambda: sparse.compress(model, verbose=False),
        lambda: sparse.decompress(model),
    ):
        calls.clear()
        convert()
        call(torch.randn(4, 20))
        assert calls == expected
    handle.remove()
    call(torch.randn(4, 20))
    assert calls == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_that_stepped_before_may_be_added_after_compression(optimizer):
    trained = []
    for storage in ("masked", "compressed"):
        model = make_model()
        stepped = OPTIMIZERS[optimizer](model.parameters())
        step(model, stepped)
        sparsity = sparse.SET(sparsity=0.5, update=2)
        sparsity.storage = storage
        sparsity.apply(model)
        sparsity.apply(stepped)
        for seed in range(1, 5):
            step(model, stepped, seed)
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[1], trained[0], atol=1e-5, rtol=1e-4)


def test_lbfgs_is_refused():
    """LBFGS keeps one vector for all parameters, in which a mask change would shift the entries."""
    model, sparsity = make_model(), sparse.GMP(sparsity=CUBIC, update=2)
    sparsity.storage = "compressed"
    sparsity.apply(model)
    with pytest.raises(AttachError, match=r"LBFGS.*masked"):
        sparsity.apply(torch.optim.LBFGS(model.parameters()))
    sparsity.apply(torch.optim.SGD(model.parameters(), lr=0.1))

    model, sparsity = make_model(), sparse.GMP(sparsity=CUBIC, update=2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    sparsity.apply(model)
    sparsity.apply(optimizer)
    done = sparse.compress(model, verbose=False)
    assert [c.is_compressed for c in done] == [False] * 3
    assert "LBFGS" in done[0].reason
    x = torch.randn(16, 20)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(4):
        optimizer.step(closure)
    assert closure().item() < first


def other_masks(level):
    """Return the states of a separately trained compressed model and of its optimizer."""
    config = {"algorithm": "set", "sparsity": level, "update": 2, "seed": 1}
    _, model, _, optimizer = run({**config, "storage": "compressed"}, "adamw", 4)
    return copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_optimizer_state_follows_a_mask_that_the_model_loads(level):
    state, trained = other_masks(level)[0], []
    for storage in ("masked", "compressed"):
        config = {"algorithm": "set", "sparsity": 0.5, "update": 5, "storage": storage}
        _, model, _, optimizer = run(config, "adamw", 2)
        model.load_state_dict(state)
        for seed in range(4):
            step(model, optimizer, seed)
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[1], trained[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_an_optimizer_state_that_was_loaded_first_belongs_to_the_mask_loaded_after_it(level):
    state, moments = other_masks(level)
    config = {"algorithm": "set", "sparsity": 0.5, "update": 5, "storage": "compressed"}
    _, model, _, optimizer = run(config, "adamw", 2)
    optimizer.load_state_dict(moments)
    model.load_state_dict(state)
    for index, loaded in optimizer.state_dict()["state"].items():
        assert torch.equal(loaded["exp_avg"], moments["state"][index]["exp_avg"])
    step(model, optimizer)
