"""A run that is killed many times ends like an uninterrupted run."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.cli_process import Command
from helpers.support import assert_same

KILLS = 30


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 40)
    return Command(tmp_path)


def metrics(run: Path) -> list[dict[str, object]]:
    """Return the lines of metrics.jsonl, without speeds and memory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    costs = ("_per_second", "memory_bytes")
    return [{k: v for k, v in line.items() if not k.endswith(costs)} for line in lines]


def assert_same_run(run: Path, whole: Path) -> None:
    """Check that every file is bit-equal, except for the timings in the metrics."""
    names = [sorted(p.relative_to(r).as_posix() for p in r.rglob("*")) for r in (run, whole)]
    assert names[0] == names[1]
    for name in names[0]:
        one, other = run / name, whole / name
        if name == "metrics.jsonl":
            assert metrics(run) == metrics(whole)
        elif name.endswith(("state.pt", "SHA256SUMS")):
            continue  # it contains the length of metrics.jsonl, which depends on the timings
        elif one.is_file():
            assert one.read_bytes() == other.read_bytes(), name
    first, second = (
        torch.load(next((r / "checkpoints").iterdir()) / "state.pt", weights_only=True)
        for r in (run, whole)
    )
    for state in (first, second):
        del state["metrics_bytes"]
    assert_same(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_run_killed_thirty_times_ends_like_an_uninterrupted_run(
    command: Command, storage: str
) -> None:
    section = {"algorithm": "rigl", "sparsity": 0.8, "update": {"freq": 3}}
    loop = {"steps": 150, "checkpoint_every": 5, "evaluate_every": 50, "storage": storage}
    config = command.config(sparsity=section, loop=loop, model={"dropout": 0.1})
    assert command("train", config, "--out", "whole").status == 0
    run, draws, kills, writing = command.folder / "parts", random.Random(5), 0, 0
    process = command.start("train", config, "--out", "parts")
    while kills < KILLS // 2:
        # Kill mostly after the first new line of metrics, and sometimes during the start.
        size = (run / "metrics.jsonl").stat().st_size if run.exists() else 0
        end = time.monotonic() + (20 if draws.random() < 0.9 else draws.uniform(0.3, 0.6))
        while process.is_alive() and time.monotonic() < end:
            if run.exists() and (run / "metrics.jsonl").stat().st_size > size:
                break
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.08))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed"
        kills += 1
        if run.exists():
            writing += bool(list((run / "checkpoints").glob(".*.part")))
            assert load_file(max((run / "checkpoints").glob("0*")) / "model.safetensors")
        arguments = ["--resume", "parts"] if run.exists() else [config, "--out", "parts"]
        process = command.start("train", *arguments)
    done = command.wait(process)
    assert done.status == 0, done.err
    print(f"{kills} kills, {writing} of them while a checkpoint was being written")
    for draft in command.folder.glob(".parts.*.part"):  # killed before the run folder existed
        assert not (draft / "result.json").exists()
    assert_same_run(run, command.folder / "whole")
