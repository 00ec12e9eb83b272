"""`sparsewright train --storage compressed` gives the same run with compressed weights."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from helpers.cli_process import Command


def losses(command: Command, run: str) -> list[float]:
    text = (command.folder / run / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    return [line["loss"] for line in found if line["event"] == "step"]


def test_compressed_run_has_the_masked_losses_and_keys(command: Command) -> None:
    config = command.config()
    masked = command("train", config, "--out", "masked")
    compressed = command("train", config, "--out", "compressed", "--storage", "compressed")
    assert masked.status == compressed.status == 0, compressed.err
    assert losses(command, "compressed") == pytest.approx(losses(command, "masked"), abs=1e-4)
    first, second = (load_file(command.folder / f"{n}/model.safetensors") for n in
                     ("masked", "compressed"))  # fmt: skip
    assert first.keys() == second.keys()
    for done in (masked, compressed):
        assert "tokens/s, forward and backward: dense " in done.out
        assert "masked " in done.out
        assert "compressed " in done.out


def test_compressed_run_resumes_to_the_same_bits(command: Command) -> None:
    config = command.config()
    storage = ("--storage", "compressed")
    assert command("train", config, "--out", "whole", *storage).status == 0
    assert command("train", config, "--out", "parts", "--until", 10, *storage).status == 0
    resumed = command("train", "--resume", "parts")
    assert resumed.status == 0, resumed.err
    files = [command.folder / run / "model.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_storage_in_the_sparsity_section(command: Command) -> None:
    section = {"algorithm": "rigl", "sparsity": 0.9, "update": 5, "storage": "compressed"}
    assert command("train", command.config(sparsity=section), "--out", "run").status == 0
    wrong = command("train", command.config("w.yaml", sparsity={**section, "storage": "small"}))
    assert wrong.status == 2
    assert "unknown storage 'small'; choose from masked, compressed" in wrong.err
