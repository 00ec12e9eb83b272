"""Test the data and the model of the character-level recipe."""

from __future__ import annotations

import torch

from sparsewright.recipes.charlm import GPT, GPTSettings, encode
from sparsewright.recipes.task import Task
from sparsewright.runs.config import RunConfig


def tiny(seed: int = 0) -> Task:
    options = {
        "model": {"layers": 1, "width": 16, "heads": 2, "context": 8},
        "loop": {"batch_size": 4, "seed": seed},
    }
    return RunConfig.from_file(None, "charlm", options).make_task()


def test_text_survives_encoding() -> None:
    text = "Zürich, déjà vu\n"
    indices, vocabulary = encode(text)
    assert "".join(vocabulary[i] for i in indices.tolist()) == text


def test_batches_depend_on_seed_and_step_only() -> None:
    task = tiny()
    first = [task.batch(step) for step in range(3)]
    torch.rand(7)
    for step in (2, 0, 1):
        inputs, targets = tiny().batch(step)
        assert torch.equal(inputs, first[step][0])
        assert torch.equal(targets, first[step][1])
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(tiny(seed=1).batch(0)[0], first[0][0])


def test_targets_are_the_next_characters() -> None:
    inputs, targets = tiny().batch(0)
    assert inputs.shape == targets.shape == (4, 8)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_models_start_equal() -> None:
    task = tiny()
    one, other = task.make_model().state_dict(), task.make_model().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_position_sees_a_later_one() -> None:
    model = GPT(GPTSettings(layers=2, width=16, heads=2, context=8), vocabulary=5)
    characters = torch.randint(5, (1, 8))
    changed = characters.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 5
    before, after = model(characters), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert (before[:, 5:] - after[:, 5:]).abs().amax() > 1e-4


def test_evaluation_is_the_mean_over_the_held_out_text() -> None:
    task = tiny()

    class Uniform(torch.nn.Module):
        def forward(self, characters: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*characters.shape, 103)

    expected = torch.tensor(103.0).log().item()
    assert abs(task.evaluate(Uniform())["loss"] - expected) < 1e-5
