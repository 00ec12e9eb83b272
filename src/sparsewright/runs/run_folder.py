"""Run folders: each is created completely or not at all, and survives any interruption.

::

    runs/charlm-1/
      config.yaml            resolved configuration
      metrics.jsonl          one JSON object per line
      versions.json          versions of Python, PyTorch, ...; gets an entry whenever they change
      masks/000040.safetensors   masks as bits, after a few of the updates
      checkpoints/000120/    last checkpoint; gets this name when it is complete
        model.safetensors      weights and masks
        state.pt               all other state; torch.load(weights_only=True) can read it
        SHA256SUMS             checksums of both files, for `sha256sum -c`
      model.safetensors      trained weights; only in a finished run
      tensorboard/           event files, if requested
      result.json            written last: the run is finished if this file exists

Resuming a run removes the metrics and masks recorded after the checkpoint. The run writes every
file under a temporary name, flushes it to disk and then renames it. It neither removes nor changes
files that it did not create, and it does not write through links.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from sparsewright.errors import CheckpointError, RunError, SparsewrightError
from sparsewright.formats.atomic import (
    draft_of,
    remove_drafts,
    remove_folder,
    sync_folder,
    write_atomically,
)
from sparsewright.formats.read_file import MOST_TEXT, open_own, read_regular
from sparsewright.formats.run_files import (
    CHECKPOINT_FILES,
    SUMS,
    find_checkpoints,
    find_snapshots,
    is_whole_checkpoint,
    name_of_step,
    saved_step,
)
from sparsewright.runs.saved_state import read_state, read_tensors
from sparsewright.wording import show

FORMAT = 2
logger = logging.getLogger("sparsewright")


class RunFolder:
    """An open run folder; a context manager, because it keeps the metrics file open.

    Args:
        path: a folder created by `create`.

    Attributes:
        last_masks: step of the last mask snapshot; 0 without snapshots.

    Raises:
        RunError: the folder is not a run folder, has symbolic links in place of files or folders
            that the run writes, or is in use by another process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        has_config = (path / "config.yaml").is_file()
        if not has_config or not (path / "checkpoints").is_dir():
            missing = "checkpoints/" if has_config else "config.yaml"
            there = path.exists()
            problem = f"not a run folder (no {missing})" if there else "no such run folder"
            raise RunError(path, problem)
        for name in ("checkpoints", "masks", "tensorboard"):
            if (path / name).is_symlink():
                problem = "this is a symbolic link; replace it with a folder to resume the run"
                raise RunError(path / name, problem)
        self._metrics = self._open_metrics()
        if os.fstat(self._metrics.fileno()).st_nlink > 1:
            self._unshare_metrics()
        with _writing(path):
            remove_drafts(path)
        self.last_masks = max((step for step, _ in self._snapshots()), default=0)

    @staticmethod
    def create(path: Path, config: str, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Create a run folder and its first checkpoint, completely or not at all.

        Args:
            path: path of the folder; must not exist, or must be an empty folder.
            config: text of config.yaml.
            weights: the model's state dict with the masks.
            state: all other state, with the key `step`.

        Raises:
            RunError: something already exists at `path`, or the folder cannot be written.
        """
        check_free(path)
        draft = draft_of(path)
        try:
            with _writing(path):
                (draft / "checkpoints").mkdir(parents=True)
                write_atomically(draft / "config.yaml", config.encode())
                write_atomically(draft / "metrics.jsonl", b"")
                _write_checkpoint(draft, weights, {**state, "format": FORMAT, "metrics_bytes": 0})
                # Atomic; it fails if the target is a non-empty folder.
                os.rename(draft, path)
                sync_folder(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()

    def _open_metrics(self) -> io.FileIO:
        """Open and lock the metrics file; the system releases the lock when this process ends."""
        with _writing(self.path):
            # Unbuffered: a buffer that a write could not flush would raise again on close.
            file = io.FileIO(open_own(self.path / "metrics.jsonl"), "ab")
        try:
            import fcntl
        except ImportError:  # this platform has no file locks
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise RunError(self.path, "another process is training in this folder") from error
        return file

    def _unshare_metrics(self) -> None:
        """Replace the metrics file by a copy, so that a hard link to it stays unchanged."""
        path = self.path / "metrics.jsonl"
        with self._metrics, _writing(self.path):
            write_atomically(path, path.read_bytes())
        self._metrics = self._open_metrics()

    @property
    def is_finished(self) -> bool:
        """Return whether the run has completed its last step and written all its files."""
        return (self.path / "result.json").exists()

    def log(self, **values: object) -> None:
        """Append a line to metrics.jsonl."""
        with _writing(self.path):
            _write_all(self._metrics, json.dumps(values).encode() + b"\n")

    def _snapshots(self) -> list[tuple[int, Path]]:
        """Return the steps and files of the mask snapshots that this run made."""
        return [(step, p) for step, p in find_snapshots(self.path) if saved_step(p) == step]

    def save_masks(self, step: int, bits: dict[str, Tensor], layers: dict[str, Any]) -> None:
        """Write a snapshot of the masks.

        Args:
            step: optimizer steps completed.
            bits: parameter name -> packed mask.
            layers: parameter name -> metadata that JSON can hold.
        """
        metadata = {"sparsewright": json.dumps({"step": step, "layers": layers})}
        with _writing(self.path):
            (self.path / "masks").mkdir(exist_ok=True)
            content = safetensors.torch.save(bits, metadata)
            name = f"{name_of_step(step)}.safetensors"
            write_atomically(self.path / "masks" / name, content)
        self.last_masks = step

    def note_versions(self, step: int, versions: dict[str, str]) -> None:
        """Add an entry to versions.json if the versions changed at `step`."""
        known = self._versions()
        if not known or known[-1]["versions"] != versions:
            known.append({"from_step": step, "versions": versions})
            with _writing(self.path):
                write_atomically(self.path / "versions.json", _json(known))

    def _versions(self) -> list[dict[str, Any]]:
        """Read the entries of versions.json.

        Raises:
            CheckpointError: the file cannot be read, or is not in a run's format.
        """
        path = self.path / "versions.json"
        try:
            known = json.loads(read_regular(path, MOST_TEXT)) if path.exists() else []
        except OSError as error:
            raise CheckpointError(path, f"cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(path, "not a list of versions") from error
        if type(known) is not list or not all(type(x) is dict and "versions" in x for x in known):
            raise CheckpointError(path, "not a list of versions")
        return known

    def save(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint, then remove the previous ones.

        Raises:
            RunError: the checkpoint cannot be written; the previous checkpoint remains.
        """
        with _writing(self.path):
            os.fsync(self._metrics.fileno())
            size = os.fstat(self._metrics.fileno()).st_size
            state = {**state, "format": FORMAT, "metrics_bytes": size}
            self._forget_all_but(_write_checkpoint(self.path, weights, state))

    def _forget_all_but(self, kept: Path) -> None:
        """Remove all checkpoints of the run except one."""
        for _, path in find_checkpoints(self.path):
            if path != kept and is_whole_checkpoint(path):
                remove_folder(path)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the weights and state of the last checkpoint, without changing the folder.

        Raises:
            CheckpointError: the checkpoint is damaged or has another format.
        """
        path = last_checkpoint(self.path)
        weights, _ = read_tensors(path / "model.safetensors")
        state = read_state(path / "state.pt")
        size, version = state.get("metrics_bytes"), state.get("format")
        if type(version) is not int or version != FORMAT or type(size) is not int or size < 0:
            problem = f"expected checkpoint format {FORMAT}, got {show(version)}"
            raise CheckpointError(path / "state.pt", problem)
        step = state.get("step")
        if type(step) is not int:
            problem = f"expected an integer step, got {show(step)}"
            raise CheckpointError(path / "state.pt", problem)
        _check_sums(path)
        metrics = self.path / "metrics.jsonl"
        if os.fstat(self._metrics.fileno()).st_size < size:
            problem = f"the file is shorter than when checkpoint {path.name} was saved"
            raise CheckpointError(metrics, problem)
        self._versions()  # raises now, before `rewind` removes metrics and masks
        return weights, state

    def rewind(self, state: dict[str, Any]) -> None:
        """Remove older checkpoints, and records written after a state that `load` returned."""
        with _writing(self.path):
            self._metrics.truncate(state["metrics_bytes"])
            for step, snapshot in self._snapshots():
                if step > state["step"]:
                    snapshot.unlink()
            self._forget_all_but(last_checkpoint(self.path))
        self.last_masks = max((step for step, _ in self._snapshots()), default=0)

    def finish(self, result: dict[str, Any]) -> None:
        """Copy the trained weights to the root of the folder, and mark the run as finished."""
        with _writing(self.path):
            trained = (last_checkpoint(self.path) / "model.safetensors").read_bytes()
            write_atomically(self.path / "model.safetensors", trained)
            write_atomically(self.path / "result.json", _json(result))


def check_free(path: Path) -> None:
    """Raise RunError unless `path` is free for a new run folder."""
    with _writing(path):
        if path.is_dir() and not any(path.iterdir()):
            if path.name:
                return
            problem = "a run folder needs a name; give the name of a new or empty folder"
            raise RunError(path, problem)
        if path.exists() or path.is_symlink():
            has_run = (path / "config.yaml").exists()
            problem = "this folder already holds a run" if has_run else "this path already exists"
            fix = "resume it with --resume, or give" if has_run else "give"
            raise RunError(path, f"{problem}; {fix} a new or empty folder")


def last_checkpoint(path: Path) -> Path:
    """Return the folder of the last complete checkpoint in a run folder.

    Raises:
        CheckpointError: the run folder has no checkpoint.
    """
    found = find_checkpoints(path)
    if not found:
        raise CheckpointError(path / "checkpoints", "there is no checkpoint in this folder")
    return found[-1][1]


def _write_checkpoint(root: Path, weights: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write a checkpoint under a temporary name, rename it, and return its folder."""
    final = root / "checkpoints" / name_of_step(state["step"])
    if is_whole_checkpoint(final):  # the run stopped at a step that it had already saved
        return final
    draft = draft_of(final)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    metadata = {"sparsewright": json.dumps({"step": state["step"], **state["metadata"]})}
    try:
        draft.mkdir()
        write_atomically(draft / "model.safetensors", safetensors.torch.save(weights, metadata))
        write_atomically(draft / "state.pt", buffer.getvalue())
        write_atomically(draft / SUMS, checksums(draft).encode())
        _make_way(final)
        os.rename(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(final.parent)
    return final


def _make_way(path: Path) -> None:
    """Move aside a file or folder that occupies the name of a new checkpoint."""
    if path.exists() or path.is_symlink():
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.moved")
        os.rename(path, aside)
        logger.warning("%s is not a checkpoint of this run; moved it to %s", path, aside.name)


def checksums(checkpoint: Path) -> str:
    """Return the content of SHA256SUMS: one line for each file of a checkpoint."""
    names = [name for name in CHECKPOINT_FILES if name != SUMS]
    sums = (hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names)
    return "".join(f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))


def _check_sums(checkpoint: Path) -> None:
    """Raise CheckpointError if the files do not match their checksums."""
    path = checkpoint / SUMS
    try:
        if read_regular(path, MOST_TEXT) != checksums(checkpoint).encode():
            raise CheckpointError(path, "the checkpoint's files do not match these checksums")
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write all of the content to an unbuffered file, which can write less per call."""
    while content:
        content = content[file.write(content) :]


def _json(value: object) -> bytes:
    """Return a value as the content of a JSON file."""
    return json.dumps(value, indent=2).encode() + b"\n"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert an OSError into a RunError that names the run folder."""
    try:
        yield
    except SparsewrightError:
        raise
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise RunError(path, f"cannot be written{name}: {error.strerror}") from error
