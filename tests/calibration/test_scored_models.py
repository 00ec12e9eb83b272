"""Scores of real models: attention, transformers, recurrent layers, dtypes and wrappers."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.scored import differentiated, hessian_product, squares, weights_of
from helpers.support import assert_same, batch, make_mlp
from sparsewright.calibration import force, grasp, snip, synflow

METHODS = {
    "snip": snip,
    "grasp": grasp,
    "force": lambda *args, **options: force(*args, rounds=2, sparsity=0.5, **options),
}
with_data = pytest.mark.parametrize("score", METHODS.values(), ids=METHODS)


class Attention(nn.Module):
    """Use the attention function of torch directly."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        heads = (layer(x).unflatten(-1, (2, 2)).transpose(1, 2) for layer in self.children())
        return F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Use `nn.MultiheadAttention`, which calls that function if it returns no weights."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


MODELS = {
    "scaled_dot_product_attention": Attention,
    "MultiheadAttention": SelfAttention,
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
    "LSTM": lambda: Recurrent(),
}


class Recurrent(nn.Module):
    """Return only the outputs of an LSTM."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_second_derivatives_of_attention_and_recurrent_layers(make):
    torch.manual_seed(3)
    model, x = make().double(), batch(0, 2, 3, 4).double()
    mix = batch(1, 2, 3, model(x).shape[-1]).double()  # a LayerNorm's squares are constant

    def loss_fn(model, x):
        return (model(x) * mix).sigmoid().mean()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = hessian_product(model, [lambda model: loss_fn(model, x)])
    found = grasp(model, loss_fn, [x], temperature=1, halves=False)
    assert list(found) == list(expected)
    for name, score in found.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(score, expected[name], rtol=1e-7, atol=1e-9 * scale)
        assert scale > 0, name


def make_gpt2():
    """Build a tiny GPT-2, with a batch and the usual loss for it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=12, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(32, (4, 8), generator=generator)
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return transformers.GPT2LMHeadModel(config), transformers.BatchEncoding(data)


def next_token_loss(model, batch):
    """Return the loss of a language model, computed from its logits."""
    logits = model(**batch).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_gpt2(implementation):
    model, data = make_gpt2()
    model.set_attn_implementation(implementation)
    names = [
        f"transformer.h.{block}.{layer}.weight"
        for block in range(2)
        for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    gradients = differentiated(model, [lambda model: next_token_loss(model, data)])
    scores = snip(model, next_token_loss, [data])
    assert list(scores) == names
    for name, score in scores.items():
        weight = model.get_parameter(name)
        torch.testing.assert_close(score, (weight * gradients[name]).abs().detach())
    whole = grasp(model, next_token_loss, [data], halves=False)
    halved = grasp(model, next_token_loss, [data])  # a BatchEncoding stays one when it is halved
    for name in names:
        size = float(whole[name].abs().max())
        assert size > 0
        torch.testing.assert_close(halved[name], whole[name], rtol=1e-3, atol=1e-4 * size)


def test_temperature_divides_the_logits_of_transformers():
    model, data = make_gpt2()
    model.double()

    def divided(model, batch):
        logits = model(**batch).logits[:, :-1] / 7
        return F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    found = grasp(model, next_token_loss, [data], temperature=7, halves=False)
    expected = grasp(model, divided, [data], temperature=1, halves=False)
    for name, score in found.items():
        size = float(expected[name].abs().max())
        torch.testing.assert_close(score, expected[name], rtol=1e-7, atol=1e-9 * size)


def test_synflow_of_a_language_model_reads_its_token_ids(caplog):
    model, data = make_gpt2()
    scores = synflow(model, data, rounds=3, sparsity=0.5)
    assert all(score.any() for score in scores.values())
    assert_same(synflow(model, dict(data), rounds=3, sparsity=0.5), scores)
    other = {**data, "input_ids": data["input_ids"].flip(1)}
    changed = synflow(model, other, rounds=3, sparsity=0.5)
    assert not torch.equal(*(s["transformer.h.0.attn.c_attn.weight"] for s in (scores, changed)))


def test_synflow_takes_arguments_by_position_and_ignores_their_values():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, a, b):
            return {"sum": self.first(a) + self.second(b), "parts": (self.first(a), None)}

    model = TwoInputs()
    expected = synflow(model, (torch.ones(1, 3), torch.ones(1, 2)), rounds=1, sparsity=0.5)
    for example in (
        [torch.randn(1, 3), torch.randn(1, 2)],
        {"b": batch(0, 1, 2), "a": batch(1, 1, 3)},
    ):
        assert_same(synflow(model, example, rounds=1, sparsity=0.5), expected)
    torch.testing.assert_close(expected["first.weight"], 2 * model.first.weight.abs().double())
    torch.testing.assert_close(expected["second.weight"], model.second.weight.abs().double())


def test_synflow_warns_once_of_modules_that_break_its_assumption(caplog):
    model = nn.Sequential(
        *(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.GELU()),
        *(nn.Linear(4, 4), nn.ELU(), nn.TransformerEncoderLayer(4, 1, 4), nn.ReLU6()),
    )
    synflow(model, torch.ones(2, 3, 4), rounds=2, sparsity=0.1)
    (first,) = [line for line in messages(caplog) if line.startswith("SynFlow assumes")]
    assert first == (
        "SynFlow assumes layers that are linear for positive inputs, such as layers with ReLU; "
        "this model has ELU, GELU, LayerNorm, MultiheadAttention, ReLU6, so layers can lose all "
        "their entries at high sparsity"
    )
    caplog.clear()
    layers = nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.LeakyReLU()
    synflow(nn.Sequential(*layers), torch.ones(2, 4), rounds=2, sparsity=0.1)
    assert not messages(caplog)


def messages(caplog):
    """Return the texts of all warnings in the log."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("method", ["force", "synflow"])
def test_weights_that_end_empty_are_named_in_one_warning(caplog, method):
    model = make_mlp(outputs=3)
    with torch.no_grad():
        model.append(nn.ReLU()).append(nn.Linear(3, 3, bias=False)).append(nn.Linear(3, 2))
        model[2].weight.fill_(1e-12)
        model[4].weight.fill_(1e-12)
        model[5].weight.fill_(1e-12)
        model[0].weight.fill_(1.0)
    options = {"rounds": 1, "sparsity": 0.9}
    if method == "force":
        force(model, lambda m, x: m(x).sum() + m[0](x).sum(), [torch.ones(2, 8)], **options)
        title = "FORCE"
    else:
        model[0].bias.data.fill_(-1.0)
        model.append(nn.Identity())
        synflow(Beside(model), torch.ones(2, 8), **options)
        title = "SynFlow"
    prefix = "" if method == "force" else "body."
    names = ", ".join(f"{prefix}{number}.weight" for number in (2, 4, 5))
    assert messages(caplog) == [
        f"{title} at sparsity 0.9 keeps no entry of {names}; lower the sparsity, or exclude these "
        "weights with a param_filter"
    ]


class Beside(nn.Module):
    """Return the output of a model and of its first layer."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x), self.body[0](x)


@with_data
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_a_half_precision_model_are_float32(score, dtype):
    torch.manual_seed(0)
    model, x = make_mlp().to(dtype), batch(0, 16, 8).to(dtype)
    model[1] = nn.Softplus()
    found = score(model, lambda model, x: model(x).float().pow(2).mean(), [x])
    expected = score(copy.deepcopy(model).double(), squares, [x.double()])
    for name, score_ in found.items():
        assert score_.dtype == torch.float32
        scale = float(expected[name].abs().max())
        tolerance = 0.1 if dtype == torch.bfloat16 else 0.02
        torch.testing.assert_close(score_.double(), expected[name], rtol=0, atol=tolerance * scale)
    flow = synflow(model, x, rounds=3, sparsity=0.5)
    assert_same(flow, synflow(copy.deepcopy(model).double(), x, rounds=3, sparsity=0.5))


class Complex(nn.Module):
    """Two complex layers with a real result."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Linear(3, 3, dtype=torch.complex128) for _ in range(2))

    def forward(self, x):
        return self.second(self.first(x)).abs()


def test_scores_of_complex_weights_are_derivatives_by_a_real_factor():
    model, x = Complex(), torch.randn(4, 3, dtype=torch.complex128)
    weights = weights_of(model)

    def loss(factor, name):
        scaled = {name: weights[name] * factor}
        return torch.func.functional_call(model, scaled, (x,)).pow(2).mean()

    scores = snip(model, squares, [x])
    for name, weight in weights.items():
        ones = torch.ones_like(weight, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(ones, name), ones)
        torch.testing.assert_close(scores[name], gradient.abs())
    assert force(model, squares, [x], rounds=2, sparsity=0.5).keys() == scores.keys()
    assert {s.dtype for s in grasp(model, squares, [x]).values()} == {torch.float64}
    flow = synflow(model, x, rounds=1, sparsity=0.5)
    real = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    for layer, twin in zip(model.children(), real, strict=True):
        twin.weight.data, twin.bias.data = layer.weight.data.abs(), layer.bias.data.abs()
    expected = synflow(real, x.abs(), rounds=1, sparsity=0.5)
    for score, twin in zip(flow.values(), expected.values(), strict=True):
        torch.testing.assert_close(score, twin)


@with_data
def test_a_compiled_model_has_the_names_and_scores_of_the_plain_one(score):
    model, x = make_mlp(), batch(0, 6, 8)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    expected = score(model, squares, [x])
    assert_same(score(compiled, squares, [x]), expected)
    model.compile(backend="eager")
    assert_same(score(model, squares, [x]), expected)
    flow = synflow(make_mlp(), x, sparsity=0.5)
    assert_same(synflow(compiled, x, sparsity=0.5), flow)


@with_data
def test_other_wrappers_do_not_change_the_names(score):
    model, x = make_mlp(), batch(0, 6, 8)
    expected = score(model, squares, [x])

    def loss_fn(model, x):
        assert type(model) is nn.Sequential  # the reducer of DDP, for one, must not run
        return squares(model, x)

    assert_same(score(nn.DataParallel(model), loss_fn, [x]), expected)
    assert_same(score(torch.optim.swa_utils.AveragedModel(model), loss_fn, [x]), expected)


@with_data
def test_a_tied_weight_has_one_score_from_all_its_uses(score):
    model, x = make_mlp(inputs=6, hidden=6, outputs=6), batch(0, 4, 6)
    model[2].weight = model[0].weight
    found = score(model, squares, [x])
    assert list(found) == ["0.weight"]
    if score is snip:
        (gradient,) = torch.autograd.grad(squares(model, x), model[0].weight)
        torch.testing.assert_close(found["0.weight"], (model[0].weight * gradient).abs().detach())
    assert list(synflow(model, x, sparsity=0.5)) == ["0.weight"]


@with_data
def test_frozen_weights_are_scored_if_a_filter_picks_them(score):
    model, x = make_mlp(), batch(0, 4, 8)
    expected = score(model, squares, [x])
    model[0].requires_grad_(False)
    assert list(score(model, squares, [x])) == ["2.weight"]
    assert_same(score(model, squares, [x], param_filter="*weight"), expected)
    assert not model[0].weight.requires_grad
    assert list(synflow(model, x, sparsity=0.5, param_filter=["0.*"])) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("score", [snip, grasp])
def test_a_parametrized_weight_is_scored_where_its_values_are(score):
    model, x = make_mlp(), batch(0, 4, 8)
    nn.utils.parametrizations.weight_norm(model[0])
    assert list(score(model, squares, [x])) == [
        "0.parametrizations.weight.original1",
        "2.weight",
    ]


@with_data
def test_a_weight_that_only_some_batches_use_is_scored(score):
    model, x = make_mlp(inputs=4, hidden=4, outputs=4), batch(0, 4, 4)

    def loss_fn(model, item):
        chosen = model(item[0]) if item[1] else model[0](item[0])
        return chosen.pow(2).mean()

    options = {"temperature": 1} if score is grasp else {}
    found = score(model, loss_fn, [(x, False), (x, True)], **options)
    assert all(each.any() for each in found.values())
