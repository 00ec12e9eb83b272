"""Weights that a structure does not fit: skipped by the default filter, else an error."""

import logging

import pytest
from torch import nn

import sparsewright as sparse
from helpers.choices import STRUCTURES
from sparsewright.errors import ShapeError, SparsityWarning

EVEN = "its input dimension 6 cannot be divided into "
MISFITS = {
    "groups": ({"type": "groups", "inputs": 4}, EVEN + "4 equal groups; use 3 or 6"),
    "n_m": ("2:4", "its input dimension 6 is not divisible by m = 4"),
    "transposable n_m": (
        STRUCTURES["transposable n_m"],
        "its input dimension 6 is not divisible by 4, the size of a tile",
    ),
    "block": ({"type": "block", "shape": [4, 4]}, EVEN + "blocks of 4; use 3 or 6"),
}
# These structures fit every weight with two dimensions.
OF_MATRICES = {
    "channel": {"type": "channel", "axis": 1},
    "fan_in": "fan_in",
    "fan_in with ablation": STRUCTURES["fan_in with ablation"],
}


def test_every_structure_is_tested():
    assert {"unstructured", *MISFITS, *OF_MATRICES} == set(STRUCTURES)


@pytest.mark.parametrize("name", MISFITS)
def test_the_default_filter_skips_what_does_not_fit_and_logs_the_reason(name, caplog):
    structure, reason = MISFITS[name]
    model = misfit_and_fit()
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparse.SET(sparsity=0.5, structure=structure).apply(model)
    assert f"0.weight stays dense: {reason}" in caplog.messages
    assert [n for n in model.state_dict() if "mask" in n] == ["2.weight_mask"]


@pytest.mark.parametrize("name", MISFITS)
def test_a_filter_that_names_what_does_not_fit_is_an_error_with_the_name(name):
    structure, reason = MISFITS[name]
    model = misfit_and_fit()
    config = {"algorithm": "set", "sparsity": 0.5, "structure": structure}
    with pytest.raises(ShapeError) as raised:
        sparse.configure({**config, "param_filter": "*.weight"}).apply(model)
    assert str(raised.value) == f"0.weight of shape (8, 6): {reason}"
    assert not any("mask" in name for name in model.state_dict())


@pytest.mark.parametrize("name", OF_MATRICES)
def test_vectors_have_no_inputs(name):
    model = misfit_and_fit()
    sparse.SET(sparsity=0.5, structure=OF_MATRICES[name]).apply(model)
    assert [n for n in model.state_dict() if "mask" in n] == ["0.weight_mask", "2.weight_mask"]
    config = {"algorithm": "set", "sparsity": 0.5, "structure": OF_MATRICES[name]}
    with pytest.raises(ShapeError) as raised:
        sparse.configure({**config, "param_filter": "*"}).apply(misfit_and_fit())
    assert str(raised.value) == "0.bias of shape (8,): it has no input dimension"


def misfit_and_fit():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


CHOOSE = {
    "constructor": lambda: sparse.Static(structure="2:4"),
    "group": lambda: sparse.configure({"algorithm": "static", "structure": "2:4"}),
    "setter": lambda: _with(sparse.Static(0.5), "structure", "2:4"),
}


def _with(sparsity, name, value):
    setattr(sparsity, name, value)
    return sparsity


@pytest.mark.parametrize("make", CHOOSE.values(), ids=CHOOSE)
def test_a_structure_passes_over_what_it_does_not_fit_under_the_default_filter(make, caplog):
    model, sparsity = misfit_and_fit(), make()
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparsity.apply(model)
    assert list(sparsity.sparse_params) == ["2.weight"]
    expected = "0.weight stays dense: its input dimension 6 is not divisible by m = 4"
    assert expected in caplog.text
    assert "0.weight_mask" not in model.state_dict()


def test_a_structure_that_fits_nothing_is_a_warning():
    with pytest.warns(SparsityWarning, match=r"no parameter was sparsified; available: weight"):
        sparse.Static(structure="2:4").apply(nn.Linear(6, 8))


NAMED = {
    "glob": lambda: sparse.Group({"*.weight": sparse.Static(structure="2:4")}),
    "function": lambda: sparse.Group(
        [(lambda name, p: p.ndim > 1, sparse.Static(structure="2:4"))]
    ),
    "shaper": lambda: _with(sparse.Static(0.5), "score_shaper", sparse.structures.NM(2, 4)),
    "balance": lambda: sparse.RigL(sparsity=0.5, balance_in_groups=4),
}


@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
def test_a_weight_that_was_picked_by_name_or_must_be_balanced_raises(make):
    model = misfit_and_fit()
    with pytest.raises(ShapeError, match=r"0\.weight of shape \(8, 6\): its input dimension 6"):
        make().apply(model)
    assert not any("mask" in name for name in model.state_dict())


def test_a_depthwise_convolution_has_no_input_channels_to_prune(caplog):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    structure = {"type": "channel", "axis": 1}
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparsity = sparse.RigL(sparsity=0.5, structure=structure)
        sparsity.apply(model)
    assert {name: p.kept for name, p in sparsity.sparse_params.items()} == {"1.weight": 16}
    reason = "it has a single input, so a mask would keep all or nothing"
    assert f"0.weight stays dense: {reason}" in caplog.messages
