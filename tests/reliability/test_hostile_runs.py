"""Damaged, forged and hostile run folders are rejected, or the run resumes and trains."""

from __future__ import annotations

import copy
import math
import pickle
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import sparsewright as sparse
from helpers.cli_process import Command
from sparsewright.cli import main
from sparsewright.errors import CheckpointError, SparsewrightError
from sparsewright.runs import loop
from sparsewright.runs.run_folder import SUMS, RunFolder, checksums

FILES = ("model.safetensors", "state.pt", SUMS)
WEIGHT = "blocks.0.mlp.0.weight"


@pytest.fixture(autouse=True)
def _own_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `warnings.showwarning`, which the command replaces, after each test."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run that is stopped at step 4 of 6."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "text.txt").write_text("the quick brown fox; " * 40)
    command = Command(folder)
    section = {"algorithm": "set", "sparsity": [0.5, 0.6], "update": {"freq": 2}}
    model = {"layers": 1, "width": 8, "heads": 2, "context": 4}
    config = command.config(loop={"steps": 6}, sparsity=section, model=model)
    assert command("train", config, "--out", "run", "--until", 4).status == 0
    return folder / "run"


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def checkpoint(run: Path) -> Path:
    return run / "checkpoints/000004"


def resume(run: Path) -> loop.Training:
    with RunFolder(run) as folder:
        return loop.restore(folder)


def refused(run: Path) -> bool:
    """Return whether resuming raises our error. If it does not, check that the run trains."""
    try:
        training = resume(run)
    except SparsewrightError:
        return True
    assert math.isfinite(training.step()["loss"])
    return False


def test_the_original_resumes(run: Path) -> None:
    assert not refused(run)


@pytest.mark.slow
def test_flipped_bits_and_cuts_are_rejected(run: Path) -> None:
    draws, count = random.Random(1), 0
    for name in FILES:
        path = checkpoint(run) / name
        whole = path.read_bytes()
        for index in range(60):
            damaged = bytearray(whole)
            damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
            path.write_bytes(damaged if index % 3 else whole[: draws.randrange(len(whole))])
            with pytest.raises(CheckpointError, match="000004"):
                resume(run)
            count += 1
        path.write_bytes(whole)
    assert not refused(run)
    print(f"{count} damaged files")


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def bombs(mark: Path, folder: Path) -> list[bytes]:
    """Return contents of files that run code if they are unpickled or read as unsafe YAML."""
    bomb, out = Bomb(mark), []
    for zipped in (True, False):
        for content in (bomb, {"step": 4, "format": 1, "x": bomb}):
            torch.save(content, folder / "bomb", _use_new_zipfile_serialization=zipped)
            out.append((folder / "bomb").read_bytes())
    out += [pickle.dumps(bomb, protocol) for protocol in range(6)]
    text = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"
    return out + [text.encode(), f"x: {text}".encode(), f"loop: {text}\n".encode()]


def test_a_bomb_goes_off_if_it_is_unpickled(tmp_path: Path) -> None:
    for index, content in enumerate(bombs(tmp_path / "mark", tmp_path)[4:10]):
        pickle.loads(content)
        assert (tmp_path / "mark").exists(), index
        (tmp_path / "mark").unlink()


def test_no_file_that_is_read_runs_code(run: Path, tmp_path: Path) -> None:
    mark, runner = tmp_path / "mark", CliRunner()
    files = [p for p in run.rglob("*") if p.is_file()] + [run.parent / "text.txt"]
    assert len(files) == 10
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(original_text(config)), str(files[-1])))
    files[-1].write_bytes(Path(original_text(config)).read_bytes())
    assert not refused(run)
    count = 0
    for path in files:
        whole = path.read_bytes()
        for bomb in bombs(mark, tmp_path):
            path.write_bytes(bomb)
            for arguments in (
                ["train", "--resume", str(run)],
                ["train", str(path), "--out", str(tmp_path / "new")],
                ["inspect", str(run)],
                ["inspect", str(path)],
            ):
                if path.name == "metrics.jsonl" and arguments[1] == "--resume":
                    continue  # resuming does not read this file, it only truncates it
                done = runner.invoke(main, arguments)
                assert isinstance(done.exception, SystemExit | None), (path, arguments)
                assert "Traceback" not in done.output
                assert not mark.exists(), (path, arguments)
                count += 1
            with pytest.raises(CheckpointError):
                sparse.load_compressed(path)
            assert not mark.exists()
        path.write_bytes(whole)
    print(f"{count} commands on bombs")
    assert count > 250


def original_text(config: str) -> str:
    return next(line.split(": ")[1] for line in config.splitlines() if "text:" in line)


JUNK = [None, True, -1, 2**70, 0.5, math.nan, "x", b"x", [], {}, {"x": 1}, torch.tensor(7.0)]
JUNK += [torch.ones(2, 3), torch.ones(0), torch.ones(3, dtype=torch.int64), torch.tensor(-math.inf)]


def places(state: dict | list | tuple, path: tuple = ()) -> list[tuple]:
    """Return the path of every value in a nested state, for two parameters per optimizer."""
    found = [path]
    pairs = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in pairs:
        if path[-1:] == ("state",) and key not in (0, 3):
            continue
        if isinstance(value, dict | list | tuple):
            found += places(value, (*path, key))
        else:
            found.append((*path, key))
    return found


def put(state: dict, path: tuple, value: object) -> dict:
    """Return a copy of a state with another value at a path; Ellipsis deletes the value."""
    root = [copy.deepcopy(state)]
    inside: object = root
    for key in (0, *path)[:-1]:
        if isinstance(inside[key], tuple):
            inside[key] = list(inside[key])
        inside = inside[key]
    if value is ...:
        del inside[(0, *path)[-1]]
    else:
        inside[(0, *path)[-1]] = value
    return root[0]


@pytest.mark.slow
def test_forged_states_with_right_checksums(run: Path) -> None:
    """Replace each value of state.pt with junk or delete it, and write matching checksums."""
    folder, draws, taken, count = checkpoint(run), random.Random(2), [], 0
    state = torch.load(folder / "state.pt", weights_only=True)
    for path in places(state):
        if not path:
            continue
        for value in [..., *draws.sample(JUNK, 2)]:
            torch.save(put(state, path, value), folder / "state.pt")
            (folder / SUMS).write_text(checksums(folder))
            count += 1
            if not refused(run):
                taken.append((path, value))
    print(f"{count} forged states, {len(taken)} of them harmless")
    assert count > 400
    # A resumed run never reads these values, or sets them again.
    harmless = {"metadata", "lr", "validation", "churn", "params", "decoupled_weight_decay"}
    odd = [(p, v) for p, v in taken if not harmless & set(p) and not is_plausible(p, v)]
    assert not odd, [(path, str(value)) for path, value in odd]


def is_plausible(path: tuple, value: object) -> bool:
    """Return whether a value is a possible number, or a setting that falls back to its default."""
    if "param_groups" in path:
        return value is ... or value is None
    return path[-1] in ("step", "seed", "index") and isinstance(value, int | torch.Tensor)


def forge(run: Path, change) -> None:
    """Change the weights of a checkpoint and write matching checksums."""
    path = checkpoint(run) / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, path)
    (path.parent / SUMS).write_text(checksums(path.parent))


def first_pruned(weights: dict, value: float) -> None:
    flat = weights[WEIGHT].view(-1)
    flat[(~weights[f"{WEIGHT}_mask"]).view(-1).nonzero()[0]] = value


FORGED = {
    "missing": lambda w: w.pop(WEIGHT),
    "missing mask": lambda w: w.pop(f"{WEIGHT}_mask"),
    "an unknown key": lambda w: w.update(stranger=torch.ones(1)),
    "another shape": lambda w: w.update({WEIGHT: w[WEIGHT].T}),
    "flat": lambda w: w.update({WEIGHT: w[WEIGHT].reshape(-1)}),
    "empty": lambda w: w.update({WEIGHT: torch.ones(0, 8)}),
    "float64": lambda w: w.update({WEIGHT: w[WEIGHT].double()}),
    "bfloat16": lambda w: w.update({WEIGHT: w[WEIGHT].bfloat16()}),
    "int64": lambda w: w.update({WEIGHT: w[WEIGHT].long()}),
    "bool": lambda w: w.update({WEIGHT: w[WEIGHT].bool()}),
    "complex": lambda w: w.update({WEIGHT: w[WEIGHT].cfloat()}),
    "nonzero off the mask": lambda w: first_pruned(w, 1e-30),
    "nan off the mask": lambda w: first_pruned(w, math.nan),
    "mask of bytes": lambda w: w.update({f"{WEIGHT}_mask": w[f"{WEIGHT}_mask"].byte()}),
    "mask of floats": lambda w: w.update({f"{WEIGHT}_mask": w[f"{WEIGHT}_mask"].float()}),
    "mask of bits": lambda w: w.update(sparse.pack_masks(w)),
    "mask of another shape": lambda w: w.update({f"{WEIGHT}_mask": w[f"{WEIGHT}_mask"].T}),
    "mask upside down": lambda w: w[f"{WEIGHT}_mask"].logical_not_(),
    "mask of nothing": lambda w: w[f"{WEIGHT}_mask"].zero_(),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_forged_weights_with_right_checksums(run: Path, change) -> None:
    forge(run, change)
    with pytest.raises(
        CheckpointError, match=r"000004: does not fit the model: .*(mlp|stranger|mask)"
    ):
        resume(run)
