"""Schedules, counting of layers, settings, and YAML numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from sparsewright.events import MaskUpdate
from sparsewright.recipes.sections import LoopSettings
from sparsewright.runs.config import RunConfig
from sparsewright.runs.layer_counts import Churn, count_layers
from sparsewright.runs.training import learning_rate
from sparsewright.runs.yaml_file import read_yaml


def test_learning_rate() -> None:
    loop = LoopSettings(steps=100, warmup=10, final_lr=0.1)
    rates = [learning_rate(2.0, loop, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[50] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert learning_rate(2.0, loop, 100) == pytest.approx(0.2)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert learning_rate(2.0, LoopSettings(warmup=0), 0) == 2.0


def test_churn_is_the_mean_share_dropped_and_grown() -> None:
    churn = Churn()
    for grown in (10, 20):
        churn.record(MaskUpdate(1, "fc", 1000, 100, 0.9, 0.9, grown, grown))
    assert churn.mean("fc") == pytest.approx(0.3)
    assert churn.mean("other") is None


def test_layers_and_their_problems() -> None:
    ones = torch.ones(2, 3)
    mask = torch.tensor([[True, False, True]] * 2)
    weights = {
        "b.10.weight": ones * mask,
        "b.10.weight_mask": mask,
        "b.9.weight": ones,
        "b.9.weight_mask": mask,
        "b.9.bias": torch.ones(3),
        "c.weight": ones * mask,
        "d.weight": ones,
        "d.weight_mask": mask[:1],
        "e.weight": ones,
        "e.weight_mask": mask.float(),
        "f.weight_mask": mask,
    }
    found = {layer.name: layer for layer in count_layers(weights)}
    expected = ["b.9.weight", "b.10.weight", "c.weight", "d.weight", "e.weight", "f.weight_mask"]
    assert list(found) == expected
    assert (found["b.10.weight"].kept, found["b.10.weight"].problem) == (4, "")
    assert found["b.9.weight"].problem == "2 nonzero outside the mask"
    assert (found["c.weight"].kept, found["c.weight"].masked) == (4, False)
    assert found["d.weight"].problem.startswith("mask of shape (1, 3)")
    assert found["e.weight"].problem.startswith("mask of type torch.float32")
    assert found["f.weight_mask"].problem == "a mask without its weight"


@pytest.mark.parametrize("text", ["3e-3", "3.0e-3", "0.003", "3E-3", "+3e-3", ".3e-2", "3.e-3"])
def test_yaml_numbers_with_exponents(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"lr: {text}\nname: e3\nversion: 1e\n")
    assert read_yaml(path) == {"lr": 0.003, "name": "e3", "version": "1e"}


@pytest.mark.parametrize("recipe", ["charlm", "fashion"])
def test_configuration_reads_back(tmp_path: Path, recipe: str) -> None:
    config = RunConfig.from_file(None, recipe, {"loop": {"steps": 7, "seed": 5}})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert RunConfig.from_file(path) == config
    assert config.sparsity["seed"] == 5


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*.yaml")), ids=str)
def test_examples_are_valid(path: Path) -> None:
    import sparsewright as sparse

    assert len(sparse.configure(RunConfig.from_file(path).sparsity)) > 0
