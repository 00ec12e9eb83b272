"""Test learning rates, layer counts, settings, YAML numbers and checks of loaded state."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

from sparsewright.errors import StateError
from sparsewright.events import MaskUpdate
from sparsewright.recipes.sections import LoopSettings
from sparsewright.runs.config import RunConfig
from sparsewright.runs.layer_counts import Churn, count_layers
from sparsewright.runs.training import learning_rate
from sparsewright.runs.validate_state import check_weights, load_optimizer
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
    assert found["b.9.weight"].problem == "2 nonzero entries outside the mask"
    assert (found["c.weight"].kept, found["c.weight"].masked) == (4, False)
    assert found["d.weight"].problem == "the mask has shape (1, 3), its weight (2, 3)"
    assert found["e.weight"].problem == "the mask must be torch.bool; got torch.float32"
    assert found["f.weight_mask"].problem == "the state dict has no weight for this mask"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": torch.ones(1)}, "the keys differ: unknown ['other'], missing []"),
        ({"w": torch.ones(2)}, "expected torch.float32 (3,) for w, got torch.float32 (2,)"),
        (
            {"w": torch.ones(3).double()},
            "expected torch.float32 (3,) for w, got torch.float64 (3,)",
        ),
        ({"w_mask": torch.zeros(3).bool()}, "w: 3 nonzero entries outside the mask"),
    ],
)
def test_weights_of_another_model_do_not_load(change: dict, message: str) -> None:
    own = {"w": torch.ones(3), "w_mask": torch.ones(3).bool()}
    check_weights(own, own)
    with pytest.raises(
        StateError, match=re.escape(f"cannot load the state of the model: {message}")
    ):
        check_weights(own, {**own, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg": 3}, "exp_avg of parameter 0 must be a tensor; got 3"),
        (
            {"exp_avg": torch.ones(2)},
            "exp_avg of parameter 0 must be torch.float32 (3,); got torch.float32 (2,)",
        ),
        ({"step": torch.tensor(-1.0)}, "step of parameter 0 must be at least 0; got tensor(-1.)"),
        ({"other": 1}, "parameter 0 has state ['exp_avg', 'exp_avg_sq', 'other', 'step'] after 1"),
    ],
)
def test_states_of_another_optimizer_do_not_load(change: dict, message: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    load_optimizer(optimizer, state, 1)
    state["state"][0].update(change)
    with pytest.raises(StateError, match=re.escape(message)):
        load_optimizer(optimizer, state, 1)
    with pytest.raises(StateError, match=r"Adam: expected settings .*'amsgrad': False.*, got "):
        load_optimizer(optimizer, torch.optim.Adam([weight], amsgrad=True).state_dict(), 0)


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
