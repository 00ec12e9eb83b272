"""A full disk causes one clear error and no data loss, and the run resumes afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.cli_process import Command

# The driver runs in its own mount namespace, where `disk` is a tmpfs of 2 MB. It fills the disk
# until a given number of bytes is left, runs the command, and frees the space again.
DRIVER = """
import contextlib, io, json, os, shutil, sys
from sparsewright.cli import main

def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments), prog_name="sparsewright")
        except SystemExit as end:
            return end.code, err.getvalue()

def with_room(left, *arguments):
    here = os.statvfs("disk")
    with open("disk/filler", "wb") as file:
        file.write(bytes(max(0, here.f_bavail * here.f_frsize - left)))
    status, text = call(*arguments)
    os.unlink("disk/filler")
    run = sorted(os.listdir("disk/run/checkpoints")) if os.path.exists("disk/run") else None
    seen.append([left, status, text, sorted(os.listdir("disk")), run])

seen = []
for left in (0, 20_000, 90_000):
    with_room(left, "train", "tiny.yaml", "--out", "disk/run")
for left in (0, 4096, 40_000, 100_000, 130_000, 150_000):
    with_room(left, "train", "--resume", "disk/run")
last = call("train", "--resume", "disk/run")
shutil.copytree("disk/run", "kept")
json.dump([seen, last], open("seen.json", "w"))
"""


@pytest.mark.slow
def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 40)
    (tmp_path / "disk").mkdir()
    (tmp_path / "driver.py").write_text(DRIVER)
    command = Command(tmp_path)
    config = command.config(loop={"steps": 40})
    mount = "mount -t tmpfs -o size=2m none disk"
    asked = ["unshare", "-rm", "bash", "-c", mount]
    try:
        subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot create a mount namespace for a small disk: {error}")
    done = subprocess.run(
        [*asked[:-1], f"{mount} && exec {sys.executable} driver.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen, last = json.loads((tmp_path / "seen.json").read_text())
    assert command("train", config, "--out", "whole").status == 0
    for left, status, text, files, checkpoints in seen:
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert status == 1, (left, text)
        assert len(errors) == 1, text
        assert errors[0].startswith("error: disk/run: cannot be written"), text
        assert "No space left on device" in errors[0]
        assert checkpoints is None or len(checkpoints) == 1, checkpoints
        assert files == ([] if checkpoints is None else ["run"])
        print(f"{left} bytes left: {checkpoints}")
    # 0 and 20,000 bytes cannot hold a new run. 90,000 bytes hold a run, but not its optimizer
    # state. The sizes after that let the run make progress.
    reached = [entry[4] and int(entry[4][0]) for entry in seen]
    assert reached[:4] == [None, None, 0, 0]
    assert reached[-1] > 0
    assert last[0] == 0, last
    one, other = tmp_path / "kept", tmp_path / "whole"
    assert (one / "result.json").read_bytes() == (other / "result.json").read_bytes()
    torch.testing.assert_close(
        load_file(one / "model.safetensors"),
        load_file(other / "model.safetensors"),
        rtol=0,
        atol=0,
    )
