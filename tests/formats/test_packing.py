"""Packed masks, with one bit per entry."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsewright as sparse
from helpers.support import make_mlp
from sparsewright.core.packing import pack_mask, read_mask, unpack_mask
from sparsewright.errors import ShapeError, StateError


@given(st.lists(st.booleans(), max_size=40))
def test_bits_are_the_entries_in_order(entries):
    bits = pack_mask(torch.tensor(entries, dtype=torch.bool))
    assert bits.dtype == torch.uint8
    assert len(bits) == (len(entries) + 7) // 8
    assert [bool(bits[i // 8] >> (i % 8) & 1) for i in range(len(entries))] == entries
    back = unpack_mask(bits, torch.Size([len(entries)]))
    assert back.tolist() == entries


def test_bits_that_do_not_fit_raise():
    shape = torch.Size([3, 3])
    bits = pack_mask(torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"expected shape \(2,\) for 9 entries"):
        unpack_mask(bits[:1], shape)
    bits[1] |= 2
    with pytest.raises(ShapeError, match="bits are set beyond its 9 entries"):
        unpack_mask(bits, shape)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.int64])
def test_a_mask_of_zeros_and_ones_is_read_in_any_dtype(dtype):
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert torch.equal(read_mask(mask.to(dtype), mask.shape), mask)
    with pytest.raises(ShapeError, match="expected the weight's shape"):
        read_mask(mask.to(dtype).T, mask.shape)


def test_other_values_and_types_are_rejected():
    mask = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    message = r"a mask of shape \(2, 2\): it has torch.float32 values other than 0 and 1"
    with pytest.raises(ShapeError, match=message):
        read_mask(mask, mask.shape)
    with pytest.raises(StateError, match=r"a mask: expected a tensor, got \[True\]"):
        read_mask([True], mask.shape)


def test_packed_state_loads_as_it_is_and_unpacks_to_what_it_was():
    model = make_mlp()
    sparse.Static(0.7).apply(model)
    state = model.state_dict()
    packed = sparse.pack_masks(state)
    assert state["0.weight_mask"].dtype == torch.bool
    assert packed.keys() == state.keys()
    assert packed["0.weight_mask"].numel() == -(-state["0.weight_mask"].numel() // 8)
    unpacked = sparse.unpack_masks(packed)
    assert all(torch.equal(unpacked[key], value) for key, value in state.items())
    other = make_mlp()
    sparse.Static(0.7, seed=1).apply(other)
    assert not torch.equal(other[0].weight_mask, state["0.weight_mask"])
    other.load_state_dict(packed)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    packed["0.weight_mask"] = packed["0.weight_mask"][:-1]
    with pytest.raises(RuntimeError, match=r"0.weight_mask: a mask of shape"):
        other.load_state_dict(packed)
