"""Filters and the parameters that they pick."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsewright.core.filters import (
    FirstMatch,
    default_sparse_param_filter,
    make_param_filter,
)
from sparsewright.errors import OptionTypeError

MATRIX, VECTOR = torch.zeros(2, 2), torch.zeros(2)


@pytest.mark.parametrize(
    ("name", "param", "picked"),
    [
        ("fc1.weight", MATRIX, True),
        ("conv.weight", torch.zeros(2, 2, 3, 3), True),
        ("fc1.bias", VECTOR, False),
        ("scale", torch.zeros(()), False),
        ("embedding.weight", MATRIX, False),
        ("Embedding_1.weight", MATRIX, False),
        ("tok.position_EMBEDDING.weight", MATRIX, False),
        ("layer_norm.weight", MATRIX, False),
        ("block.LayerNorm.weight", MATRIX, False),
        ("lm_head.weight", MATRIX, False),
        ("pe_helper.weight", MATRIX, False),
        ("lm.head.weight", MATRIX, True),
    ],
)
def test_default_filter(name, param, picked):
    assert default_sparse_param_filter(name, param) is picked


def test_default_filter_takes_lazy_parameters_for_weights():
    lazy = nn.LazyLinear(3).weight
    assert default_sparse_param_filter("fc.weight", lazy)
    assert not default_sparse_param_filter("norm.weight", lazy)


@pytest.mark.parametrize(
    ("glob", "name", "picked"),
    [
        ("fc1.weight", "fc1.weight", True),
        ("fc1", "fc1.weight", False),
        ("*.weight", "a.b.c.weight", True),
        ("*.weight", "weight", False),
        ("fc?.weight", "fc12.weight", False),
        ("fc[12].weight", "fc2.weight", True),
        ("FC1.weight", "fc1.weight", False),
        ("fc1.weight", "FC1.weight", False),
        (["a.*", "b.*"], "b.weight", True),
        (("a.*", "b.*"), "c.weight", False),
    ],
)
def test_globs_match_the_whole_name_with_case(glob, name, picked):
    assert make_param_filter(glob)(name, MATRIX) is picked


def test_a_function_is_taken_as_it_is():
    def picks(name, param):
        return param.numel() > 3

    assert make_param_filter(picks) is picks


@pytest.mark.parametrize("wrong", [None, 3, [], ["a", 3], {"a": 1}, nn.Linear, [nn.Linear]])
def test_anything_else_raises(wrong):
    with pytest.raises(
        OptionTypeError, match=r"^param_filter must be a glob, a list of globs or a function"
    ):
        make_param_filter(wrong)


def test_representation_shows_the_glob():
    assert repr(make_param_filter("a.*")) == "'a.*'"
    assert repr(make_param_filter(["a.*", "b"])) == "['a.*', 'b']"


@given(
    filters=st.lists(
        st.one_of(
            st.lists(st.sampled_from(["a", "b", "a.b", "*", "a*", "?", "[ab]", "c"]), min_size=1),
            st.just(None),
        ),
        max_size=5,
    ),
    name=st.sampled_from(["a", "b", "a.b", "c", "*"]),
)
def test_the_first_match_is_that_of_asking_one_after_the_other(filters, name):
    made = [default_sparse_param_filter if f is None else make_param_filter(f) for f in filters]
    picked = [index for index, param_filter in enumerate(made) if param_filter(name, MATRIX)]
    assert FirstMatch(made).find(name, MATRIX) == (picked[0] if picked else None)
