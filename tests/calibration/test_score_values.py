"""The scores before training, compared with brute force, by hand and with each other."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.scored import chosen, differentiated, hessian_product, pruned, squares, weights_of
from sparsewright.calibration import force, grasp, snip, synflow
from sparsewright.calibration.rounds import best_of_all, levels_of
from sparsewright.core.counts import num_kept


@st.composite
def nets(draw):
    """Draw a small net of linear or convolutional layers in float64, with batches for it."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    is_conv = draw(st.booleans())
    layers = []
    for inputs, outputs in pairwise(sizes):
        made = nn.Conv2d(inputs, outputs, 2, padding=1) if is_conv else nn.Linear(inputs, outputs)
        layers += [made, draw(st.sampled_from([nn.Tanh, nn.ReLU, nn.Softplus]))()]
    model = nn.Sequential(*layers[:-1]).double()
    for param in model.parameters():
        param.data = torch.randn(param.shape, generator=generator, dtype=torch.float64)
    shape = (sizes[0], 2, 2) if is_conv else (sizes[0],)
    counts = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    draw_batch = [
        torch.randn(count, *shape, generator=generator, dtype=torch.float64) for count in counts
    ]
    return model, draw_batch


def on(batch):
    """Return the loss on a batch as a function of the model."""
    return lambda model: squares(model, batch)


def assert_close(found, expected):
    assert list(found) == list(expected)
    for name, score in found.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-9, atol=1e-14, msg=name)


@given(nets())
def test_snip_is_the_product_of_weight_and_mean_gradient(case):
    model, batches = case
    gradients = differentiated(model, [on(batch) for batch in batches])
    expected = {name: (w * gradients[name]).abs() for name, w in weights_of(model).items()}
    assert_close(snip(model, squares, batches), expected)


def test_snip_of_a_linear_model_by_hand():
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.5, -1.0]])
    x, y = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.5, 1.0]])
    # outputs [-1.5, 0.5], errors [-2, -0.5]; loss = sum of squares / 2, gradient = error * x
    scores = snip(
        model, lambda model, batch: (model(batch[0]) - batch[1]).pow(2).sum() / 2, [[x, y]]
    )
    assert scores["weight"].tolist() == [[2.0, 8.0, 3.0], [0.0, 0.5, 0.25]]


@settings(max_examples=25)
@given(nets(), st.sampled_from([1.0, 3.0, 200.0]))
def test_grasp_is_the_product_of_weight_and_hessian_times_gradient(case, temperature):
    model, batches = case
    losses = [lambda model, x=x: (model(x) / temperature).pow(2).mean() for x in batches]
    found = grasp(model, squares, batches, temperature=temperature, halves=False)
    expected = hessian_product(model, losses)
    for name, score in found.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(score, expected[name], rtol=1e-8, atol=1e-10 * scale)


@settings(max_examples=25)
@given(nets())
def test_grasp_in_halves_is_grasp_with_the_halves_as_batches(case):
    model, batches = case
    parts = [half for x in batches for half in (x[: len(x) // 2], x[len(x) // 2 :])]
    expected = grasp(model, squares, parts, halves=False)
    assert_close(grasp(model, squares, batches), expected)
    even = [x[: len(x) // 2 * 2] for x in batches]
    for name, score in grasp(model, squares, even).items():
        whole = grasp(model, squares, even, halves=False)[name]
        torch.testing.assert_close(score, whole, rtol=1e-8, atol=1e-10 * float(whole.abs().max()))


def test_grasp_by_hand():
    """The loss w1^2 w2 has g = (2 w1 w2, w1^2) and H = ((2 w2, 2 w1), (2 w1, 0))."""
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data = torch.tensor([[3.0, 5.0]], dtype=torch.float64)

    def loss_fn(model, batch):
        first, second = (model(row[None]) for row in torch.eye(2, dtype=torch.float64))
        return (first.square() * second).sum()

    # H g = (10 * 30 + 6 * 9, 6 * 30) = (354, 180)
    found = grasp(model, loss_fn, [None], temperature=1, halves=False)
    assert found["weight"].tolist() == [[3 * 354, 5 * 180]]


def test_grasp_of_a_loss_that_is_linear_in_the_weights_is_zero():
    scores = grasp(nn.Linear(3, 2), lambda model, x: model(x).sum(), [torch.ones(2, 3)])
    assert not scores["weight"].any()


def positive(model):
    """Return a copy with absolute parameters and buffers, in float64 and eval mode."""
    twin = copy.deepcopy(model).double().eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.data.abs()
    return twin


def flow_scores(model, shape):
    """Return w * dR/dw of a positive model."""
    weights = weights_of(model)
    flow = model(torch.ones(shape, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()))
    return {n: w.detach() * g for (n, w), g in zip(weights.items(), gradients, strict=True)}


@settings(max_examples=30)
@given(nets(), st.integers(1, 6), st.sampled_from([0.0, 0.5, 0.9, 0.97]))
def test_synflow_prunes_in_rounds(case, rounds, level):
    model, batches = case
    twin, scores = positive(model), {}
    for each in levels_of(rounds, level):
        scores = flow_scores(twin, batches[0].shape)
        twin = pruned(twin, chosen(scores, each))
    assert_close(synflow(model, batches[0], rounds=rounds, sparsity=level), scores)


def test_synflow_of_a_linear_chain_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
    model[1].weight.data = torch.tensor([[-5.0, 6.0]])
    scores = synflow(model, torch.randn(1, 2), rounds=1, sparsity=0.5)
    assert scores["0.weight"].tolist() == [[5.0, 10.0], [18.0, 24.0]]
    assert scores["1.weight"].tolist() == [[15.0, 42.0]]  # the sums of both layers are equal
    # The first round keeps the largest 3 of 6 scores, at density sqrt(0.25): 42, 24, 18.
    scores = synflow(model, torch.randn(1, 2), rounds=2, sparsity=0.75)
    assert scores["0.weight"].tolist() == [[0.0, 0.0], [18.0, 24.0]]
    assert scores["1.weight"].tolist() == [[0.0, 42.0]]


def test_synflow_conserves_the_flow_through_every_layer():
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten()),
        *(nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)),
    )
    with torch.no_grad():
        model(torch.randn(8, 3, 4, 4))  # a running mean that is not 0 must not matter
        model[2].running_mean.zero_()
    scores = synflow(model, torch.zeros(1, 3, 4, 4), rounds=20, sparsity=0.9)
    sums = [float(score.sum()) for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * 3)
    assert sums[0] > 0


def test_synflow_does_not_empty_a_bottleneck_that_snip_empties(caplog):
    """The reason for SynFlow: it keeps a narrow layer up to the highest possible sparsity."""
    model = nn.Sequential(
        nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 2, bias=False), nn.ReLU()
    )
    model.append(nn.Linear(2, 64, bias=False))
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    scores = synflow(model, torch.zeros(1, 64), sparsity=0.99)
    assert all(mask.any() for mask in chosen(scores, 0.99).values())
    assert not caplog.records


def test_synflow_uses_float64_for_deep_models():
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(60)))
    for layer in model:
        nn.init.constant_(layer.weight, 1.0)  # the sum of the outputs is 64**61
    scores = synflow(model, torch.zeros(1, 64), rounds=1, sparsity=0.0)
    assert {score.dtype for score in scores.values()} == {torch.float64}
    assert float(scores["59.weight"][0, 0]) == pytest.approx(64.0**59)


@settings(max_examples=30)
@given(nets(), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.8]), st.booleans())
def test_force_scores_the_pruned_model(case, rounds, level, regrow):
    model, batches = case
    scores, live = {}, {name: torch.ones_like(w).bool() for name, w in weights_of(model).items()}
    for each in levels_of(rounds, level):
        gradients = differentiated(pruned(model, live), [on(batch) for batch in batches])
        scored = weights_of(model if regrow else pruned(model, live))
        scores = {name: (w * gradients[name]).abs().detach() for name, w in scored.items()}
        below = {n: score.masked_fill(~live[n], -1) for n, score in scores.items()}
        live = chosen(scores if regrow else below, each)
    found = force(model, squares, batches, rounds=rounds, sparsity=level, regrow=regrow)
    assert_close(found, scores)


@given(nets(), st.booleans())
def test_force_with_one_round_is_snip(case, regrow):
    model, batches = case
    found = force(model, squares, batches, rounds=1, sparsity=0.7, regrow=regrow)
    for name, score in snip(model, squares, batches).items():
        assert torch.equal(found[name], score)


def test_pruned_weights_return_in_force_only():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))
    batches = [torch.randn(16, 16)]
    options = {"rounds": 8, "sparsity": 0.9}
    first = chosen(force(model, squares, batches, rounds=1, sparsity=0.25), 0.25)
    returned = {
        regrow: sum(
            int((score[~first[name]] > 0).sum())
            for name, score in force(model, squares, batches, regrow=regrow, **options).items()
        )
        for regrow in (True, False)
    }
    assert returned[True] > 0
    assert returned[False] == 0


def test_pruned_weights_do_not_return_in_place_of_live_ones_with_the_score_zero():
    model = nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.weight)
    rows = iter(torch.tensor([[0.0, 1, 2, 3], [1, 0, 0, 1], [7, 1, 1, 1]]))

    def loss_fn(model, batch):
        return model(next(rows)).sum()

    # The rounds keep 3, 2 and 2 entries: {1, 2, 3}, then {1, 3}, as the entries 1 and 2 tie at 0.
    scores = force(model, loss_fn, [None], rounds=3, sparsity=0.5, regrow=False)
    assert scores["weight"].tolist() == [[0.0, 1.0, 0.0, 1.0]]


@given(st.integers(1, 50), st.sampled_from([0.0, 0.5, 0.9, 0.999]))
def test_densities_fall_exponentially_and_end_at_the_level(rounds, level):
    levels = list(levels_of(rounds, level))
    assert len(levels) == rounds
    assert levels[-1] == level
    ratios = [(1 - b) / (1 - a) for a, b in zip([0.0, *levels], levels, strict=False)]
    assert ratios == pytest.approx([(1 - level) ** (1 / rounds)] * rounds)


def small(rows, columns):
    """Return a strategy for matrices of small integers, in float64."""
    numbers = st.lists(st.integers(-2, 2), min_size=rows * columns, max_size=rows * columns)
    return numbers.map(lambda n: torch.tensor(n, dtype=torch.float64).reshape(rows, columns))


@given(st.data())
def test_the_best_of_all_are_exact_with_ties(data):
    shapes = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1))
    scores = {str(number): data.draw(small(*shape)) for number, shape in enumerate(shapes)}
    level = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9]))
    found = best_of_all(scores, level, {})
    for name, mask in chosen(scores, level).items():
        assert torch.equal(found[name], mask)
    among = {name: score > 0 for name, score in scores.items()}
    kept = sum(int(mask.sum()) for mask in best_of_all(scores, level, among).values())
    total = sum(score.numel() for score in scores.values())
    candidates = sum(int(mask.sum()) for mask in among.values())
    assert kept == min(num_kept(level, total), candidates)


def test_cross_entropy_of_a_classifier_with_dropout_and_batch_norm():
    """A usual net and loss: eval mode, so scores do not depend on the generator."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()),
        nn.Linear(24, 5),
    )
    batches = [(torch.randn(4, 3, 4, 4), torch.randint(5, (4,))) for _ in range(3)]

    def loss_fn(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    first = snip(model, loss_fn, iter(batches))
    losses = [lambda model, b=b: loss_fn(model, b) for b in batches]
    gradients = differentiated(model, losses)
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(first[name], (weight * gradients[name]).abs().detach())
