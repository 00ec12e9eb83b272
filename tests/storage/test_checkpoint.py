"""Compressed checkpoint files."""

import json
import os
import stat
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import sparsewright as sparse
from sparsewright.errors import CheckpointError


def make_model(level=0.9):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.LayerNorm(48), nn.Linear(48, 10))
    sparse.Static(level).apply(model)
    return model


@pytest.mark.parametrize("compressed", [False, True])
def test_round_trip_and_size(tmp_path, compressed):
    model = make_model()
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    if compressed:
        sparse.compress(model, verbose=False)
    size = sparse.save_compressed(model, tmp_path / "model.safetensors")
    assert size.nbytes == (tmp_path / "model.safetensors").stat().st_size
    assert size.dense_nbytes == 4 * (64 * 48 + 48 * 10 + 48 * 3 + 10)
    assert size.nbytes < 0.35 * size.dense_nbytes
    state = sparse.load_compressed(tmp_path / "model.safetensors")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_loads_into_masked_compressed_and_dense_models(tmp_path):
    model, x = make_model(), torch.randn(5, 64)
    sparse.save_compressed(model, tmp_path / "m")
    masked, compressed = make_model(0.5), make_model(0.5)
    sparse.compress(compressed, verbose=False)
    dense = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.LayerNorm(48), nn.Linear(48, 10))
    for other in (masked, compressed, dense):
        sparse.load_compressed(tmp_path / "m", other)
        torch.testing.assert_close(other(x), model(x))


def rewrite(path, change):
    """Change a file's tensors and metadata."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        metadata = json.loads(file.read(length))["__metadata__"]
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


BAD_SHAPES = "the shapes in its metadata must be a dict of lists of integers >= 0"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda t, m: m.update(format="other"),
            "m: not a file that save_compressed wrote; its format must be sparsewright-compressed-",
        ),
        (lambda t, m: m.update(shapes="{"), BAD_SHAPES),
        (lambda t, m: m.update(shapes='{"0.weight": [-4, 2]}'), BAD_SHAPES),
        (lambda t, m: m.update(shapes='{"0.weight": [64, 49]}'), "packed mask"),
        (
            lambda t, m: t.update({"0.weight": torch.ones(3)}),
            "0.weight: stored twice, dense and as live values",
        ),
        (lambda t, m: t.pop("0.weight.values"), "0.weight: its values or its mask are missing"),
        (lambda t, m: t.pop("0.weight_mask"), "0.weight: its values or its mask are missing"),
        (
            lambda t, m: t["0.weight_mask"].logical_not_(),
            r"0.weight: 307 values do not fit a mask of \d+ connections",
        ),
        (
            lambda t, m: t.update({"0.weight.values": t["0.weight.values"][:-1].clone()}),
            "0.weight: 306 values do not fit a mask of 307 connections",
        ),
        (
            lambda t, m: t["0.weight.values"].mul_(2),
            r"its content changed after it was written \(sha256 differs\)",
        ),
    ],
)
def test_inconsistent_files_raise_our_error(tmp_path, change, problem):
    sparse.save_compressed(make_model(), tmp_path / "m")
    rewrite(tmp_path / "m", change)
    with pytest.raises(CheckpointError, match=problem):
        sparse.load_compressed(tmp_path / "m")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_give_our_error_or_a_consistent_state(tmp_path, data):
    path = tmp_path / "m"
    sparse.save_compressed(make_model(), path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        state = sparse.load_compressed(path)
    except CheckpointError:
        state = {}
    for key, value in state.items():
        mask = state.get(key + "_mask")
        assert mask is None or not value[~mask].any()


def test_missing_and_unwritable(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        sparse.load_compressed(tmp_path / "nothing-here")
    with pytest.raises(FileNotFoundError):
        sparse.save_compressed(make_model(), tmp_path / "no-folder" / "m")


class Attention(nn.Module):
    """A module with buffers that are named like masks, but are not masks of sparse weights."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Parameter(torch.randn(4, 4).triu(1))
        self.gate = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("attn_mask", torch.full((4, 4), -torch.inf).triu(1))
        self.register_buffer("gate_mask", torch.ones(4, 4, dtype=torch.bool).tril())


def test_buffers_that_are_no_masks_of_sparse_weights_are_kept(tmp_path):
    model, other = Attention(), Attention()
    size = sparse.save_compressed(model, tmp_path / "m")
    state = sparse.load_compressed(tmp_path / "m", other)
    for key, value in model.state_dict().items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)
        assert torch.equal(other.state_dict()[key], value)
    assert size.dense_nbytes == 3 * 4 * 16 + 16


@pytest.mark.skipif(os.name != "posix", reason="the umask is of POSIX systems")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        sparse.save_compressed(make_model(), tmp_path / "m")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o666 & ~umask
