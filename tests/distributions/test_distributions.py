"""Properties of every distribution, and construction of distributions from configs."""

import math

import pytest
import torch

import sparsewright as sparse
from helpers.support import make_mlp, train
from sparsewright import distributions
from sparsewright.distributions import (
    ER,
    ERK,
    LAMP,
    Distribution,
    GlobalMagnitude,
    Layers,
    Uniform,
    UniformPlus,
    make_distribution,
    uniform,
)
from sparsewright.errors import (
    IncompatibleOptionError,
    LevelError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
)

SHAPES = {
    name: torch.Size(shape)
    for name, shape in {
        "conv1.weight": (8, 3, 3, 3),
        "conv2.weight": (16, 8, 3, 3),
        "fc.weight": (10, 64),
    }.items()
}

WITH_ARGUMENTS = {
    Layers: [Layers({"conv*": 0.5, "*": 0.9})],
    ER: [ER(), ER(dense="conv1.*", budget="all"), ER(epsilon=2, dense=("fc.*",))],
    ERK: [ERK(), ERK(power=0.5, dense=("conv1.*",), budget="all")],
    Uniform: [Uniform(), Uniform(dense=("conv1.*",))],
}
EXAMPLES = [one for cls in distributions.ALL for one in WITH_ARGUMENTS.get(cls) or [cls()]]

every_distribution = pytest.mark.parametrize("distribution", EXAMPLES, ids=repr)


class Weights:
    """Random weights that record the requested names."""

    def __init__(self):
        self.asked = []

    def weight(self, name):
        self.asked.append(name)
        generator = torch.Generator().manual_seed(len(name))
        return torch.randn(SHAPES[name], generator=generator)

    def score(self, name):
        return None


@every_distribution
@pytest.mark.parametrize("level", [0.0, 0.25, torch.tensor(0.6), 0.8])
def test_every_layer_gets_a_level(distribution, level):
    weights = Weights()
    found = distribution(SHAPES, level, weights)
    assert set(found) == set(SHAPES)
    assert all(type(each) is float and 0 <= each <= 1 for each in found.values())
    assert bool(weights.asked) == distribution.needs_weights
    if distribution.is_uniform:
        assert found == pytest.approx(dict.fromkeys(SHAPES, float(level)))


@every_distribution
@pytest.mark.parametrize("level", [0.0, 0.5, 0.8])
def test_dense_layers_have_a_reason(distribution, level):
    levels = distribution(SHAPES, level, Weights())
    reasons = distribution.reasons(SHAPES, level)
    assert set(reasons) <= set(SHAPES)
    if level and not distribution.needs_weights:
        dense = {name for name, reason in reasons.items() if reason.startswith("dense: ")}
        assert dense == {name for name in SHAPES if levels[name] == 0}


def test_other_reasons():
    assert make_distribution(by_rank).reasons(SHAPES, 0.5) == dict.fromkeys(SHAPES, "by_rank")
    assert UniformPlus().reasons({}, 0.5) == {}
    assert Layers({"conv*": 0.5, "conv1*": 0.2}).reasons(SHAPES, 0.5) == {
        "conv1.weight": "matches 'conv*'",
        "conv2.weight": "matches 'conv*'",
        "fc.weight": "",
    }


@every_distribution
def test_levels_out_of_range_raise(distribution):
    if distribution.uses_level:
        with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got 1\.5\.$"):
            distribution(SHAPES, 1.5, Weights())
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got 1\.5\.$"):
        distribution.check(SHAPES, 1.5)


@every_distribution
def test_representations_read_back(distribution):
    assert eval(repr(distribution), vars(distributions)) == distribution


def test_names_are_unique():
    assert len({cls.name for cls in distributions.ALL}) == len(distributions.ALL)


def test_uniform():
    assert uniform(SHAPES, 0.3) == dict.fromkeys(SHAPES, 0.3)
    found = uniform(SHAPES, 0.5, dense=["conv1.*", "fc.weight"])
    assert found == {"conv1.weight": 0.0, "conv2.weight": 0.5, "fc.weight": 0.0}
    found = uniform(SHAPES, 0.5, dense="conv1.*", budget="all")
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    pruned = sum(found[name] * sizes[name] for name in SHAPES)
    assert found["conv1.weight"] == 0
    assert found["conv2.weight"] == found["fc.weight"]
    assert pruned == pytest.approx(0.5 * sum(sizes.values()))
    assert uniform({"a": (2, 2)}, 0.0, dense="a", budget="all") == {"a": 0.0}
    with pytest.raises(
        LevelError, match=r"^sparsity must be at most 0\.89\d*, because .* stay dense; got 0\.95"
    ):
        uniform(SHAPES, 0.95, dense="conv1.*", budget="all")
    with pytest.raises(LevelError, match=r"^sparsity must be between 0 and 1; got 1\.01\.$"):
        uniform(SHAPES, 1.01)


def test_only_the_plain_one_is_uniform():
    assert [d.is_uniform for d in (Uniform(), Uniform(dense="a"), ERK())] == [True, False, False]


def test_levels_by_glob():
    found = Layers({"conv1.*": 0.2, "conv?.*": 0.4})(SHAPES, 0.9, Weights())
    assert found == {"conv1.weight": 0.2, "conv2.weight": 0.4, "fc.weight": 0.9}
    with pytest.raises(
        OptionError,
        match=r"^a key of layers must be a glob .*'fcc\.weight'\. Similar names: fc\.weight",
    ):
        Layers({"fcc.weight": 0.2})(SHAPES, 0.9, Weights())
    with pytest.raises(LevelError, match=r"^layers\['fc\*'\] must be between 0 and 1; got 2\.$"):
        Layers({"fc*": 2})
    for wrong in ("fc*", {3: 0.5}, {"fc*": "0.5"}):
        with pytest.raises(OptionTypeError, match=r"layers"):
            Layers(wrong)


def by_rank(shapes, level):
    """Keep convolutions denser than matrices."""
    return {name: level if len(shape) == 2 else level / 2 for name, shape in shapes.items()}


def test_a_function_of_the_users():
    distribution = make_distribution(by_rank)
    found = distribution(SHAPES, torch.tensor(0.6), Weights())
    assert found == {"conv1.weight": 0.3, "conv2.weight": 0.3, "fc.weight": 0.6}
    assert repr(distribution) == "by_rank"


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (
            0.5,
            OptionTypeError,
            r"^the result of .* must be a dict \{name: level\}; got 0\.5 \(float\)\.$",
        ),
        (
            {"conv1.weight": 0.5},
            MissingOptionError,
            r"^the result of .* needs a level for 'conv2.weight'; got \{",
        ),
        (
            dict.fromkeys([*SHAPES, "fc2.weight"], 0.5),
            OptionError,
            r"^unknown layer 'fc2.weight' in the result of .* mean 'fc.weight'\?",
        ),
        (
            dict.fromkeys(SHAPES, 1.5),
            LevelError,
            r"'conv1.weight' from the distribution <lambda> must be between 0 and 1; got 1\.5",
        ),
        (
            dict.fromkeys(SHAPES, None),
            OptionTypeError,
            r"for 'conv1.weight' from .* must be a number or .*; got None\.$",
        ),
    ],
)
def test_what_a_function_returns_is_checked(result, error, message):
    with pytest.raises(error, match=message):
        make_distribution(lambda shapes, level: result)(SHAPES, 0.5, Weights())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Uniform()),
        ("uniform", Uniform()),
        ("ERK", ERK()),
        ("er", ER()),
        ({"type": "er", "epsilon": 20}, ER(epsilon=20)),
        ("uniform_plus", UniformPlus()),
        ("LAMP", LAMP()),
        ("global", GlobalMagnitude()),
        ("Global_Magnitude", GlobalMagnitude()),
        ({"type": "global_magnitude", "minimum": 0.01}, GlobalMagnitude(minimum=0.01)),
        ({"type": "erk", "power": 0.5, "dense": ["conv1.*"]}, ERK(0.5, "conv1.*")),
        ({"type": "uniform", "dense": "a", "budget": "all"}, Uniform("a", "all")),
        ({"layers": {"*.fc": 0.5}}, Layers({"*.fc": 0.5})),
        (ERK(power=2), ERK(power=2)),
    ],
)
def test_distributions_from_configs(given, expected):
    distribution = make_distribution(given)
    assert isinstance(distribution, Distribution)
    assert distribution == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "erkk",
            OptionError,
            r"^unknown distribution type 'erkk'; did you mean 'erk'\? Choose from uniform, ",
        ),
        (
            {"power": 1},
            MissingOptionError,
            r"^distribution needs the option 'type'; got .*\. Choose from uniform, er, erk, "
            r"uniform_plus, global, lamp, layers\.$",
        ),
        (
            {"type": "erk", "powr": 1},
            OptionError,
            r"^distribution 'erk' has no option 'powr'; .*'power'",
        ),
        ({"type": "erk", "power": "1"}, OptionTypeError, r"^power must be a number .*'1' \(str\)"),
        (
            {"type": "erk", "budget": "every"},
            OptionError,
            r"^unknown budget 'every'; choose from each, all\.$",
        ),
        (
            {"type": "uniform", "dense": [1]},
            OptionTypeError,
            r"^dense must be a glob or a list of globs; got \[1\]",
        ),
        (
            {"type": "global", "normalize": "l1"},
            OptionError,
            r"^normalize must be 'none', 'l2' or 'mean'; got 'l1'\.$",
        ),
        (
            {"type": "global", "minimum": -1},
            LevelError,
            r"^minimum must be between 0 and 1; got -1\.$",
        ),
        (
            {"type": "er", "epsilon": 0},
            OptionError,
            r"^epsilon must be a number > 0; got 0\.$",
        ),
        (
            {"type": "er", "epsilon": 20, "budget": "all"},
            IncompatibleOptionError,
            r"^budget='all' does not work with epsilon=20, which sets densities without a budget\. "
            r"Use 'each'\.$",
        ),
        (
            "OWL",
            OptionError,
            r"^distribution must be one of uniform, er, erk, uniform_plus, global, lamp, layers; "
            r"got 'OWL'\. owl\(scores, sparsity\) needs scores from calibration data, which an "
            r"algorithm does not have\. For a trained model, call sparsewright\.oneshot with this "
            r"distribution\. Or call sparsewright\.distributions\.owl yourself, and pass its "
            r"levels as \{'layers': \{'<block>\.\*': level\}\}\.$",
        ),
        ({"type": "owl", "m": 3}, OptionError, r"owl\(scores, sparsity\) needs scores"),
        ({"layers": 3}, OptionTypeError, r"^layers must be a dict \{glob: level\}; got 3"),
        (
            "layers",
            MissingOptionError,
            r"^distribution needs the option 'layers'; got {'type'",
        ),
        (0.5, OptionTypeError, r"^distribution must be a name, a dict .*; got 0\.5 \(float\)\.$"),
        (ERK, OptionTypeError, r"^distribution must be .*; got <class"),
    ],
)
def test_what_is_no_distribution_raises(given, error, message):
    with pytest.raises(error, match=message):
        make_distribution(given)


@pytest.mark.parametrize("level", [[0.5, 0.6], {"type": "linear", "init": 0.3, "slope": 0.02}])
@pytest.mark.parametrize("ahead", [0, 4])
def test_a_look_at_the_levels_does_not_change_the_run(level, ahead):
    """Levels by magnitude come from the weights at an update, not from those at a look before."""
    kept = []
    for looks in (False, True):
        model = make_mlp()
        sparsity = sparse.SET(sparsity=level, update=3, distribution="global")
        optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
        sparsity.apply(model)
        sparsity.apply(optimizer)
        for step in range(12):
            train(model, optimizer, 1, start=step)
            for parameter in sparsity.sparse_params.values() if looks else ():
                assert 0 <= sparsity.level_at(parameter, sparsity.step + ahead) <= 1
        kept.append([p.kept for p in sparsity.sparse_params.values()])
    assert kept[0] == kept[1]
