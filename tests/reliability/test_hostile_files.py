"""Damaged and hostile weight files raise our errors and never crash."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import sparsewright as sparse
from helpers.support import assert_same
from sparsewright.cli import main
from sparsewright.errors import CheckpointError


@pytest.fixture(autouse=True)
def _own_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `warnings.showwarning`, which the command replaces, after each test."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    sparse.Static(0.6).apply(model)
    return model


def test_every_bit_of_a_compressed_file(tmp_path: Path) -> None:
    """A flipped bit in any byte, or a cut, raises or loads the state that was written."""
    path = tmp_path / "m.safetensors"
    sparse.save_compressed(make_model(), path)
    whole, right = path.read_bytes(), sparse.load_compressed(path)
    refusals = harmless = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        for content in (damaged, whole[:position]):
            path.write_bytes(content)
            try:
                state = sparse.load_compressed(path)
            except CheckpointError:
                refusals += 1
            else:
                assert_same({k: state[k] for k in right}, right)
                harmless += 1
    print(f"{refusals} files rejected, {harmless} files with the same state")
    assert refusals > 1.9 * len(whole)


def rewrite(path: Path, shapes: str, tensors: dict) -> None:
    """Write a compressed file with these shapes and the matching digest."""
    from sparsewright.storage import compressed_file as module

    metadata = {"format": module.FORMAT, "shapes": shapes}
    save_file(tensors, path, {**metadata, "sha256": module._digest(tensors, shapes)})


@pytest.mark.parametrize(
    "shapes",
    [
        "[" * 100_000,
        '{"w": [' + "9" * 5000 + "]}",
        '{"w": [1073741824, 1073741824, 16]}',
        '{"w": [4294967296, 4294967296]}',
        '{"w": [0, 9223372036854775807, 9223372036854775807]}',
        '{"w": [-2, -4]}',
        '{"w": [true, 8]}',
        '{"w": [2.0, 4]}',
        '{"w": "24"}',
        '{"w": [2, 5]}',
        '{"w": null}',
        '{"w": [[2, 4]]}',
        '{"x": [2, 4]}',
        "NaN",
        "",
    ],
)
def test_invalid_shapes_are_rejected(tmp_path: Path, shapes: str) -> None:
    bits, values = torch.tensor([255], dtype=torch.uint8), torch.ones(8)
    path = tmp_path / "m.safetensors"
    rewrite(path, '{"w": [2, 4]}', {"w.values": values, "w_mask": bits})
    assert sparse.load_compressed(path)["w"].sum() == 8
    for empty in (False, True):
        chosen = {"w.values": values[:0], "w_mask": bits[:0]} if empty else None
        rewrite(path, shapes, chosen or {"w.values": values, "w_mask": bits})
        with pytest.raises(CheckpointError, match=r"m\.safetensors"):
            sparse.load_compressed(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_values_of_invalid_dtypes_are_rejected(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"w.values": torch.ones(8).to(dtype), "w_mask": torch.tensor([255]).byte()}
    rewrite(tmp_path / "m", '{"w": [2, 4]}', tensors)
    problem = f"w: its values must be floating-point or complex, got {dtype}"
    with pytest.raises(CheckpointError, match=problem):
        sparse.load_compressed(tmp_path / "m")


def test_a_compressed_file_from_another_model_is_rejected(tmp_path: Path) -> None:
    sparse.save_compressed(make_model(), tmp_path / "m")
    for model in (nn.Linear(9, 7), nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(7, 3))):
        with pytest.raises(CheckpointError, match=r"m: does not fit the model: .*weight"):
            sparse.load_compressed(tmp_path / "m", model)


def test_inspect_reads_compressed_files(tmp_path: Path) -> None:
    model = make_model()
    sparse.save_compressed(model, tmp_path / "m.safetensors")
    save_file(model.state_dict(), tmp_path / "masked.safetensors")
    outputs = []
    for name in ("m.safetensors", "masked.safetensors"):
        done = CliRunner().invoke(main, ["inspect", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        outputs.append(done.output.splitlines()[1:])
    assert outputs[0] == outputs[1]
    assert outputs[0][1].split() == ["0.weight", "25", "63", "0.6032"]


def header(content: object, length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = {
    "length beyond the file": header({}, 2**63),
    "negative length": header({}, 2**64 - 1),
    "not JSON": header(b"{" * 99),
    "deep": header(b"[" * 100_000),
    "not UTF-8": header(b"\xff\xfe{}"),
    "offsets beyond": header({"w": {**TENSOR, "data_offsets": [0, 80]}}),
    "offsets backwards": header({"w": {**TENSOR, "data_offsets": [8, 0]}}) + bytes(8),
    "negative offsets": header({"w": {**TENSOR, "data_offsets": [-8, 0]}}) + bytes(8),
    "overlap": header({"v": TENSOR, "w": TENSOR}) + bytes(8),
    "negative shape": header({"w": {**TENSOR, "shape": [-2, -1]}}) + bytes(8),
    "huge shape": header({"w": {**TENSOR, "shape": [2**62, 2**62, 2]}}) + bytes(8),
    "unknown dtype": header({"w": {**TENSOR, "dtype": "F31"}}) + bytes(8),
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_hostile_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        sparse.load_compressed(path)
    done = CliRunner().invoke(main, ["inspect", str(path)])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert done.output.startswith("error: ")


DTYPES = [
    torch.float8_e4m3fn,
    torch.bfloat16,
    torch.complex64,
    torch.int8,
    torch.bool,
    torch.uint16,
]
STATES = {
    "sparse tensors": {"w": torch.eye(3).to_sparse()},
    "meta tensors": {"w": torch.ones(2, 2, device="meta")},
    "a long number": {"blocks." + "9" * 5000 + ".w": torch.ones(2, 2)},
    "control characters": {"\x1b[2J[/red]\ud800.w": torch.ones(2, 2)},
    "an empty mask": {"w": torch.ones(0, 2), "w_mask": torch.ones(0, 2)},
    "masks of masks": {
        k: torch.ones(2, 2, dtype=torch.bool) for k in ("w", "w_mask", "w_mask_mask")
    },
    **{str(dtype): {"w": torch.ones(2, 2).to(dtype)} for dtype in DTYPES},
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_inspect_of_odd_states(tmp_path: Path, state: dict) -> None:
    torch.save(state, tmp_path / "m.pt")
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.pt")])
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.exit_code in (0, 1)
    assert "\x1b" not in done.output
    if done.exit_code:
        assert done.output.splitlines()[-1].startswith("error: ")
