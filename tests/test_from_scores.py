"""First masks from given scores: every algorithm, structure, storage and distribution."""

import copy
import logging
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.choices import ALGORITHMS, STRUCTURES, config_of, is_valid
from helpers.scored import chosen, squares
from helpers.support import assert_same, batch, make_mlp, masks_of
from sparsewright.calibration import grasp, snip, synflow
from sparsewright.core.counts import num_kept
from sparsewright.errors import MissingOptionError, OptionError, OptionTypeError, ScoreError
from sparsewright.init import from_scores
from sparsewright.structures import Block, Channel, Unstructured, make_structure

TAKES_INIT = [name for name in ALGORITHMS if is_valid(config_of(name, init_method="topk"))]


def make_model():
    """Build a model whose weights fit every structure."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def scores_for(model, seed=0, signed=True):
    """Return random scores for the matrices of a model."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            score = torch.randn(weight.shape, generator=generator)
            found[name] = score if signed else score.abs()
    return found


def test_some_algorithms_take_an_init_method():
    assert {"static", "set", "rigl"} <= set(TAKES_INIT)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("algorithm", TAKES_INIT)
def test_masks_keep_the_highest_scores_in_every_structure(algorithm, structure):
    model, made = make_model(), make_structure(STRUCTURES[structure])
    scores = scores_for(model, signed="pool" not in str(made) and not isinstance(made, Channel))
    config = config_of(algorithm, structure=STRUCTURES[structure], init_method=from_scores(scores))
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    starts_sparse = bool(sparsity[0].update_steps(0))
    for name, parameter in sparsity.sparse_params.items():
        level = sparsity[0].level_at(parameter, 0)
        expected = made.topk(scores[name], level)
        assert torch.equal(parameter.mask, expected) == starts_sparse
        assert not starts_sparse or not parameter.param.detach()[~expected].any()


@pytest.mark.parametrize("storage", ["masked", "compressed", "shadowed"])
def test_masks_are_the_same_in_every_storage(storage):
    model = make_mlp(hidden=64)
    scores = scores_for(model)
    sparsity = sparse.Static(0.75, init_method=from_scores(scores), storage=storage)
    sparsity.apply(model)
    for name, parameter in sparsity.sparse_params.items():
        assert torch.equal(parameter.mask, Unstructured().topk(scores[name], 0.75))


@pytest.mark.parametrize("algorithm", TAKES_INIT)
def test_with_global_levels_scores_of_all_layers_compete(algorithm):
    model = make_model()
    scores = scores_for(model)
    scores["2.weight"] += 1
    sparsity = sparse.configure(
        config_of(algorithm, distribution="global", init_method=from_scores(scores))
    )
    sparsity.apply(model)
    level = round(float(sparsity[0].schedules.value("sparsity", 0)), 6)
    assert list(sparsity[0].update_steps(0)) == [0]
    assert_same(masks_of(sparsity), chosen(scores, level))


@given(st.data())
def test_global_levels_are_exact_with_ties_and_signs(data):
    shape = st.tuples(st.integers(2, 4), st.integers(2, 4))
    shapes = data.draw(st.lists(shape, min_size=1, max_size=4))
    model = nn.Sequential(*(nn.Linear(m, n, bias=False) for n, m in shapes))
    level = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    minimum = data.draw(st.sampled_from([0.0, 0.1, 0.25]))
    scores = {}
    for number, (n, m) in enumerate(shapes):
        values = data.draw(st.lists(st.integers(-3, 3), min_size=n * m, max_size=n * m))
        scores[f"{number}.weight"] = torch.tensor(values, dtype=torch.float32).reshape(n, m)
    distribution = {"type": "global", "minimum": minimum}
    sparsity = sparse.Static(level, distribution=distribution, init_method=from_scores(scores))
    sparsity.apply(model)
    raised = {}  # so that the minimum of each layer comes before all other entries
    for name, score in scores.items():
        least = score.numel() - num_kept(minimum, score.numel())
        mask = Unstructured().topk(score, 1 - least / score.numel())
        raised[name] = score + 10 * mask
    assert_same(masks_of(sparsity), chosen(raised, level))


@pytest.mark.parametrize("order", ["l2", "mean"])
def test_normalized_scores_of_all_layers_compete(order):
    model = make_model()
    scores = scores_for(model)
    scores["0.weight"] *= 1000
    distribution = {"type": "global", "normalize": order}
    sparsity = sparse.Static(0.7, distribution=distribution, init_method=from_scores(scores))
    sparsity.apply(model)
    norm = (lambda s: s.norm()) if order == "l2" else (lambda s: s.abs().mean())
    expected = chosen({name: score / (norm(score) + 1e-8) for name, score in scores.items()}, 0.7)
    assert_same(masks_of(sparsity), expected)


def test_every_layer_keeps_a_minimum_of_the_highest_scores():
    model = make_model()
    scores = scores_for(model)
    scores["0.weight"] -= 10
    distribution = {"type": "global", "minimum": 0.125}
    sparsity = sparse.Static(0.75, distribution=distribution, init_method=from_scores(scores))
    sparsity.apply(model)
    kept = {name: parameter.kept for name, parameter in sparsity.sparse_params.items()}
    assert kept == {"0.weight": 16, "2.weight": 48}
    for name, parameter in sparsity.sparse_params.items():
        assert torch.equal(parameter.mask, Unstructured().topk(scores[name], 1 - kept[name] / 128))


def test_lamp_and_later_levels_are_those_of_the_weights():
    """Scores make the first masks; LAMP is defined for weights, and updates see weights."""
    model = make_model()
    scores = scores_for(model)
    scores["2.weight"] += 1
    lamp = sparse.Static(0.5, distribution="lamp", init_method=from_scores(scores))
    by_weights = sparse.Static(0.5, distribution="lamp", init_method="topk")
    kept = []
    for sparsity in (lamp, by_weights):
        sparsity.apply(twin := copy.deepcopy(model))
        kept.append([p.kept for p in sparsity.sparse_params.values()])
        assert len(list(twin.buffers())) == 2
    assert kept[0] == kept[1]
    rising = {"type": "linear", "init": 0.5, "slope": 0.1}
    sparsity = sparse.GMP(rising, update=1, distribution="global", init_method=from_scores(scores))
    sparsity.apply(model)
    assert_same(masks_of(sparsity), chosen(scores, 0.5))
    optimizer = SGD(model.parameters(), 0.0)
    sparsity.apply(optimizer)
    model(batch(0, 4, 8)).sum().backward()
    optimizer.step()
    weights = {name: p.param.detach().abs() for name, p in sparsity.sparse_params.items()}
    assert_same(masks_of(sparsity), chosen(weights, 0.6))
    kept = {name: int(mask.sum()) for name, mask in chosen(scores, 0.6).items()}
    assert kept != {name: p.kept for name, p in sparsity.sparse_params.items()}


def in_blocks(score, height, width):
    """Return a matrix as [rows of blocks, height, columns of blocks, width]."""
    return score.unflatten(0, (-1, height)).unflatten(2, (-1, width))


@pytest.mark.parametrize(
    ("structure", "units"),
    [
        (Block((4, 4)), lambda s: s.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).sum((1, 3))),
        (
            Block((2, 4), pool="max"),
            lambda s: s.unflatten(0, (-1, 2)).unflatten(2, (-1, 4)).amax((1, 3)),
        ),
        (Channel(0), lambda s: s.sum(1)),
        (Channel(1), lambda s: s.sum(0)),
        (Channel(1, norm=float("inf")), lambda s: s.amax(0)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Block | Channel) else "by hand",
)
def test_negative_scores_are_low_for_blocks_and_channels(structure, units):
    """A norm of the scores would take a channel of negative scores for one of the best."""
    score = scores_for(nn.Linear(8, 16))["weight"].double()
    score[:, 2], score[5] = score[:, 2] - 50, score[5] - 50
    mask = from_scores({"w": score})(torch.zeros(16, 8), 0.5, structure, name="w")
    found, pooled = structure.pool(mask)[0], units(score).flatten()
    best = pooled.argsort(descending=True)[: len(pooled) // 2]
    assert sorted(best.tolist()) == found.nonzero()[:, 0].tolist()


def test_scores_of_snip_grasp_and_synflow_make_masks():
    x = batch(0, 16, 8)
    for find in (
        partial(snip, loss_fn=squares, batches=[x]),
        partial(grasp, loss_fn=squares, batches=[x]),
        partial(synflow, example=x, sparsity=0.8),
    ):
        model = make_mlp()
        scores = find(model)
        sparsity = sparse.SET(
            sparsity=0.8, update=2, distribution="global", init_method=from_scores(scores)
        )
        sparsity.apply(model)
        assert_same(masks_of(sparsity), chosen(scores, 0.8))


def test_wrapped_models_and_groups_use_the_same_names():
    model = make_mlp()
    scores = scores_for(model)
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    for target in (model, compiled):
        group = sparse.Group()
        group.add("0.weight", sparse.Static(0.5, init_method=from_scores(scores)))
        group.add("*weight", sparse.SET(sparsity=0.25, update=1, init_method=from_scores(scores)))
        group.apply(target)
        levels = {"0.weight": 0.5, "2.weight": 0.25}
        for name, level in levels.items():
            mask = group.sparse_params[name].mask
            assert torch.equal(mask, Unstructured().topk(scores[name], level))


def test_masks_of_weights_loaded_before_the_first_step_are_the_same(caplog):
    model = make_mlp()
    scores = scores_for(model)
    sparsity = sparse.Static(0.5, distribution="global", init_method=from_scores(scores))
    sparsity.apply(model)
    before = masks_of(sparsity)
    model.load_state_dict(make_mlp(seed=4).state_dict(), strict=False)
    assert_same(masks_of(sparsity), before)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_one_warning_names_the_layers_that_have_no_connections_left(caplog):
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    scores = scores_for(model, signed=False)
    scores["1.weight"] -= 10
    scores["3.weight"] -= 10
    sparsity = sparse.Static(0.6, distribution="global", init_method=from_scores(scores))
    sparsity.apply(model)
    texts = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert texts == [
        "2 weights have no connections left: 1.weight, 3.weight; lower their levels, or keep them "
        "dense"
    ]


def test_a_users_init_method_receives_the_name():
    names = []

    def keep_all(p, sparsity, name):
        names.append(name)
        return torch.ones_like(p, dtype=torch.bool)

    sparse.Static(0.5, init_method=keep_all).apply(make_mlp())
    assert names == ["0.weight", "2.weight"]


def test_an_algorithm_with_scores_is_shown_copied_and_pickled():
    model = make_mlp()
    scores = scores_for(model)
    sparsity = sparse.Static(0.5, init_method=from_scores(scores))
    assert repr(sparsity) == "Static(sparsity=0.5, init_method=from_scores(<scores of 2 weights>))"
    for twin in (copy.deepcopy(sparsity), pickle.loads(pickle.dumps(sparsity))):
        twin.apply(other := copy.deepcopy(model))
        assert_same(masks_of(twin)["0.weight"], Unstructured().topk(scores["0.weight"], 0.5))
        assert len(list(other.buffers())) == 2


def apply(scores, distribution=None):
    """Apply a static algorithm with scores to an MLP."""
    sparse.Static(0.5, distribution=distribution, init_method=from_scores(scores)).apply(make_mlp())


@pytest.mark.parametrize("distribution", [None, "global"])
def test_scores_that_do_not_fit_the_model(distribution):
    scores = scores_for(make_mlp())
    advice = "Score the module that you pass to apply, with a param_filter that picks it."
    missing = {"0.weight": scores["0.weight"]}
    with pytest.raises(MissingOptionError) as caught:
        apply(missing, distribution)
    assert str(caught.value) == (
        f"from_scores needs scores for '2.weight'; similar names: '0.weight'. {advice}"
    )
    with pytest.raises(MissingOptionError) as caught:
        apply({}, distribution)
    assert str(caught.value) == f"from_scores needs scores for '0.weight'. {advice}"
    with pytest.raises(OptionError) as caught:
        apply({**scores, "2.weight": scores["2.weight"].T}, distribution)
    assert str(caught.value) == (
        "scores['2.weight'] must be of the weight's shape (4, 16); got <float32 Tensor of shape "
        "(16, 4)>."
    )
    scores["2.weight"][0, 0] = torch.nan
    what = "score of 2.weight" if distribution is None else "2.weight"
    with pytest.raises(ScoreError, match=f"^{what} contains NaN; its entries cannot be ranked$"):
        apply(scores, distribution)
    apply({**scores_for(make_mlp()), "other": torch.ones(3)}, distribution)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            [torch.ones(2)],
            r"scores must be a mapping from full names of weights to floating-point tensors; got ",
        ),
        (
            {3: torch.ones(2)},
            r"a name in scores must be the full name of a weight; got 3 \(int\)\.$",
        ),
        (
            {"w": torch.ones(2).long()},
            r"scores\['w'\] must be a floating-point tensor; got <int64 Tensor of shape \(2,\)>\.$",
        ),
        ({"w": [1.0]}, r"scores\['w'\] must be a floating-point tensor; got \[1\.0\] \(list\)\.$"),
    ],
)
def test_scores_of_the_wrong_type(scores, sentence):
    with pytest.raises(OptionTypeError, match="^" + sentence):
        from_scores(scores)
