"""Comparison with the reference implementation, and the two intended differences."""

import base64
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import masks_of
from sparsewright import utils
from sparsewright.core.counts import num_kept

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())
TABLES, TRAJECTORIES = REFERENCE["tables"], REFERENCE["trajectories"]


def decode(entry):
    """Return a tensor or a mask from the reference file."""
    shape = entry["shape"]
    if "bits" in entry:
        packed = np.frombuffer(base64.b64decode(entry["bits"]), dtype=np.uint8)
        bits = np.unpackbits(packed)[: int(np.prod(shape))]
        return torch.from_numpy(bits.astype(bool)).reshape(shape)
    floats = np.frombuffer(base64.b64decode(entry["f32"]), dtype="<f4")
    return torch.from_numpy(floats.copy()).reshape(shape)


def shaper_of(entry):
    """Return the score shaper for an entry such as `["InputGroupScoreShaper", 4]`."""
    if entry["shaper"] is None:
        return None
    name, groups = entry["shaper"]
    return getattr(utils, name)(groups)


@pytest.mark.parametrize(("numel", "level", "kept"), TABLES["kept"])
def test_kept_counts(numel, level, kept):
    assert num_kept(level, numel) == kept


@pytest.mark.parametrize(
    ("spec", "values", "bounds"),
    TABLES["schedules"],
    ids=[str(row[0]) for row in TABLES["schedules"]],
)
def test_schedules(spec, values, bounds):
    schedule = utils.make_hyperparam_schedule(spec)
    for step, value in values:
        assert float(schedule(step)) == pytest.approx(value, abs=1e-6)
    assert schedule.get_min_max_end(0, 10) == pytest.approx(tuple(bounds), abs=1e-6)


@pytest.mark.parametrize(("spec", "steps"), TABLES["update_steps"])
def test_update_steps(spec, steps):
    schedule = utils.make_update_schedule(spec)
    assert [step for step in range(40) if schedule(step)] == steps


@pytest.mark.parametrize("entry", TABLES["masks"])
def test_masks(entry):
    shaper, level, drop = shaper_of(entry), entry["sparsity"], entry["drop_fraction"]
    score = decode(entry["score"])
    topk = utils.make_mask_topk_sparsity(score, level, shaper)
    assert torch.equal(topk, decode(entry["topk"]))
    kept, per_row = utils.make_mask_drop_minimum(score * topk, topk, drop, shaper)
    assert torch.equal(kept, decode(entry["kept"]))
    grown = utils.make_mask_grow_maximum(decode(entry["grow_score"]), kept, level, per_row, shaper)
    assert torch.equal(grown, decode(entry["grown"]))


@pytest.mark.parametrize(("shape", "level", "mask"), TABLES["checkerboard"])
def test_checkerboard(shape, level, mask):
    assert torch.equal(sparse.init.checkerboard(torch.ones(shape), level), decode(mask))


def replay(run, momentum=0.9):
    """Train the reference's model with plain SGD; return its masks by step and the model."""
    layers = {}
    for name in ("fc1", "fc2", "fc3"):
        weight = decode(run["init_weights"][f"{name}.weight"])
        layers[name] = nn.Linear(weight.shape[1], weight.shape[0])
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
        if name != "fc3":
            model.add_module(f"relu_{name}", nn.ReLU())
    model.load_state_dict({name: decode(value) for name, value in run["init_weights"].items()})
    sparsity = sparse.configure(run["config"])
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-3)
    sparsity.apply(optimizer)
    x, y = decode(run["x"]), torch.tensor(run["y"])
    history, losses = [(0, masks_of(sparsity))], []
    batches = zip(x.split(16), y.split(16), strict=True)
    for step in range(1, len(run["last_microbatch_loss"]) + 1):
        optimizer.zero_grad()
        for _ in range(run["accumulate"]):
            inputs, labels = next(batches)
            loss = nn.functional.cross_entropy(model(inputs), labels) / run["accumulate"]
            loss.backward()
        if run["clip_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), run["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
        now = masks_of(sparsity)
        if any(not torch.equal(now[name], history[-1][1][name]) for name in now):
            history.append((step, now))
    return history, losses, model


@pytest.mark.parametrize("name", list(TRAJECTORIES))
def test_trajectories(name):
    run = TRAJECTORIES[name]
    history, losses, model = replay(run)
    # The file always lists the masks of step 1, even if they did not change.
    expected = [(0, run["init_masks"]), *run["masks"][1:]]
    assert run["masks"][0] == [1, run["init_masks"]]
    assert [step for step, _ in history] == [step for step, _ in expected]
    for (step, masks), (_, wanted) in zip(history, expected, strict=True):
        for key, mask in wanted.items():
            layer = key.removesuffix("_mask")
            assert torch.equal(masks[layer], decode(mask)), f"{layer} at step {step}"
    for layer, weight in run["final_weights"].items():
        actual = model.state_dict()[layer]
        torch.testing.assert_close(actual, decode(weight), rtol=0, atol=1e-5)
    assert losses == pytest.approx(run["last_microbatch_loss"], abs=1e-5)


def test_the_weight_tolerance_rejects_a_wrong_momentum():
    """The tolerance of `test_trajectories` is narrow enough to see one wrong hyperparameter."""
    run = TRAJECTORIES["rigl/sgd"]
    _, _, model = replay(run, momentum=0.899)
    layer = "fc1.weight"
    difference = (model.state_dict()[layer] - decode(run["final_weights"][layer])).abs().max()
    assert difference > 1e-4


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99, 0.1, 0.7, 0.3333, 0.123456])
@pytest.mark.parametrize("n", [10_000_019, 123_456_789, 1_000_000_000, 2**31 + 11])
@pytest.mark.parametrize("kind", ["python", "float32", "float64"])
def test_large_counts_are_the_exact_decimal_product(level, n, kind):
    """FIX: the reference multiplies in float32, which cannot count beyond 2^24."""
    given = level
    if kind == "float32":
        given = torch.tensor(level, dtype=torch.float32)
    elif kind == "float64":
        given = torch.tensor(level, dtype=torch.float64)
    exact = (1 - Decimal(str(level))) * n
    assert num_kept(given, n) == int(round(exact, 6) // 1)


def test_float32_arithmetic_would_be_off():
    """Float32 arithmetic gives a wrong count, which the exact product corrects."""
    level, n = 0.9, 123_456_789
    in_float32 = int(torch.floor((1 - torch.tensor(level)) * torch.tensor(float(n))))
    assert num_kept(level, n) == 12_345_678
    assert in_float32 != 12_345_678


@pytest.mark.parametrize("algorithm", ["set", "rigl"])
def test_a_cosine_drop_fraction_moves(algorithm):
    """FIX: in the reference, the fraction stays at its first value."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 25, bias=False))
    sparsity = sparse.configure(
        {
            "algorithm": algorithm,
            "sparsity": 0.5,
            "drop_fraction": {"type": "cosine", "init": 0.4, "half_period": 10},
            "update": 1,
        }
    )
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsity.apply(optimizer)
    dropped = []
    sparsity.register_mask_update_hook(lambda event: dropped.append(event.dropped))
    parameter = sparsity.sparse_params["0.weight"]
    for _ in range(10):
        # All live weights are equal and their dense gradient is the smallest, so RigL does not
        # regrow dropped connections.
        with torch.no_grad():
            parameter.param.copy_(parameter.mask.float())
        optimizer.zero_grad()
        score = torch.where(parameter.mask, 0.1, 1.0)
        (model[0].weight * score).sum().backward()
        optimizer.step()
    if algorithm == "rigl":
        fractions = [0.2 * (1 + np.cos(np.pi * step / 10)) for step in range(1, 11)]
        assert dropped == [500 - int((1 - round(f, 7)) * 500 + 1e-6) for f in fractions]
    assert dropped[0] > 3 * dropped[-2] > 0
    assert dropped[-1] == 0
