"""The folder of a run: made whole or not at all, and resumable after any interruption.

::

    runs/charlm-1/
      config.yaml            resolved configuration
      metrics.jsonl          one JSON object a line; lines behind the checkpoint go at a resume
      versions.json          versions of Python, PyTorch, ...; an entry for each resume with others
      masks/000040.safetensors   masks as bits, at a few updates; those behind the checkpoint go too
      checkpoints/000120/    the last checkpoint; appears under this name only when it is whole
        model.safetensors      weights and masks
        state.pt               everything else, readable by torch.load(weights_only=True)
        SHA256SUMS             of both, as `sha256sum -c` takes it
      model.safetensors      the trained weights; only in a finished run
      tensorboard/           event files, if they were asked for
      result.json            written last: its presence says that the run is finished

Every file is written under a temporary name, flushed to the disk, then renamed. What the run did
not make, it neither removes nor writes to: strays in its folders stay, no link leads out of it.
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
    """An open run folder; a context manager, because the metrics file stays open.

    Args:
        path: a folder that `create` made.

    Attributes:
        last_masks: step of the last snapshot of the masks; 0 if there is none.

    Raises:
        RunError: not a run folder, one with links where a run writes, or another process is
            training in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        has_config = (path / "config.yaml").is_file()
        if not has_config or not (path / "checkpoints").is_dir():
            missing = "checkpoints/" if has_config else "config.yaml"
            there = path.exists()
            raise RunError(path, f"not a run folder (no {missing})" if there else "not there")
        for name in ("checkpoints", "masks", "tensorboard"):
            if (path / name).is_symlink():
                problem = "a symbolic link; a run writes into folders of its own only"
                raise RunError(path / name, problem)
        self._metrics = self._open_metrics()
        if os.fstat(self._metrics.fileno()).st_nlink > 1:
            self._unshare_metrics()
        with _writing(path):
            remove_drafts(path)
        self.last_masks = max((step for step, _ in self._snapshots()), default=0)

    @staticmethod
    def create(path: Path, config: str, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Make a run folder with its first checkpoint, whole or not at all.

        Args:
            path: where; must not exist or be an empty folder.
            config: text of config.yaml.
            weights: the model's state, masks included.
            state: everything else; has `step`.

        Raises:
            RunError: there is something already, or it cannot be written.
        """
        check_free(path)
        draft = draft_of(path)
        try:
            with _writing(path):
                (draft / "checkpoints").mkdir(parents=True)
                write_atomically(draft / "config.yaml", config.encode())
                write_atomically(draft / "metrics.jsonl", b"")
                _write_checkpoint(draft, weights, {**state, "format": FORMAT, "metrics_bytes": 0})
                # Atomic, and fails on a folder with anything in it.
                os.rename(draft, path)
                sync_folder(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()

    def _open_metrics(self) -> io.FileIO:
        """Open and lock the file; the system drops the lock when this process ends."""
        with _writing(self.path):
            # Unbuffered: bytes left over from a write that failed would fail again at closing.
            file = io.FileIO(open_own(self.path / "metrics.jsonl"), "ab")
        try:
            import fcntl
        except ImportError:  # not on this platform: nothing to lock with
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise RunError(self.path, "another process is training in it") from error
        return file

    def _unshare_metrics(self) -> None:
        """Continue in a copy: under its other name, a hard link, the file is not the run's."""
        path = self.path / "metrics.jsonl"
        with self._metrics, _writing(self.path):
            write_atomically(path, path.read_bytes())
        self._metrics = self._open_metrics()

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its last step and everything is written."""
        return (self.path / "result.json").exists()

    def log(self, **values: object) -> None:
        """Append one line to metrics.jsonl."""
        with _writing(self.path):
            _write_all(self._metrics, json.dumps(values).encode() + b"\n")

    def _snapshots(self) -> list[tuple[int, Path]]:
        """Steps and files of the snapshots that the run made."""
        return [(step, p) for step, p in find_snapshots(self.path) if saved_step(p) == step]

    def save_masks(self, step: int, bits: dict[str, Tensor], layers: dict[str, Any]) -> None:
        """Write a snapshot of the masks.

        Args:
            step: optimizer steps completed.
            bits: parameter name -> packed mask.
            layers: what to store about each, as plain values.
        """
        metadata = {"sparsewright": json.dumps({"step": step, "layers": layers})}
        with _writing(self.path):
            (self.path / "masks").mkdir(exist_ok=True)
            content = safetensors.torch.save(bits, metadata)
            name = f"{name_of_step(step)}.safetensors"
            write_atomically(self.path / "masks" / name, content)
        self.last_masks = step

    def note_versions(self, step: int, versions: dict[str, str]) -> None:
        """Add to versions.json what the run goes on with from `step`, unless it is the same."""
        known = self._versions()
        if not known or known[-1]["versions"] != versions:
            known.append({"from_step": step, "versions": versions})
            with _writing(self.path):
                write_atomically(self.path / "versions.json", _json(known))

    def _versions(self) -> list[dict[str, Any]]:
        """The entries of versions.json; CheckpointError if they are not what a run writes."""
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
        """Write a checkpoint, then forget the ones before it.

        Raises:
            RunError: it cannot be written; the last good checkpoint is still there.
        """
        with _writing(self.path):
            os.fsync(self._metrics.fileno())
            size = os.fstat(self._metrics.fileno()).st_size
            state = {**state, "format": FORMAT, "metrics_bytes": size}
            self._forget_all_but(_write_checkpoint(self.path, weights, state))

    def _forget_all_but(self, kept: Path) -> None:
        """Remove every checkpoint of the run but one."""
        for _, path in find_checkpoints(self.path):
            if path != kept and is_whole_checkpoint(path):
                remove_folder(path)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and state of the last checkpoint; the folder stays as it is.

        Raises:
            CheckpointError: the checkpoint is damaged or from a different format.
        """
        path = last_checkpoint(self.path)
        weights, _ = read_tensors(path / "model.safetensors")
        state = read_state(path / "state.pt")
        size, version = state.get("metrics_bytes"), state.get("format")
        if type(version) is not int or version != FORMAT or type(size) is not int or size < 0:
            problem = f"format {show(version)}; allowed: {FORMAT}"
            raise CheckpointError(path / "state.pt", problem)
        step = state.get("step")
        if type(step) is not int:
            problem = f"made at step {show(step)}; allowed: an integer"
            raise CheckpointError(path / "state.pt", problem)
        _check_sums(path)
        metrics = self.path / "metrics.jsonl"
        if os.fstat(self._metrics.fileno()).st_size < size:
            raise CheckpointError(metrics, f"shorter than when {path.name} was saved")
        self._versions()  # would be refused later, when metrics and masks are gone
        return weights, state

    def rewind(self, state: dict[str, Any]) -> None:
        """Remove what was written after a state that `load` returned, and older checkpoints."""
        with _writing(self.path):
            self._metrics.truncate(state["metrics_bytes"])
            for step, snapshot in self._snapshots():
                if step > state["step"]:
                    snapshot.unlink()
            self._forget_all_but(last_checkpoint(self.path))
        self.last_masks = max((step for step, _ in self._snapshots()), default=0)

    def finish(self, result: dict[str, Any]) -> None:
        """Put the trained weights at the root of the folder and mark the run as finished."""
        with _writing(self.path):
            trained = (last_checkpoint(self.path) / "model.safetensors").read_bytes()
            write_atomically(self.path / "model.safetensors", trained)
            write_atomically(self.path / "result.json", _json(result))


def check_free(path: Path) -> None:
    """Raise RunError unless a run folder can be made at `path` without touching anything."""
    with _writing(path):
        if path.is_dir() and not any(path.iterdir()):
            if path.name:
                return
            raise RunError(
                path, "a run folder needs a name; allowed: a new or empty folder by name"
            )
        if path.exists() or path.is_symlink():
            what = "holds a run" if (path / "config.yaml").exists() else "exists"
            problem = f"{what}, and is never overwritten; allowed: a new or empty folder"
            raise RunError(path, f"{problem}, or --resume")


def last_checkpoint(path: Path) -> Path:
    """The folder of the last whole checkpoint in a run folder.

    Raises:
        CheckpointError: there is none.
    """
    found = find_checkpoints(path)
    if not found:
        raise CheckpointError(path / "checkpoints", "no checkpoint in it")
    return found[-1][1]


def _write_checkpoint(root: Path, weights: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write both files under a temporary folder name, then rename the folder; return it."""
    final = root / "checkpoints" / name_of_step(state["step"])
    if is_whole_checkpoint(final):  # the run was stopped where it had just saved
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
    """Move aside what others put where a checkpoint goes."""
    if path.exists() or path.is_symlink():
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.moved")
        os.rename(path, aside)
        logger.warning("%s is no checkpoint of the run; moved to %s", path, aside.name)


def checksums(checkpoint: Path) -> str:
    """Content of SHA256SUMS: a line for each file of a checkpoint."""
    names = [name for name in CHECKPOINT_FILES if name != SUMS]
    sums = (hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names)
    return "".join(f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))


def _check_sums(checkpoint: Path) -> None:
    """Raise CheckpointError unless the files are those that were written."""
    path = checkpoint / SUMS
    try:
        if read_regular(path, MOST_TEXT) != checksums(checkpoint).encode():
            raise CheckpointError(path, "the files are not those that were written")
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write all of it to an unbuffered file, which may take less at a time."""
    while content:
        content = content[file.write(content) :]


def _json(value: object) -> bytes:
    """The content of a JSON file."""
    return json.dumps(value, indent=2).encode() + b"\n"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's errors into a RunError that names the run folder."""
    try:
        yield
    except SparsewrightError:
        raise
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise RunError(path, f"cannot be written{name}: {error.strerror}") from error
