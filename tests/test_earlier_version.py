"""Files of version 0.1 load, and their runs continue with the same masks and weights.

The files are in `fixtures/version_0_1`, with the script that wrote them:

- `loops/*.pt`: state dicts from plain PyTorch loops, and the model's state at the end;
- `configs/*.yaml`: a config in each dialect, and the state of a model trained with it;
- `stopped_*`, `finished_*`: a run folder after a stop, and after the run finished;
- `compressed.safetensors`, `packed.pt`: a model's state in each compact form, and unchanged.

The tests compare masks exactly. They compare weights exactly if this machine rounds like the one
that wrote the files, and to 1e-6 otherwise.
"""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import sparsewright as sparse
from helpers import earlier
from helpers.cli_process import Command

ALIKE = earlier.rounding() == (earlier.FOLDER / "rounding.txt").read_text().strip()


def assert_equal(state, expected):
    """Assert that two states of a model are equal."""
    assert sorted(state) == sorted(expected)
    tolerance = 0 if ALIKE else 1e-6
    for name, tensor in expected.items():
        exact = tensor.dtype == torch.bool
        torch.testing.assert_close(
            state[name], tensor, rtol=0, atol=0 if exact else tolerance, msg=name
        )


@pytest.mark.parametrize("name", earlier.RUNS)
@pytest.mark.parametrize("order", [1, -1])
def test_a_loop_in_plain_pytorch_goes_on(name, order):
    saved = torch.load(earlier.FOLDER / f"loops/{name}.pt", weights_only=True)
    model, sparsity, optimizer = earlier.make_run(name)
    parts = {"model": model, "optimizer": optimizer, "sparsity": sparsity}
    for key in list(parts)[::order]:
        parts[key].load_state_dict(saved[key])
    assert sparsity.step == earlier.SAVED_AT
    assert_equal(earlier.state_of(model), saved["model"])
    earlier.train(model, optimizer, earlier.SAVED_AT, earlier.END)
    assert_equal(earlier.state_of(model), saved["end"])
    assert any(not torch.equal(saved["end"][key], saved["model"][key]) for key in saved["end"])


@pytest.mark.parametrize("path", earlier.SECTIONS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:the key:DeprecationWarning")
def test_a_config_says_what_it_said(path):
    expected = torch.load(path.with_suffix(".pt"), weights_only=True)
    found = earlier.configured(yaml.safe_load(path.read_text()))
    if path.stem == "present":  # that version lost the mask of a bias next to a compressed weight
        assert found.pop("2.bias_mask").dtype == torch.bool
    assert_equal(found, expected)


def test_compact_files():
    files = torch.load(earlier.FOLDER / "packed.pt", weights_only=True)
    assert_equal(sparse.unpack_masks(files["packed"]), files["model"])
    assert_equal(sparse.load_compressed(earlier.FOLDER / "compressed.safetensors"), files["model"])


@pytest.fixture
def command(tmp_path):
    """Return the command in a folder with copies of all files."""
    shutil.copytree(earlier.FOLDER, tmp_path, dirs_exist_ok=True)
    return Command(tmp_path)


@pytest.mark.parametrize("storage", earlier.STORAGES)
def test_a_run_is_resumed(command, storage):
    done = command("train", "--resume", f"stopped_{storage}")
    assert done.status == 0, done.err
    whole, resumed = (command.folder / f"{name}_{storage}" for name in ("finished", "stopped"))
    assert_equal(*(load_file(path / "model.safetensors") for path in (resumed, whole)))
    snapshots = sorted(path.name for path in (whole / "masks").iterdir())
    assert sorted(path.name for path in (resumed / "masks").iterdir()) == snapshots
    for name in snapshots:
        assert_equal(*(load_file(path / "masks" / name) for path in (resumed, whole)))


def test_a_config_of_another_program_trains(command):
    done = command("train", "configs/trainer.yaml", "--out", "trained")
    assert done.status == 0, done.err
    expected = load_file(command.folder / "configs/trainer.safetensors")
    assert_equal(load_file(command.folder / "trained/model.safetensors"), expected)


@pytest.mark.parametrize("storage", earlier.STORAGES)
@pytest.mark.parametrize("name", ["stopped", "finished"])
def test_a_run_is_inspected_and_reported(command, name, storage):
    run = f"{name}_{storage}"
    done = command("inspect", run)
    assert done.status == 0, done.err
    assert "blocks.0.attention.qkv.weight    153    768    0.8008" in done.out
    assert "all with a mask                  612  3,072    0.8008" in done.out
    done = command("report", run, "--format", "json", "-o", "-")
    assert done.status == 0, done.err
    (line,) = json.loads(done.out)["runs"]
    expected = {"state": "finished", "steps": 20, "updates": 5}
    if name == "stopped":
        expected = {"state": "not finished", "steps": 10, "updates": 3}
    expected |= {"recipe": "charlm", "methods": "RigL", "layers": 4, "total": 3072, "kept": 612}
    assert {key: line[key] for key in expected} == expected


def test_import_paths_of_the_earlier_version():
    from sparsewright.core.errors import SparsewrightError
    from sparsewright.core.events import MaskUpdate

    from sparsewright.nn import SparseLinear
    from sparsewright.nn.checkpoint import SavedSize, load_compressed, save_compressed
    from sparsewright.nn.compress import Conversion, compress, decompress

    assert SparsewrightError is sparse.errors.SparsewrightError
    assert MaskUpdate is sparse.MaskUpdate
    assert (compress, decompress) == (sparse.compress, sparse.decompress)
    assert (load_compressed, save_compressed) == (sparse.load_compressed, sparse.save_compressed)
    assert {cls.__name__ for cls in (SparseLinear, SavedSize, Conversion)} == {
        *("SparseLinear", "SavedSize", "Conversion"),
    }
