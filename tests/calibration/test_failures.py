"""Errors of one-shot pruning: one clear sentence each, and the model is as before."""

import copy

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.calibrated import Tower, floats, gpt2, seeded, words
from helpers.interruptions import interrupt, lines_of
from sparsewright.errors import (
    AttachError,
    CalibrationError,
    IncompatibleOptionError,
    LevelError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
    ScoreError,
    UnknownOptionError,
)

WANDA = {"method": "wanda", "sparsity": 0.5}
CONFIG = "config must be a dict with 'method', or a list of such dicts"
METHODS = "magnitude, wanda, sparsegpt, ria, dsnot"
FORWARD = "Pass forward=, a function (model, batch) that runs the model on a batch."


def trace_of(model):
    """Return what a call may not change: tensors, modes, hooks and attributes."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [param.grad for param in model.parameters()]
    rest = [
        (
            module.training,
            sorted(vars(module)),
            *(len(vars(module)[f"_forward_{kind}hooks"]) for kind in ("", "pre_")),
            len(vars(module)["_load_state_dict_pre_hooks"]),
        )
        for module in model.modules()
    ]
    return tensors, grads, rest


def assert_unchanged(model, before):
    tensors, *rest = trace_of(model)
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(tensors[name], value) for name, value in before[0].items())
    assert rest == list(before[1:])
    assert all(not getattr(p, "_post_accumulate_grad_hooks", None) for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (0.5, OptionTypeError, f"{CONFIG}; got 0.5 (float)."),
        ([], OptionTypeError, f"{CONFIG}; got [] (list)."),
        ([0.5], OptionTypeError, "an entry of config must be a dict; got 0.5 (float)."),
        (
            {"sparsity": 0.5},
            MissingOptionError,
            f"config needs the option 'method'; got {{'sparsity': 0.5}}. Choose from {METHODS}.",
        ),
        (
            {"method": "wonda", "sparsity": 0.5},
            OptionError,
            f"unknown method 'wonda'; did you mean 'wanda'? Choose from {METHODS}.",
        ),
        ({"method": 3}, OptionError, f"method must be one of {METHODS}; got 3."),
        (
            {**WANDA, "power": 1},
            UnknownOptionError,
            "method 'wanda' has no option 'power'; its options: method, sparsity, structure, "
            "distribution, reconstruct, param_filter.",
        ),
        (
            {"method": "ria", "sparsity": 0.5, "powr": 1},
            UnknownOptionError,
            "method 'ria' has no option 'powr'; did you mean 'power'? Its options: method, "
            "sparsity, structure, distribution, reconstruct, param_filter, power.",
        ),
        (
            {**WANDA, "reconstruct": 1},
            OptionTypeError,
            "reconstruct must be True or False; got 1 (int).",
        ),
        (
            {**WANDA, "sparsity": 1},
            LevelError,
            "sparsity of Static must be at least 0 and less than 1; got 1.0.",
        ),
        (
            {**WANDA, "structure": "2:4", "sparsity": 0.6},
            LevelError,
            "sparsity must be 0.5, the level of NM(2, 4), or a schedule that rises to it; got 0.6.",
        ),
        (
            {"method": "wanda", "structure": "2:4", "distribution": "owl"},
            IncompatibleOptionError,
            "distribution='owl' does not work with structure=NM(2, 4), which has only one level. "
            "Use 'uniform'.",
        ),
        (
            {**WANDA, "distribution": {"type": "owl", "lam": 1}},
            UnknownOptionError,
            "distribution 'owl' has no option 'lam'; its options: m, spread.",
        ),
        (
            {**WANDA, "distribution": {"type": "OWL", "m": 0}},
            OptionError,
            "m must be a number > 0; got 0.",
        ),
        (
            {**WANDA, "distribution": {"type": "owl", "m": "5"}},
            OptionTypeError,
            "m must be a number > 0; got '5' (str).",
        ),
        (
            {**WANDA, "distribution": {"type": "owl", "spread": 2}},
            LevelError,
            "spread must be between 0 and 1; got 2.",
        ),
        (
            {"method": "ria", "sparsity": 0.5, "power": -1},
            OptionError,
            "power must be a number >= 0; got -1.",
        ),
        (
            {"method": "ria", "sparsity": 0.5, "power": "1"},
            OptionTypeError,
            "power must be a number >= 0; got '1' (str).",
        ),
        (
            {"method": "sparsegpt", "sparsity": 0.5, "block": 0},
            OptionError,
            "block must be an integer >= 1; got 0.",
        ),
        (
            {"method": "sparsegpt", "sparsity": 0.5, "block": 2.0},
            OptionTypeError,
            "block must be an integer >= 1; got 2.0 (float).",
        ),
        (
            {"method": "sparsegpt", "sparsity": 0.5, "damping": 0},
            OptionError,
            "damping must be a number > 0; got 0.",
        ),
        (
            {"method": "sparsegpt", "sparsity": 0.5, "damping": None},
            OptionTypeError,
            "damping must be a number > 0; got None.",
        ),
        (
            {"method": "dsnot", "sparsity": 0.5, "start": "sparsegpt"},
            OptionError,
            "unknown start 'sparsegpt'; choose from wanda, magnitude, ria.",
        ),
        (
            {"method": "dsnot", "sparsity": 0.5, "rounds": -1},
            OptionError,
            "rounds must be an integer >= 0; got -1.",
        ),
        (
            {"method": "dsnot", "sparsity": 0.5, "rounds": 0.5},
            OptionTypeError,
            "rounds must be an integer >= 0; got 0.5 (float).",
        ),
        (
            {"method": "dsnot", "sparsity": 0.5, "threshold": -1},
            OptionError,
            "threshold must be a number >= 0; got -1.",
        ),
        (
            {"method": "dsnot", "sparsity": 0.5, "threshold": True},
            OptionTypeError,
            "threshold must be a number >= 0; got True (bool).",
        ),
    ],
)
def test_bad_config(config, error, message):
    model = seeded(Tower)
    before = trace_of(model)
    with pytest.raises(error) as caught:
        sparse.oneshot(model, config, floats())
    assert str(caught.value) == message
    assert_unchanged(model, before)


SINGLE = "To pass a single batch, put it into a list."
ITERABLE = "batches must be an iterable of batches, such as a list or a DataLoader; got "


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (None, MissingOptionError, "method 'wanda' needs the option 'batches': calibration data."),
        (
            iter(()),
            MissingOptionError,
            "method 'wanda' needs the option 'batches': calibration data. The iterable is empty.",
        ),
        (
            torch.zeros(2, 6),
            OptionTypeError,
            f"{ITERABLE}<float32 Tensor of shape (2, 6)>. {SINGLE}",
        ),
        (
            {"x": 1},
            OptionTypeError,
            f"{ITERABLE}{{'x': 1}} (dict). {SINGLE}",
        ),
        (5, OptionTypeError, f"{ITERABLE}5 (int)."),
        (
            [3],
            OptionTypeError,
            "a batch must be a tensor, a tuple or list of arguments, or a mapping of keyword "
            f"arguments; got 3 (int). {FORWARD}",
        ),
        (
            [{"y": torch.zeros(1, 2, 6).double()}],
            CalibrationError,
            "batches: the model cannot run a batch (TypeError: Tower.forward() got an unexpected "
            f"keyword argument 'y'). {FORWARD}",
        ),
        (
            [torch.zeros(1, 2, 5).double()],
            CalibrationError,
            "batches: the model cannot run a batch (RuntimeError: mat1 and mat2 shapes cannot be "
            f"multiplied (2x5 and 6x8)). {FORWARD}",
        ),
    ],
)
def test_bad_batches(batches, error, message):
    model = seeded(Tower)
    before = trace_of(model)
    with pytest.raises(error) as caught:
        sparse.oneshot(model, WANDA, batches)
    assert str(caught.value) == message
    assert_unchanged(model, before)


GLOBS = "blocks must be a glob, or a list of globs and modules"


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (
            "block.*",
            OptionError,
            "blocks must be a glob that matches a module with weights to prune; got 'block.*'. "
            "Similar names: blocks.2, blocks.1, blocks.0.",
        ),
        (
            ["norm"],
            OptionError,
            "blocks must be a glob that matches a module with weights to prune; got 'norm'.",
        ),
        (3, OptionTypeError, "blocks must be a glob, or a list of globs and modules; got 3 (int)."),
        (
            [],
            OptionTypeError,
            "blocks must be a glob, or a list of globs and modules; got [] (list).",
        ),
        ([3], OptionTypeError, "an entry of blocks must be a glob or a module; got 3 (int)."),
        (
            [nn.Linear(2, 2)],
            OptionError,
            "a module in blocks must be part of the model; got 'Linear'.",
        ),
    ],
)
def test_bad_blocks(blocks, error, message):
    model = seeded(Tower)
    before = trace_of(model)
    with pytest.raises(error) as caught:
        sparse.oneshot(model, WANDA, floats(), blocks=blocks)
    assert str(caught.value) == message
    assert_unchanged(model, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_inputs_that_are_not_finite(method, value):
    model, batches = seeded(Tower), floats()
    before = trace_of(model)
    batches[1][0, 0, 0] = value
    with pytest.raises(CalibrationError) as caught:
        sparse.oneshot(model, {"method": method, "sparsity": 0.5}, batches)
    assert str(caught.value) == (
        "stem.weight: its inputs, or their squares, contain NaN or infinity; check the calibration "
        "data, or run the model in float32"
    )
    assert_unchanged(model, before)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "ria", "dsnot"])
def test_a_weight_with_nan(method):
    model = seeded(Tower)
    model.last.weight.data[1, 2] = float("nan")
    before = {name: param.clone() for name, param in model.named_parameters()}
    with pytest.raises(ScoreError) as caught:
        sparse.oneshot(model, {"method": method, "sparsity": 0.5}, floats())
    message = "the score of last.weight contains NaN; its entries cannot be ranked"
    assert str(caught.value) == message
    for name, param in model.named_parameters():
        assert torch.equal(param.nan_to_num(7), before[name].nan_to_num(7))


class Stopped(BaseException):
    """As a second Ctrl-C, out of memory or a bug in the user's function."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped, torch.OutOfMemoryError, ValueError])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "dsnot"])
def test_an_interruption_leaves_the_model_as_it_was(method, error):
    model, batches = seeded(lambda: Tower(depth=3)).train(), floats()
    config = {"method": method, "sparsity": 0.5, "reconstruct": True}
    dense, reached = model.blocks[0].up.weight.detach().clone(), []

    class Failing(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            if not torch.equal(model.blocks[0].up.weight, dense):  # the first block is pruned
                reached.append(True)
                raise error("stop")
            return out

    model.blocks[2].up.__class__ = Failing
    before, state = trace_of(model), torch.get_rng_state()
    with pytest.raises(error, match="stop"):
        sparse.oneshot(model, config, batches, forward=lambda model, batch: model(batch))
    assert reached
    assert_unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_ctrl_c_during_the_work_leaves_the_model_as_it_was():
    base = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(2)))
    config, data = {"method": "sparsegpt", "sparsity": 0.5}, [torch.randn(9, 4)]

    def call_on(model):
        return lambda: sparse.oneshot(model, config, data)

    lines = lines_of(call_on(copy.deepcopy(base)))
    # An interruption exactly between the last line of a `with` block and its exit is not caught.
    last = max(place for place, (file, _) in enumerate(lines) if file.endswith("jobs.py"))
    places = [place for place, (file, _) in enumerate(lines[:last]) if "/calibration/" in file]
    for place in places[::7]:
        model = copy.deepcopy(base)
        before = trace_of(model)
        assert interrupt(call_on(model), place), lines[place]
        assert_unchanged(model, before)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_block_that_only_some_batches_reach():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            return self.second(x + 1) if len(x) > 2 else x

    model = Sometimes()
    before = trace_of(model)
    with pytest.raises(CalibrationError) as caught:
        sparse.oneshot(model, WANDA, [torch.randn(3, 4), torch.randn(2, 4)])
    message = "second: the model calls it for the first batch, but not for every batch"
    assert str(caught.value) == message
    assert_unchanged(model, before)


def test_a_model_that_is_sparse_already():
    model = seeded(Tower)
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(AttachError) as caught:
        sparse.oneshot(model, WANDA, floats())
    assert str(caught.value) == (
        "Tower: it is sparse already; call sparsewright.remove(model) first, which keeps zeros"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(sparsity.sparse_params) == 8


def test_masks_that_are_left_in_a_copy_are_replaced():
    model, batches = seeded(Tower), floats()
    other = copy.deepcopy(model)
    sparse.Static(0.9, "topk").apply(model)
    again = copy.deepcopy(model)  # has masks, but no algorithm
    for name, param in other.named_parameters():
        param.data.copy_(model.get_parameter(name))
    sparse.oneshot(other, WANDA, batches)
    sparse.oneshot(again, WANDA, batches)
    for name, value in other.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_compressed_weight():
    model = nn.Sequential(nn.Linear(64, 64))
    sparsity = sparse.Static(0.9, storage="compressed")
    sparsity.apply(model)
    copied = copy.deepcopy(model)
    with pytest.raises(AttachError) as caught:
        sparse.oneshot(copied, WANDA, [torch.randn(3, 64)])
    message = "0.weight: it is compressed; call sparsewright.decompress first"
    assert str(caught.value) == message


def test_a_model_without_data():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(AttachError) as caught:
        sparse.oneshot(model, WANDA, [torch.randn(3, 4)])
    assert str(caught.value) == "0.weight: it has no data; load the model first"


def test_nothing_to_prune_is_a_warning():
    model = nn.Sequential(nn.Embedding(4, 4))
    with pytest.warns(sparse.errors.SparsityWarning, match="no parameter was sparsified"):
        sparsity = sparse.oneshot(model, WANDA, [torch.tensor([1])])
    assert not sparsity.sparse_params


@pytest.mark.parametrize(
    ("method", "tokens", "is_few"),
    [("wanda", 127, True), ("wanda", 128, False), ("sparsegpt", 199, True), ("ria", 3, True)],
)
def test_few_inputs_are_named(method, tokens, is_few, caplog):
    model = nn.Sequential(nn.Linear(200, 4))
    sparse.oneshot(model, {"method": method, "sparsity": 0.5}, [torch.randn(tokens, 200)])
    expected = (
        f"few inputs reached 0.weight ({tokens} for 200 features); use more batches for reliable "
        "statistics"
    )
    assert [record.getMessage() for record in caplog.records] == [expected] * is_few


def test_a_cache_is_not_filled():
    """`use_cache` is switched off, unless the batch sets it."""
    model, used = gpt2(), []
    model.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: used.append(kwargs["use_cache"]), with_kwargs=True
    )
    sparse.oneshot(model, WANDA, words(batches=1))
    assert set(used) == {False}
    used.clear()
    model, plain = gpt2(), gpt2()
    batches = [{**batch, "use_cache": True} for batch in words()]
    sparse.oneshot(model, WANDA, batches)
    sparse.oneshot(plain, WANDA, words())
    for param, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(param, other)
