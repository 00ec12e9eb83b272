"""Notebook output: representations that read back, tables, and figures."""

import builtins
import copy
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import assert_same, make_mlp, masks_of, train
from sparsewright import utils
from sparsewright.core.plots import show_mask
from sparsewright.errors import MissingPackageError, OptionError

mpl.use("Agg")
from matplotlib import pyplot


class Shrink(sparse.SET):
    """A user's algorithm with its own option."""

    def __init__(self, rate, *, floor=0.1, **options):
        super().__init__(**options)
        self.rate, self.floor = rate, floor


PUBLIC = {
    **{name: getattr(sparse, name) for name in sparse.__all__},
    **{name: getattr(utils, name) for name in utils.__all__},
    "Shrink": Shrink,
}
ALGORITHMS = [
    sparse.Static(0.5),
    sparse.Static(init_method="from_zeros"),
    sparse.GMP(utils.Cubic(0.0, 0.9, 10, 20), {"freq": 5, "start": 5}, "topk", seed=7),
    sparse.GMP(schedule=[0.5, 0.75], update=2),
    sparse.SET(sparsity=0.9),
    sparse.SET([0.3, 0.1], sparsity=utils.Exp(0.0, -0.1), update={"steps": [0, 4]}),
    sparse.RigL(
        utils.Cosine(0.3, 50), balance_in_groups=2, sparsity=0.75,
        update={"freq": 2, "stop": 50}, init_method="checkerboard",
    ),
    sparse.RigL(balance_out_groups=4, sparsity=0.5, update=3, seed=1),
    Shrink(0.25, sparsity=0.5, update=3),
    Shrink(0.25, floor=0.5, sparsity=0.5, update=3),
    sparse.Group([
        (["0.*", "x"], sparse.Static(0.5)),
        ("2.*", sparse.RigL(sparsity=0.5, update=2)),
        (sparse.default_sparse_param_filter, sparse.SET(sparsity=0.25)),
    ]),
    sparse.configure({"algorithm": "rigl", "sparsity": 0.9, "update": {"freq": 100}}),
]  # fmt: skip


def trained(algorithm):
    """Return the algorithm after some training, and the model."""
    algorithm, model = copy.deepcopy(algorithm), make_mlp(hidden=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparse.errors.SparsityWarning)
        algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    train(model, optimizer, 6)
    return algorithm, model


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_text_of_an_algorithm_reads_back(algorithm):
    again = eval(repr(algorithm), dict(PUBLIC))
    assert type(again) is type(algorithm)
    assert repr(again) == repr(algorithm)
    assert_same(again.state_dict(), algorithm.state_dict())
    (first, one), (second, other) = trained(algorithm), trained(again)
    assert_same(masks_of(first), masks_of(second))
    assert_same(one.state_dict(), other.state_dict())
    assert_same(first.state_dict(), second.state_dict())


def test_text_shows_what_is_not_default_and_nothing_else():
    assert repr(sparse.RigL(0.3, sparsity=0.9)) == "RigL(sparsity=0.9)"
    assert repr(sparse.SET(0.2, sparsity=0.9, update=10, seed=3)) == (
        "SET(sparsity=0.9, update=FreqSchedule(freq=10, start=0, stop=None), "
        "drop_fraction=0.2, seed=3)"
    )
    assert repr(Shrink(2, sparsity=0.5)) == "Shrink(sparsity=0.5, rate=2)"
    assert repr(sparse.Static(0.5, init_method=len)) == (
        "Static(sparsity=0.5, init_method=<built-in function len>)"
    )


def test_text_says_what_cannot_read_back():
    model = make_mlp()
    levels = {model[0].weight: 0.5, model[2].weight: 0.25}
    assert repr(sparse.Static(levels)) == "Static(sparsity=<by parameter, 2 different>)"
    assert "<lambda>" in repr(sparse.SET(sparsity=lambda step: 0.5))


@pytest.mark.parametrize(
    "schedule",
    [
        *(utils.Constant(0.9), utils.Linear(0.1, 0.02), utils.Exp(0.0, -0.1), utils.Power(0.5, 1)),
        *(utils.Cosine(0.3, 10), utils.Cubic(0, 0.9, 1, 5), utils.Cycling([0.3, 0.5])),
        *(utils.FreqSchedule(3, 2, 9), utils.ListSchedule([4, 2])),
        *(utils.ScoreFlattener(), utils.InputGroupScoreShaper(3), utils.OutputGroupScoreShaper(2)),
    ],
    ids=repr,
)
def test_text_of_the_parts_reads_back(schedule):
    again = eval(repr(schedule), dict(PUBLIC))
    assert type(again) is type(schedule)
    assert vars(again) == vars(schedule)


class Cells(HTMLParser):
    """Collect the tables of a document as rows of text; fail on tags of other elements."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "caption", "tr", "th", "td"), tag
        assert dict(attrs) in ({}, {"style": "text-align: left"})
        self.open.append(tag)
        if tag in ("tr", "caption"):
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] == "caption":
            self.rows[-1].append(data)
        else:
            self.rows[-1][-1] += data


def test_tables_of_an_algorithm():
    sparsity, _ = trained(sparse.RigL(sparsity=0.75, update=2, init_method="topk"))
    rows = Cells(sparsity._repr_html_()).rows
    assert ["RigL"] in rows
    assert ["init_method", "'topk'"] in rows
    assert ["step", "6"] in rows
    assert ["0.weight", "16x8", "32", "128", "0.7500", "masked"] in rows


def test_tables_of_a_group_are_escaped():
    group = sparse.Group([("0.<b>*", sparse.Static(0.5)), ("2.*t", sparse.SET(sparsity=0.5))])
    with pytest.warns(UserWarning, match="matched no parameter"):
        group.apply(make_mlp())
    rows = Cells(group._repr_html_()).rows
    assert ["'0.<b>*'", "Static(sparsity=0.5)"] in rows
    assert ["2.weight", "4x16", "32", "64", "0.5000", "masked"] in rows
    assert "<b>" not in group._repr_html_()


def test_tables_stay_small():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(50)))
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    rows = Cells(sparsity._repr_html_()).rows
    assert len(rows) < 30
    assert rows[-1][0] == "and 30 more"


def test_a_sparse_parameter_shows_what_it_is():
    sparsity = sparse.Static(0.75)
    sparsity.storage = "compressed"
    sparsity.apply(make_mlp())
    parameter = sparsity.sparse_params["0.weight"]
    assert repr(parameter) == (
        "<SparseParameter '0.weight' 16x8, kept 32 of 128 (level 0.7500), compressed>"
    )
    assert ["0.weight", "16x8", "32", "128", "0.7500", "compressed"] in Cells(
        parameter._repr_html_()
    ).rows


def test_a_parameter_without_a_mask_says_so():
    sparsity = sparse.Static(0.5)
    sparsity.apply(nn.Linear(8, 4, device="meta"))
    parameter = sparsity.sparse_params["weight"]
    assert repr(parameter) == "<SparseParameter 'weight' 4x8, kept ? of 32 (level ?), masked>"
    assert Cells(sparsity._repr_html_()).rows[-1][2] == "?"


@pytest.fixture
def axes():
    yield pyplot.subplots()[1]
    pyplot.close("all")


def test_plot_of_a_schedule(axes):
    schedule = utils.Linear(0.1, 0.02)
    assert schedule.plot(steps=20, ax=axes) is axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == list(range(21))
    assert line.get_ydata() == pytest.approx([0.1 + 0.02 * step for step in range(21)])
    assert axes.get_xlabel() == "step"


def test_plot_of_a_cycle_goes_from_update_to_update(axes):
    schedule = utils.Cycling([0.1, 0.2, 0.3])
    schedule.plot(steps=4, ax=axes)
    assert axes.lines[0].get_ydata() == pytest.approx([0.1, 0.2, 0.3, 0.1, 0.2])
    assert axes.get_xlabel() == "update"
    assert schedule.index == 0


def test_plot_of_an_update_schedule(axes):
    assert utils.FreqSchedule(5, 5, 16).plot(steps=30, ax=axes) is axes
    (lines,) = axes.collections
    assert [segment[0][0] for segment in lines.get_segments()] == [5, 10, 15]
    assert axes.get_xlim() == (0, 30)


def test_figures_are_new_without_axes_and_can_be_saved(axes, tmp_path):
    drawn = utils.Constant(0.5).plot()
    assert drawn is not axes
    drawn.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_show_draws_the_mask(axes):
    model, sparsity = make_mlp(), sparse.Static(0.75)
    sparsity.apply(model)
    parameter = sparsity.sparse_params["0.weight"]
    assert parameter.show(axes) is axes
    (image,) = axes.images
    assert np.array_equal(image.get_array(), model[0].weight_mask.numpy())
    assert axes.get_title() == "0.weight: level 0.7500"


def test_show_of_a_convolution_and_of_a_large_mask(axes):
    model, sparsity = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(700, 1500)), sparse.Static(0.5)
    sparsity.apply(model)
    conv, large = sparsity.sparse_params.values()
    assert conv.show().images[0].get_array().shape == (8, 27)
    image = large.show().images[0].get_array()
    assert image.shape == (512, 512)
    first = large.mask[: 1500 // 512, : 700 // 512].float().mean().item()
    assert image[0, 0] == pytest.approx(first)
    assert torch.tensor(image.data).mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (0, 3, 2)])
def test_show_of_a_mask_without_entries(axes, shape):
    mask = torch.ones(shape, dtype=torch.bool)
    assert show_mask(mask, "none", axes) is axes
    assert len(axes.images) == 0
    axes.figure.canvas.draw()


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_steps_of_a_plot(steps):
    with pytest.raises(OptionError, match=r"^steps must be an integer >= 1; got "):
        utils.Constant(0.5).plot(steps)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    sparsity = sparse.Static(0.5)
    sparsity.apply(make_mlp())
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for draw in (
        utils.Constant(0.5).plot,
        utils.FreqSchedule(5).plot,
        sparsity.sparse_params["0.weight"].show,
    ):
        with pytest.raises(MissingPackageError, match=r"pip install 'sparsewright\[plot\]'"):
            draw()
