"""Every choice through the command line: train, save, resume, plan, inspect and draw."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from helpers.cli_process import Command
from helpers.planned import as_json
from helpers.product import POSSIBLE, covering

WEIGHTS = ["attention.qkv", "attention.proj", "mlp.0", "mlp.2"]
EVERY_MEMBER = covering([each for each in POSSIBLE if each.precision == "float32"], 1)


def entry_of(combination, weight):
    """Return the entry of a combination, for one weight of the model."""
    config = {**combination.config, "param_filter": f"blocks.0.{weight}.weight"}
    if combination.distribution == "layers":
        config["distribution"] = {"layers": {"*.weight": 0.25}}
    return config


def sections():
    """Yield a single entry, and lists in which every member of every choice occurs."""
    block = {"type": "block", "shape": [4, 4]}
    single = {"algorithm": "rigl", "sparsity": 0.9, "distribution": "erk", "structure": block}
    yield "one entry", {**single, "update": 5}
    for start in range(0, len(EVERY_MEMBER), len(WEIGHTS)):
        several = EVERY_MEMBER[start : start + len(WEIGHTS)]
        entries = [entry_of(*pair) for pair in zip(several, WEIGHTS, strict=False)]
        yield f"entries from {start}", entries


@pytest.mark.parametrize("section", [pytest.param(s, id=name) for name, s in sections()])
def test_trains_saves_resumes_and_is_drawn(command: Command, section: object) -> None:
    config = command.config(sparsity=section, loop={"steps": 12, "evaluate_every": 6})
    planned = as_json(command("plan", config, "--json"))
    for arguments in (
        ["train", config, "--out", "whole"],
        ["train", config, "--out", "parts", "--until", 7],
        ["train", "--resume", "parts"],
        ["report", "whole"],
        ["report", "whole", "--format", "json", "-o", "report.json"],
    ):
        done = command(*arguments)
        assert done.status == 0, done.err
    files = [command.folder / run / "model.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()

    state = load_file(files[0])
    masks = {k.removesuffix("_mask"): v for k, v in state.items() if k.endswith("_mask")}
    rows = {row["name"]: row for row in planned["parameters"] if row["entry"]}
    assert set(rows) == set(masks)
    for name, mask in masks.items():
        assert not state[name][~mask.bool()].any()
        assert rows[name]["kept_at_end"] in (None, int(mask.sum()))
    report = json.loads((command.folder / "report.json").read_text())
    assert {row["layer"]: row["kept"] for row in report["layers"]} == {
        name: int(mask.sum()) for name, mask in masks.items()
    }
    page = (command.folder / "whole/report.html").read_text()
    assert all(name in page for name in masks)
