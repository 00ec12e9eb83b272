"""The example scripts, each as a process on its real input."""

import csv
import json
import re
from pathlib import Path

import pytest

from helpers.script_process import run_script

EXAMPLES = Path(__file__).parents[2] / "examples"
STRICT = [
    "-Werror",
    # Warnings of Lightning 2.6 with torch 2.13, and its advice for such small runs.
    "-Wignore:`isinstance(treespec, LeafSpec)` is deprecated:FutureWarning",
    "-Wignore:The 'train_dataloader' does not have many workers:UserWarning",
]

pytestmark = pytest.mark.slow


def run(name, folder, *arguments):
    """Return the output of an example, run with warnings as errors."""
    return run_script(EXAMPLES / f"{name}.py", folder, *STRICT, arguments=arguments)


def digits(out):
    zeros, accuracy = map(float, re.search(r"zeros ([\d.]+), accuracy ([\d.]+)", out).groups())
    return zeros, accuracy


def agreements(out):
    """Return the correlations that a MiniLM example prints, in order."""
    return [float(number) for number in re.findall(r" (0\.\d{3})$", out, re.MULTILINE)]


def test_every_example_script_is_run_here():
    text = Path(__file__).read_text()
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names - {"digits", "minilm"} == set(re.findall(r'run\("(\w+)"', text))


def test_plain_loop(tmp_path):
    zeros, accuracy = digits(run("loop_digits", tmp_path))
    assert zeros == 0.9
    assert 0.89 < accuracy < 0.95


def test_accelerate(tmp_path):
    zeros, accuracy = digits(run("accelerate_digits", tmp_path, "state"))
    assert zeros == 0.9
    assert 0.89 < accuracy < 0.95
    assert len(list((tmp_path / "state").glob("custom_checkpoint_*"))) == 1


def test_lightning(tmp_path):
    zeros, accuracy = digits(run("lightning_digits", tmp_path, "logs"))
    assert zeros == 0.9
    assert 0.89 < accuracy < 0.95
    (metrics,) = (tmp_path / "logs").rglob("metrics.csv")
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["sparsity/net.0.weight/actual"]) == pytest.approx(0.9, abs=1e-3)


def test_pruning_a_language_model_in_one_shot(tmp_path):
    dense, pruned = agreements(run("minilm_prune", tmp_path))
    assert 0.72 < dense < 0.74
    assert 0.71 < pruned < 0.74


def test_finetuning_a_pruned_language_model(tmp_path):
    before, after = agreements(run("transformers_finetune", tmp_path, "run"))
    assert 0.58 < before < 0.61
    assert 0.63 < after < 0.70
    state = json.loads((tmp_path / "run" / "checkpoint-20" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["sparsity"]["steps"] == [20]


RESUME = """
import sys
sys.path.insert(0, {examples!r})
import torch
from transformers_finetune import make_trainer

whole, resumed = (make_trainer(name, 4, 2, batch_size=8) for name in ("whole", "resumed"))
whole.train()
resumed.train(resume_from_checkpoint="whole/checkpoint-2")
(first, second) = (trainer.model.state_dict() for trainer in (whole, resumed))
assert sum(key.endswith("_mask") for key in first) == 37
print("equal", all(torch.equal(value, second[key]) for key, value in first.items()))
(first, second) = (trainer.callback_handler.callbacks for trainer in (whole, resumed))
print("steps", [c.sparsity.step for c in first + second if hasattr(c, "sparsity")])
"""


def test_a_resumed_language_model_is_bit_equal(tmp_path):
    out = run_script(RESUME.format(examples=str(EXAMPLES)), tmp_path, *STRICT)
    assert "equal True" in out
    assert "steps [4, 4]" in out
