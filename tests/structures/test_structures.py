"""Properties of every structure, and construction of structures from configs."""

import math

import pytest
import torch

from helpers.choices import possible_counts
from sparsewright import structures
from sparsewright.core.rows import ShaperRows
from sparsewright.errors import (
    ExclusiveOptionsError,
    LevelError,
    MissingOptionError,
    OptionError,
    OptionTypeError,
    ShapeError,
)
from sparsewright.structures import (
    NM,
    Block,
    Channel,
    FanIn,
    Groups,
    Structure,
    Unstructured,
    make_structure,
)
from sparsewright.utils import InputGroupScoreShaper, ScoreFlattener, ScoreShaper

WITH_ARGUMENTS = {
    Groups: [Groups(inputs=2), Groups(outputs=3)],
    NM: [NM(2, 4), NM(1, 2), NM(2, 4, transposable=True)],
    FanIn: [FanIn(), FanIn(0.6)],
    Block: [Block((3, 2)), Block((1, 4), "max"), Block((3, 1), "l2"), Block((1, 2), "sum")],
    Channel: [Channel(), Channel(1, 2), Channel(0, math.inf)],
}
EXAMPLES = [example for cls in structures.ALL for example in WITH_ARGUMENTS.get(cls) or [cls()]]
NAMES = [cls.name for cls in structures.ALL]
SHAPES = [(12, 8), (12, 4, 3), (12, 8, 2, 2)]

every_structure = pytest.mark.parametrize("structure", EXAMPLES, ids=repr)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class ByColumn(ScoreShaper):
    """Let each column be one row of competing entries."""

    def __call__(self, tensor):
        return tensor.T, lambda rows: rows.T

    def __repr__(self):
        return "ByColumn()"


def random(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def level_of(structure):
    """Return a level that the structure supports."""
    try:
        return structure.level(0.5)
    except LevelError:
        return structure.level(None)


@every_structure
@every_shape
def test_units_and_back(structure, shape):
    score = random(shape, 0)
    units = structure.pool(score)
    assert tuple(units.shape) == structure.rows(torch.Size(shape))
    chosen = random(units.shape, 1) > 0.5
    assert torch.equal(structure.pool(structure.expand(chosen, score.shape)), chosen)
    rows, back = structure(score)
    assert torch.equal(rows, units)
    assert back(rows > 0.5).shape == shape


@every_structure
@every_shape
def test_the_count_is_what_was_said(structure, shape):
    level, (weight, growth) = level_of(structure), random((2, *shape), 0)
    expected = possible_counts(structure, shape, level)
    mask = structure.topk(weight, level)
    assert int(mask.sum()) in expected
    new = structure.drop_and_grow(weight * mask, mask, level, 0.3, growth * ~mask)
    assert int(new.sum()) in expected
    assert not torch.equal(new, mask)
    kept, _ = structure.drop(weight, mask, 0.3)
    assert not (kept & ~mask).any()
    filled = structure.grow(growth, kept, level)
    assert int(filled.sum()) in expected
    assert not (kept & ~filled).any()


@every_structure
@pytest.mark.parametrize("dims", [(0, 1), (1, 0)])
@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
def test_parts_are_the_whole(structure, dims, ranks):
    """Join the units of each rank, row by row in the order of ranks; they are the weight's rows."""
    structure, flat = structure.with_dims(*dims), torch.arange(144.0).reshape(12, 12)
    rows, joined, apart = structure.pool(flat), {}, []
    count = math.ceil(12 / ranks)
    if count % height_of(structure):
        with pytest.raises(
            ShapeError, match=rf"weight of shape \(12, 12\): its shards have {count}"
        ):
            structure.part(flat.shape, 0, count)
        return
    for part in flat.split(count):
        share = structure.part(flat.shape, int(part[0, 0]) // 12, len(part))
        own = share.structure.pool(part)
        if share.norm is not None:
            apart.append(own.double())
        elif share.units is None:
            for row in own.tolist():
                joined[len(joined)] = row
        else:
            assert len(share.units) == len(rows)
            for number, units in enumerate(own.reshape(-1).split(list(share.units))):
                joined.setdefault(number, []).extend(units.tolist())
    if apart:
        whole = torch.linalg.vector_norm(torch.stack(apart), structure.norm, dim=0)
        torch.testing.assert_close(whole, rows.double())
    else:
        assert sorted(joined.values()) == sorted(rows.tolist())


def height_of(structure):
    """Return the size of a unit in dimension 0, where shards must not cut it; 1 if they may."""
    if isinstance(structure, Block):
        return structure.shape[structure.out_dim]
    if isinstance(structure, NM) and (structure.transposable or structure.in_dim == 0):
        return structure.m
    return 1


@every_structure
@every_shape
def test_inputs_first_is_the_transposed_weight(structure, shape):
    """A weight that stores (in, out, ...) has the transposed mask; random scores have no ties."""
    swapped = structure.with_dims(1, 0)
    weight, growth = random((2, *shape), 0)
    turned, turned_growth = (t.transpose(0, 1).contiguous() for t in (weight, growth))
    level = level_of(structure)
    mask = structure.topk(weight, level)
    turned_mask = swapped.topk(turned, level)
    assert torch.equal(turned_mask, mask.transpose(0, 1))
    assert int(mask.sum()) in possible_counts(swapped, turned.shape, level)
    new = structure.drop_and_grow(weight, mask, level, 0.4, growth)
    turned_new = swapped.drop_and_grow(turned, turned_mask, level, 0.4, turned_growth)
    assert torch.equal(turned_new, new.transpose(0, 1))
    assert turned_new.is_contiguous()
    assert swapped.with_dims(1, 0) is swapped
    assert repr(swapped) == repr(structure)


@every_structure
def test_representations_read_back(structure):
    again = eval(repr(structure), vars(structures))
    assert type(again) is type(structure)
    assert repr(again) == repr(structure)


def test_names_are_unique_and_classes_are_structures():
    assert len(set(NAMES)) == len(NAMES)
    assert all(issubclass(cls, Structure) for cls in structures.ALL)


@pytest.mark.parametrize("one", [Groups(inputs=1), Groups(outputs=1)], ids=repr)
@every_shape
def test_one_group_is_unstructured(one, shape):
    weight, growth = random((2, *shape), 0)
    mask = one.topk(weight, 0.7)
    assert torch.equal(mask, Unstructured().topk(weight, 0.7))
    both = [s.drop_and_grow(weight, mask, 0.6, 0.3, growth) for s in (one, Unstructured())]
    assert torch.equal(*both)


def test_groups_take_one_side():
    with pytest.raises(
        ExclusiveOptionsError, match=r"^structure 'groups' accepts inputs or outputs, not both\.$"
    ):
        Groups(3, 2)
    with pytest.raises(
        MissingOptionError,
        match=r"^structure 'groups' needs 'inputs' or 'outputs': an integer >= 1\.$",
    ):
        Groups()


def test_documented_shapers_are_structures():
    assert isinstance(ScoreFlattener(), Unstructured)
    assert isinstance(InputGroupScoreShaper(2), Groups)


def test_any_level_is_held_but_none_at_all():
    for structure in (Unstructured(), Groups(inputs=2), ShaperRows(ByColumn())):
        assert structure.level(0.3) == 0.3
        with pytest.raises(
            MissingOptionError, match=r"^sparsity is required: a number from 0 to 1"
        ):
            structure.level(None)


def test_a_shaper_of_the_users_own():
    structure = make_structure(ByColumn())
    mask = structure.topk(random((4, 3), 0), 0.5)
    assert mask.sum(0).tolist() == [2, 2, 2]
    assert structure.num_kept(torch.Size([4, 3]), 0.5) == 6
    assert repr(structure) == "ByColumn()"
    with pytest.raises(ShapeError, match=r"ByColumn\(\) does not support sharded weights; use"):
        structure.part(torch.Size([4, 3]), 0, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "Unstructured()"),
        ("unstructured", "Unstructured()"),
        ("Unstructured", "Unstructured()"),
        ("2:4", "NM(2, 4)"),
        (" 1 : 16 ", "NM(1, 16)"),
        ({"type": "n_m", "n": 2, "m": 4}, "NM(2, 4)"),
        ({"type": "groups", "inputs": 4}, "Groups(inputs=4)"),
        ({"type": "groups", "outputs": 4}, "Groups(outputs=4)"),
        (NM(4, 8), "NM(4, 8)"),
        (InputGroupScoreShaper(2), "InputGroupScoreShaper(num_groups=2)"),
    ],
)
def test_structures_from_configs(given, expected):
    structure = make_structure(given)
    assert isinstance(structure, Structure)
    assert repr(structure) == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("unstructred", OptionError, r"^unknown structure 'unstructred'; .*'unstructured'"),
        ("n_m", MissingOptionError, r"^structure needs the option 'n'; got {'type': 'n_m'}\.$"),
        (
            {"n": 2},
            MissingOptionError,
            rf"^structure needs the option 'type'; .* Choose from {', '.join(NAMES)}\.$",
        ),
        (
            {"type": "groups", "input": 2},
            OptionError,
            r"^structure 'groups' has no option 'input'; .*'inputs'",
        ),
        ({"type": 3}, OptionError, r"^structure type must be one of .*; got 3"),
        ("5:4", OptionError, r"^n of an n:m structure must be between 1 and m = 4; got 5\.$"),
        (
            "2:4:8",
            OptionError,
            r"'2:4:8'; .* You can also give a pattern n:m, such as '2:4'\.$",
        ),
        (
            {"type": "n_m", "n": 2, "m": "4"},
            OptionTypeError,
            r"^m of an n:m structure must be an integer >= 1; got '4' \(str\)\.$",
        ),
        (124, OptionTypeError, r"^structure must be a name, .* \(quoted in YAML\), .*; got 124"),
        (NM, OptionTypeError, r"^structure must be .*; got <class"),
    ],
)
def test_what_is_no_structure_raises(given, error, message):
    with pytest.raises(error, match=message):
        make_structure(given)
