"""The commands work with file names and terminals that are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.cli_process import Command

NAME = os.fsdecode(b"r\xff\xe4n")


def test_a_run_in_such_a_folder_trains_resumes_and_is_reported(command: Command) -> None:
    text = command.folder / os.fsdecode(b"t\xffxt.txt")
    (command.folder / "text.txt").rename(text)
    config = command.config(data={"text": None})
    arguments = ["train", config, "--text", text, "--out", NAME]
    done = command(*arguments, "--until", 7)
    assert done.status == 0, done.err
    done = command("train", "--resume", NAME, "--tensorboard")
    assert done.status == 2
    assert "r\\udcff\\udce4n: --tensorboard requires a folder name in UTF-8" in done.err
    done = command("train", "--resume", NAME)
    assert done.status == 0, done.err
    assert (command.folder / NAME / "result.json").exists()
    for kind in ("html", "md", "csv", "json"):
        done = command("report", NAME, "--format", kind)
        assert done.status == 0, done.err
        assert done.out == f"r\\udcff\\udce4n/report.{kind}\n"
    table = (command.folder / NAME / "report.json").read_text()
    assert json.loads(table)["runs"][0]["run"] == "r\\xff\\xe4n"
    assert command("inspect", NAME).status == 0
    done = command("train", config, "--text", text, "--out", NAME)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "r\\udcff\\udce4n: this folder already holds a run" in done.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding(tmp_path: Path, encoding: str) -> None:
    model = nn.Sequential()
    model.add_module("gewicht_ä_→", nn.Linear(4, 4))
    torch.save(model.state_dict(), tmp_path / "mödel→.pt")
    (tmp_path / "c.yaml").write_text(json.dumps({"loop": {"stäps": 3}}))
    program = (
        "import sys\nfrom sparsewright.cli import main\n"
        "for arguments in (['inspect', 'mödel→.pt'], ['plan', 'c.yaml'], ['inspect', 'nö']):\n"
        "    try:\n        main(arguments)\n"
        "    except SystemExit as stop:\n        print(stop.code)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    # Click treats an ASCII terminal as misconfigured, and writes UTF-8.
    out, err = (s.decode(encoding, "ignore") for s in (done.stdout, done.stderr))
    letter = "ä" if encoding == "latin-1" else "\\xe4"
    assert f"gewicht_{letter}_\\u2192.weight" in out
    assert "did you mean 'steps'?" in err
    assert "Traceback" not in err
    assert [line for line in out.splitlines() if line.isdecimal()] == ["0", "2", "1"]
