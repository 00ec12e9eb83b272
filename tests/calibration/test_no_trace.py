"""Scores leave no trace in the model, its buffers, gradients, hooks, modes and generators."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.interruptions import interrupt, places_in
from helpers.scored import everything_of, squares
from helpers.support import assert_same, batch, make_mlp, masks_of
from sparsewright.calibration import force, grasp, snip, synflow
from sparsewright.errors import AttachError

METHODS = {
    "snip": lambda model, loss_fn, batches, **options: snip(model, loss_fn, batches, **options),
    "grasp": lambda model, loss_fn, batches, **options: grasp(model, loss_fn, batches, **options),
    "force": lambda model, loss_fn, batches, **options: force(
        model, loss_fn, batches, rounds=3, sparsity=0.5, **options
    ),
    "synflow": lambda model, loss_fn, batches, **options: synflow(
        model, next(iter(batches)), rounds=3, sparsity=0.5, **options
    ),
}
every_method = pytest.mark.parametrize("score", METHODS.values(), ids=METHODS)
with_data = pytest.mark.parametrize(
    "score", [METHODS[name] for name in ("snip", "grasp", "force")], ids=["snip", "grasp", "force"]
)


class Restless(nn.Module):
    """Change everything that a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 6, max_norm=0.1)  # rescales its weight in place
        self.norm = nn.BatchNorm1d(6)
        self.first, self.recurrent = nn.Linear(6, 6), nn.LSTM(6, 6, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.first.weight
        self.register_buffer("calls", torch.zeros(()))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.last = None

    def forward(self, x):
        self.calls += 1
        x = x + self.embedding(torch.randint(8, x.shape[:1]))
        x = self.norm(self.frozen(self.dropout(self.tied(self.first(x)).relu())))
        self.last = self.recurrent(x[:, None])[0][:, 0]
        return self.last


def make_restless():
    """Build a model in mixed modes that has gradients, hooks and statistics."""
    model = Restless()
    model.train()
    model.norm.eval()
    model(batch(0, 4, 6)).sum().backward()
    model.first.weight.register_hook(lambda grad: pytest.fail("a hook on a weight ran"))
    model.first.weight.register_post_accumulate_grad_hook(lambda p: pytest.fail("a hook ran"))
    model.first.register_forward_hook(lambda module, args, output: None)
    return model


def untidy(model, batch):
    """Compute a loss, but leave behind all that a careless function can leave."""
    with torch.no_grad():
        model.first.weight.mul_(2)
        model.norm.running_mean.add_(1)
    model.tied.register_forward_pre_hook(lambda module, args: (args[0] * torch.rand(()),))
    loss = squares(model, batch)
    model.train()
    model.frozen.requires_grad_(True)
    model.note = loss
    model.first.weight.grad = torch.ones(6, 6)
    del model.last
    return loss


def failing(model, batch):
    """Do the same, and raise."""
    untidy(model, batch)
    raise ZeroDivisionError


def interrupted(model, batch):
    """Do the same, and get a Ctrl-C."""
    untidy(model, batch)
    raise KeyboardInterrupt


@every_method
def test_a_model_that_changes_in_every_forward_stays_as_it_is(score):
    model = make_restless()
    before = everything_of(model)
    assert score(model, squares, [batch(1, 4, 6), batch(2, 6, 6)])
    assert_same(everything_of(model), before)


@with_data
def test_a_loss_function_that_changes_the_model_leaves_no_trace(score):
    model = make_restless()
    before = everything_of(model)
    assert score(model, untidy, [batch(1, 4, 6), batch(2, 6, 6)])
    assert_same(everything_of(model), before)


@with_data
@pytest.mark.parametrize(
    ("loss_fn", "error"), [(failing, ZeroDivisionError), (interrupted, KeyboardInterrupt)]
)
def test_a_loss_function_that_raises_leaves_no_trace(score, loss_fn, error):
    model = make_restless()
    before = everything_of(model)
    with pytest.raises(error):
        score(model, loss_fn, [batch(1, 4, 6)])
    assert_same(everything_of(model), before)


def test_an_error_in_the_model_leaves_no_trace():
    model = make_restless()
    before = everything_of(model)
    with pytest.raises(RuntimeError):
        synflow(model, torch.ones(4, 5), sparsity=0.5)
    assert_same(everything_of(model), before)


@every_method
def test_ctrl_c_at_any_line_leaves_no_trace(score):
    model, data = make_mlp(), [batch(1, 4, 8)]
    model(data[0]).sum().backward()
    before = everything_of(model)
    places = places_in(lambda: score(model, squares, data))
    assert len(places) > 100
    for place in places[::3]:
        assert interrupt(lambda: score(model, squares, data), place)
        assert_same(everything_of(model), before, str(place))


@every_method
def test_the_global_generator_does_not_matter(score):
    model, data = make_restless(), [batch(1, 4, 6)]
    model.embedding.weight.data.zero_()  # the only part that draws numbers in eval mode
    first = score(model, squares, data)
    torch.rand(3)
    assert_same(score(model, squares, data), first)


@every_method
def test_a_loader_that_shuffles_draws_no_numbers_of_the_user(score):
    model, data = make_mlp(), torch.randn(8, 8)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    before = torch.get_rng_state()
    score(model, squares, loader if score is not METHODS["synflow"] else [data])
    assert torch.equal(torch.get_rng_state(), before)


@every_method
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_scores_inside_no_grad_are_the_same(score, context):
    model, data = make_mlp(), [batch(1, 4, 8)]
    expected = score(model, squares, data)
    with context():
        found = score(model, squares, data)
        assert not torch.is_grad_enabled()
    assert_same(found, expected)
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in found.values())


@pytest.mark.parametrize("storage", ["masked", "shadowed"])
def test_training_goes_on_as_if_nothing_had_been_scored(storage):
    """An algorithm with masks, hooks and dense gradients, scored before every step."""

    def run(is_scored):
        model = make_mlp()
        algorithm = sparse.RigL(0.5, sparsity=0.5, update=2, storage=storage)
        algorithm.apply(model)
        optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
        algorithm.apply(optimizer)
        for step in range(6):
            optimizer.zero_grad()
            model(batch(step, 5, 8)).pow(2).mean().backward()
            for score in METHODS.values() if is_scored else ():
                score(model, squares, [batch(50 + step, 4, 8)])
            optimizer.step()
        return model.state_dict(), masks_of(algorithm)

    assert_same(run(True), run(False))


@every_method
def test_pruned_weights_of_a_sparse_model_have_the_score_zero(score):
    model = make_mlp()
    algorithm = sparse.Static(0.75)
    algorithm.apply(model)
    before = everything_of(model)
    scores = score(model, squares, [batch(1, 4, 8)])
    assert_same(everything_of(model), before)
    assert list(scores) == list(algorithm.sparse_params)
    for name, parameter in algorithm.sparse_params.items():
        assert not scores[name][~parameter.mask].any()
        assert scores[name][parameter.mask].any()


@every_method
def test_a_compressed_layer_beside_the_scored_ones_stays_as_it_is(score):
    model = make_mlp(hidden=64)
    sparse.configure(
        {"algorithm": "rigl", "sparsity": 0.9, "update": 1, "storage": "compressed"}
        | {"param_filter": "2.weight"}
    ).apply(model)
    expected = copy.deepcopy(model)
    sparse.decompress(expected)
    assert model[2].tap.is_armed
    found = score(model, squares, [batch(1, 4, 8)], param_filter="0.weight")
    assert model[2].tap._passes == {}
    same = score(expected, squares, [batch(1, 4, 8)], param_filter="0.weight")
    torch.testing.assert_close(found["0.weight"], same["0.weight"])
    problem = (
        r"^2\.weight: it is compressed; call sparsewright\.decompress\(model\) before you score it$"
    )
    with pytest.raises(AttachError, match=problem):
        score(model, squares, [batch(1, 4, 8)])
