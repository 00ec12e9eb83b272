"""A callback in the style of the documented Model Zoo runs after changing its import."""

from pathlib import Path

import pytest
import torch

from helpers import model_zoo_program
from helpers.model_zoo_program import CountPruned, Sparsity, Trainer
from helpers.support import assert_pruned, assert_same, batch, make_mlp
from sparsewright import compat

CONFIGS = {
    "static": {"algorithm": "static", "sparsity": 0.5},
    "gmp": {
        "algorithm": "gmp",
        "sparsity": {"type": "linear", "init": 0.0, "slope": 0.05},
        "update": {"freq": 2},
    },
    "set": {"algorithm": "set", "sparsity": 0.5, "update": {"freq": 2, "stop": 9}},
    "rigl": {
        "algorithm": "rigl",
        "sparsity": 0.5,
        "update": {"freq": 2, "stop": 9},
        "drop_fraction": {"type": "cosine", "init": 0.3, "half_period": 9},
        "param_filter": ["0.*", "2.weight"],
    },
}


@pytest.fixture(autouse=True)
def _optimizers_have_apply():
    compat.install()
    yield
    compat.uninstall()


def make_trainer(config, seed=0):
    model = make_mlp(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    return Trainer(model, optimizer, [Sparsity(**config), CountPruned()])


def batches():
    return [(batch(step, 6, 8), batch(step, 6, 4).argmax(1)) for step in range(5)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_program_trains_logs_saves_and_resumes(config, tmp_path):
    whole = make_trainer(config)
    whole.fit(batches(), 6)
    whole.save(tmp_path / "checkpoint.mdl")
    whole.fit(batches(), 11)
    assert_pruned(whole.callbacks[0].sparsity, whole.optimizer)
    metrics = whole.metrics
    targets = [name for name in metrics if name.endswith("*/target")]
    assert len(targets) == 1
    for layer in ("0.weight", "2.weight"):
        asked, reached = metrics[targets[0]], metrics[f"sparsity/{layer}/actual"]
        last = asked[-1] if config["algorithm"] != "gmp" else asked[-2]
        assert reached[-1] == pytest.approx(last, abs=1 / 64)
        assert len(asked) == len(reached) == 11
        assert metrics[f"alive though pruned/{layer}"] == [0] * 11

    resumed = make_trainer(config, seed=3)
    resumed.load(tmp_path / "checkpoint.mdl")
    resumed.fit(batches(), 11)
    assert resumed.callbacks[0].sparsity.step == 11
    assert_same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    assert_same(whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"])


def test_only_the_import_is_ours():
    text = Path(model_zoo_program.__file__).read_text()
    lines = [line for line in text.splitlines() if "sparsewright" in line]
    assert lines == [
        "import sparsewright as sparse  # was: import cerebras.pytorch.sparse as sparse"
    ]
