"""Data, losses and models that cannot be scored: one error that names the thing and the fix."""

import pytest
import torch
from torch import nn

from helpers.scored import everything_of, squares
from helpers.support import assert_same, batch, make_mlp
from sparsewright.calibration import force, grasp, snip, synflow
from sparsewright.errors import (
    AttachError,
    CalibrationError,
    LevelError,
    OptionError,
    OptionTypeError,
    ScoreError,
)

X = batch(0, 4, 8)
METHODS = {
    "snip": snip,
    "grasp": grasp,
    "force": lambda *args, **options: force(*args, rounds=2, sparsity=0.5, **options),
}
with_data = pytest.mark.parametrize("score", METHODS.values(), ids=METHODS)


def assert_raises(error, sentence, call):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == sentence


@with_data
@pytest.mark.parametrize("empty", [[], ()])
def test_no_batches(score, empty):
    sentence = (
        f"batches must be an iterable with at least one batch; got {empty}. An iterator is empty "
        "after its first use; pass a list instead."
    )
    assert_raises(OptionError, sentence, lambda: score(make_mlp(), squares, empty))


@with_data
def test_an_iterator_that_has_ended(score):
    batches = iter([X])
    assert score(make_mlp(), squares, batches)
    with pytest.raises(OptionError, match=r"^batches must be an iterable with at least one batch"):
        score(make_mlp(), squares, batches)


@with_data
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (X, "<float32 Tensor of shape (4, 8)>"),
        ({"x": 1}, "{'x': 1} (dict)"),
        ("data", "'data' (str)"),
        (3, "3 (int)"),
    ],
)
def test_a_batch_instead_of_batches(score, given, shown):
    allowed = "an iterable of batches, such as a list or a DataLoader"
    sentence = f"batches must be {allowed}; got {shown}."
    assert_raises(OptionTypeError, sentence, lambda: score(make_mlp(), squares, given))


@with_data
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_batch(score, value):
    def loss_fn(model, batch):
        return squares(model, batch[0]) * batch[1]

    batches = [(X, torch.tensor(1.0)), (X, torch.tensor(value))]
    place = "the first half of batches[1]" if score is grasp else "batches[1]"
    sentence = (
        f"the loss of {place}: it is {value}; check the model and this batch for NaN and infinity"
    )
    model = make_mlp()
    before = everything_of(model)
    assert_raises(CalibrationError, sentence, lambda: score(model, loss_fn, batches))
    assert_same(everything_of(model), before)


@with_data
@pytest.mark.parametrize(
    ("loss_fn", "shown"),
    [
        (lambda model, x: model(x), "<float32 Tensor of shape (4, 4)>"),
        (lambda model, x: 0.0 if model(x).numel() else 1.0, "0.0 (float)"),
        (lambda model, x: None, "None"),
        (lambda model, x: model(x).detach().sum().long() * 0, "tensor(0) (Tensor)"),
    ],
    ids=["output", "float", "none", "integer"],
)
def test_a_loss_that_is_not_a_scalar_tensor(score, loss_fn, shown):
    options = {"temperature": 1, "halves": False} if score is grasp else {}
    allowed = "a scalar floating-point tensor, such as the mean loss of the batch"
    sentence = f"the result of loss_fn must be {allowed}; got {shown}."
    assert_raises(OptionTypeError, sentence, lambda: score(make_mlp(), loss_fn, [X], **options))


@with_data
def test_a_loss_without_a_graph(score):
    sentence = (
        "the loss of batches[0]: it does not depend on the weights; loss_fn must call the model "
        "that it receives, outside torch.no_grad()"
    )
    options = {"halves": False} if score is grasp else {}
    detached = torch.no_grad()(squares)
    assert_raises(CalibrationError, sentence, lambda: score(make_mlp(), detached, [X], **options))


@with_data
def test_a_weight_that_the_loss_ignores_is_named(score):
    model = make_mlp()
    model.extra = nn.Linear(4, 4)
    options = {"temperature": 1} if score is grasp else {}

    def loss_fn(model, x):
        return model[:3](x).pow(2).mean()

    sentence = (
        "extra.weight: the loss does not depend on it; use its output in loss_fn, or pass a "
        "param_filter that excludes it"
    )
    assert_raises(CalibrationError, sentence, lambda: score(model, loss_fn, [X], **options))
    found = score(model, loss_fn, [X], param_filter=["0.weight", "2.weight"], **options)
    assert list(found) == ["0.weight", "2.weight"]


@with_data
def test_a_nan_weight_is_named(score):
    model = make_mlp()
    model[0].weight.data[0, 0] = torch.nan

    def loss_fn(model, x):
        return model(x)[:, 0].nan_to_num().mean() + model[0].weight.nan_to_num().sum()

    options = {"temperature": 1} if score is grasp else {}
    with pytest.raises(ScoreError, match=r"^the score of 0\.weight contains NaN; its entries "):
        score(model, loss_fn, [X], **options)


def test_models_that_cannot_be_scored():
    sentence = "ReLU: it has no parameters"
    assert_raises(AttachError, sentence, lambda: snip(nn.ReLU(), squares, [X]))
    model = nn.Linear(8, 1, bias=True).requires_grad_(False)
    sentence = "Linear: no weight is sparse by default; pass a param_filter for weight, bias"
    assert_raises(AttachError, sentence, lambda: snip(model, squares, [X]))
    sentence = (
        "param_filter must be a filter that picks a weight; got 'body.*'. The parameters are "
        "0.weight, 0.bias, 2.weight, 2.bias."
    )
    call = lambda: snip(make_mlp(), squares, [X], param_filter="body.*")  # noqa: E731
    assert_raises(OptionError, sentence, call)
    lazy = nn.Sequential(nn.LazyLinear(4))
    sentence = "0.weight: it is lazy and has no shape yet; run one forward pass first"
    assert_raises(AttachError, sentence, lambda: snip(lazy, squares, [X]))
    meta = make_mlp().to("meta")
    sentence = "0.weight: it is on the meta device; load its values first"
    assert_raises(AttachError, sentence, lambda: synflow(meta, X, sparsity=0.5))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_model():
    scripted = torch.jit.script(make_mlp())
    for model, name in (scripted, "RecursiveScriptModule"), (nn.Sequential(scripted), "0"):
        with pytest.raises(AttachError, match=f"^{name}: TorchScript modules cannot have masks; "):
            snip(model, squares, [X], param_filter="*")


@pytest.mark.parametrize(
    ("temperature", "error", "allowed"),
    [
        (0, OptionError, "a finite number > 0; got 0."),
        (-1.0, OptionError, "a finite number > 0; got -1.0."),
        (float("inf"), OptionError, "a finite number > 0; got inf."),
        (float("nan"), OptionError, "a finite number > 0; got nan."),
        ("2", OptionTypeError, "a number > 0; got '2' (str)."),
        (True, OptionTypeError, "a number > 0; got True (bool)."),
    ],
)
def test_temperatures(temperature, error, allowed):
    sentence = f"temperature must be {allowed}"
    assert_raises(error, sentence, lambda: grasp(make_mlp(), squares, [X], temperature=temperature))


def test_a_temperature_without_effect():
    sentence = (
        "loss_fn: it does not call the model that it receives, so the temperature has no effect; "
        "call model(...), or pass temperature=1"
    )
    call = lambda: grasp(make_mlp(), lambda m, x: squares(m[:], x), [X])  # noqa: E731
    assert_raises(CalibrationError, sentence, call)


class WithLoss(nn.Module):
    """Return an object with a loss and logits, as transformers' models do if they get labels."""

    def __init__(self, **values):
        super().__init__()
        self.layer, self.values = nn.Linear(8, 4), values

    def forward(self, x):
        output = type("Output", (), {})()
        logits = self.layer(x)
        output.loss, output.logits = self.values.get("loss", lambda y: None)(logits), logits
        return output


def test_outputs_that_the_temperature_cannot_divide():
    model = WithLoss(loss=lambda logits: logits.pow(2).mean())
    sentence = (
        "the model: its output has a loss, which the temperature does not change; do not pass "
        "labels to the model, and compute the loss from the logits in loss_fn, or pass "
        "temperature=1"
    )
    by_model = lambda model, x: model(x).loss  # noqa: E731
    assert_raises(CalibrationError, sentence, lambda: grasp(model, by_model, [X]))
    assert grasp(model, by_model, [X], temperature=1)["layer.weight"].any()
    by_logits = lambda model, x: model(x).logits.pow(2).mean()  # noqa: E731
    assert grasp(WithLoss(), by_logits, [X])["layer.weight"].any()

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    first = lambda model, x: model(x)[0].pow(2).mean()  # noqa: E731
    sentence = (
        r"^the output of the model must be a tensor, or an object with a tensor `logits`, for "
        r"temperature to divide it; got .*\. For any other output, pass temperature=1\.$"
    )
    with pytest.raises(OptionTypeError, match=sentence):
        grasp(Pair(8, 4), first, [X])
    assert grasp(Pair(8, 4), first, [X], temperature=1)["weight"].any()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (X[:1], "it has 1 example; pass larger batches or halves=False"),
        ((X, X[:3]), "its tensors have 4 and 3 rows in dimension 0; pass halves=False"),
        ("text", "it has no tensor with examples in dimension 0; pass halves=False"),
        (
            {"x": torch.tensor(3.0)},
            "it has no tensor with examples in dimension 0; pass halves=False",
        ),
    ],
)
def test_batches_that_cannot_be_halved(given, problem):
    sentence = f"batches[1]: it cannot be halved, because {problem}"
    model = make_mlp()
    assert_raises(CalibrationError, sentence, lambda: grasp(model, squares, [X, given]))


def test_halves_keep_the_form_of_a_batch():
    """Numbers and other objects go to both halves as they are."""
    seen = []
    scalar, note = torch.tensor(2.0), object()
    given = {"pair": (X, [X[:, 0]]), "scale": scalar, "note": note}

    def loss_fn(model, batch):
        seen.append(batch)
        return model(batch["pair"][0]).pow(2).mean() * batch["scale"]

    grasp(make_mlp(), loss_fn, [given])
    first, second = seen[:2]
    for half, rows in ((first, X[:2]), (second, X[2:])):
        assert torch.equal(half["pair"][0], rows)
        assert torch.equal(half["pair"][1][0], rows[:, 0])
        assert half["scale"] is scalar
        assert half["note"] is note


ROUNDS = {
    "force": lambda **options: force(make_mlp(), squares, [X], **options),
    "synflow": lambda **options: synflow(make_mlp(), X, **options),
}


@pytest.mark.parametrize("score", ROUNDS.values(), ids=ROUNDS)
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"rounds": 0}, OptionError, "rounds must be an integer >= 1; got 0."),
        ({"rounds": 2.0}, OptionTypeError, "rounds must be an integer >= 1; got 2.0 (float)."),
        ({"rounds": True}, OptionTypeError, "rounds must be an integer >= 1; got True (bool)."),
        ({"sparsity": 1.0}, LevelError, "sparsity must be at least 0 and less than 1; got 1.0."),
        ({"sparsity": -0.1}, LevelError, "sparsity must be between 0 and 1; got -0.1."),
        (
            {"sparsity": None},
            OptionTypeError,
            "sparsity must be a number or a 0-d tensor; got None.",
        ),
    ],
)
def test_options_of_rounds(score, options, error, sentence):
    assert_raises(error, sentence, lambda: score(**{"rounds": 2, "sparsity": 0.5, **options}))


def test_flows_that_cannot_be_used():
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(40)))
    for layer in model:
        nn.init.constant_(layer.weight, 1e9)
    sentence = "Sequential: the sum of its outputs is inf; SynFlow needs a finite sum in float64"
    assert_raises(CalibrationError, sentence, lambda: synflow(model, X, sparsity=0.5))
    unused = make_mlp()
    unused.forward = lambda x: unused[0](x)
    sentence = "2.weight: the output does not depend on it; pass a param_filter that excludes it"
    assert_raises(CalibrationError, sentence, lambda: synflow(unused, X, sparsity=0.5))
    detached = make_mlp()
    detached.forward = lambda x: x * 2
    sentence = sentence.replace("2.weight", "0.weight")
    assert_raises(CalibrationError, sentence, lambda: synflow(detached, X, sparsity=0.5))
    silent = make_mlp()
    silent.forward = lambda x: None
    sentence = (
        "the output of the model must be a tensor, or a tuple, list or dict of tensors; got None."
    )
    assert_raises(OptionTypeError, sentence, lambda: synflow(silent, X, sparsity=0.5))
