"""Test that runs with every choice resume from any checkpoint with bit-identical results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from helpers.cli_process import TINY
from helpers.support import assert_same
from sparsewright.errors import CheckpointError
from sparsewright.runs import loop
from sparsewright.runs.config import RunConfig
from sparsewright.runs.progress import Progress
from sparsewright.runs.run_folder import RunFolder
from sparsewright.runs.training import Training

STEPS = 6
RISING = {"type": "cubic", "init": 0.1, "final": 0.5, "begin": 0, "end": 5}
MLP, ATTENTION = "*.mlp.*weight", "*.attention.*weight"
SECTIONS = {
    "erk": {"algorithm": "rigl", "sparsity": 0.8, "distribution": "erk", "update": 2},
    "global, rising": {"algorithm": "gmp", "sparsity": RISING, "distribution": "global"},
    "lamp, rising": {"algorithm": "gmp", "sparsity": RISING, "distribution": "lamp"},
    "global, from dense": {
        "algorithm": "set",
        "sparsity": 0.5,
        "distribution": "global",
        "update": {"freq": 2, "start": 2},
    },
    "2:4, rising": {"algorithm": "gmp", "sparsity": RISING, "structure": "2:4", "update": 2},
    "groups, compressed": {
        "algorithm": "set",
        "sparsity": 0.5,
        "structure": {"type": "groups", "inputs": 4},
        "update": 2,
        "storage": "compressed",
    },
    "ste": {"algorithm": "ste", "sparsity": 0.5, "structure": "2:4", "update": 2},
    "shadowed rigl": {"algorithm": "rigl", "sparsity": 0.5, "update": 2, "storage": "shadowed"},
    "ste, global": {"algorithm": "ste", "sparsity": RISING, "distribution": "global"},
    "mixed": [
        {"algorithm": "ste", "param_filter": MLP, "structure": "2:4", "update": 2},
        {
            "algorithm": "rigl",
            "param_filter": ATTENTION,
            "sparsity": 0.8,
            "update": 2,
            "distribution": "erk",
            "storage": "compressed",
        },
    ],
}


def config_of(folder: Path, section: object, **options: object) -> RunConfig:
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 40)
    content = {
        **TINY,
        "data": {"text": str(folder / "text.txt")},
        "loop": {**TINY["loop"], "steps": STEPS, **options},
        "sparsity": section,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return RunConfig.from_file(folder / "config.yaml")


def drive(training: Training, path: Path, until: int | None = None) -> Training:
    with RunFolder(path) as folder, Progress(STEPS, training.steps_done, "tokens") as progress:
        loop.drive(training, folder, progress, until=until)
    return training


def restore(path: Path) -> Training:
    with RunFolder(path) as folder:
        return loop.restore(folder)


def logged(path: Path) -> list[dict[str, object]]:
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in line.items() if not k.endswith(("_per_second", "memory_bytes"))}
        for line in lines
    ]


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_a_run_resumes_bit_equal_at_every_step(tmp_path: Path, section: object) -> None:
    config = config_of(tmp_path, section)
    whole = drive(loop.start(config, tmp_path / "whole"), tmp_path / "whole")
    for done in range(STEPS):
        path = tmp_path / f"until-{done}"
        training = loop.start(config, path)
        if done:
            drive(training, path, until=done)
        resumed = drive(restore(path), path)
        for name in ("model.safetensors", "result.json"):
            assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), done
        assert logged(path) == logged(tmp_path / "whole"), done
        assert_same(resumed.state(), whole.state(), f"after {done}")


def test_the_storage_of_the_loop_replaces_that_of_the_entries(tmp_path: Path) -> None:
    config = config_of(tmp_path, SECTIONS["erk"], storage="shadowed")
    training = loop.start(config, tmp_path / "run")
    assert {p.storage.name for p in training.algorithm.sparse_params.values()} == {"shadowed"}


NAME = "blocks.0.mlp.0.weight"
FORGERIES = {
    "missing": (lambda shadows: shadows.clear(), "expected shadows for .*, got "),
    "one missing": (lambda shadows: shadows.pop(NAME), "expected shadows for .*, got "),
    "one more": (lambda shadows: shadows.update(other=torch.zeros(2)), r"got \['blocks.*'other'\]"),
    "another type": (
        lambda shadows: shadows.update({NAME: shadows[NAME].double()}),
        f"expected torch.float32 for {NAME}, got torch.float64",
    ),
    "another shape": (lambda shadows: shadows.update({NAME: shadows[NAME][:1]}), "shadow"),
    "on the mask": (
        lambda shadows: shadows.update({NAME: torch.ones_like(shadows[NAME])}),
        f"the shadow of {NAME} has nonzero entries where its mask is True",
    ),
}


@pytest.mark.parametrize(("forge", "message"), FORGERIES.values(), ids=FORGERIES)
def test_shadows_that_are_not_those_of_the_weights_are_refused(
    tmp_path: Path, forge, message: str
) -> None:
    training = loop.start(config_of(tmp_path, SECTIONS["ste"]), tmp_path / "run")
    drive(training, tmp_path / "run", until=3)
    with RunFolder(tmp_path / "run") as folder:
        weights, state = folder.load()
    forge(state["sparse"]["algorithm"]["algorithms"][0]["shadows"])
    with pytest.raises(CheckpointError, match=f"here: does not fit the model: .*{message}"):
        training.load(weights, state, "here")
