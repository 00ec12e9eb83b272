"""Whole sentences of errors and warnings for common mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsewright as sparse
from sparsewright import errors


def trained(algorithm: sparse.SparsityAlgorithm) -> nn.Module:
    """Return a model after two training steps."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    algorithm.apply(model)
    algorithm.apply(optimizer)
    for _ in range(2):
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    return model


class NoInit(sparse.DynamicSparsityAlgorithm):
    def __init__(self) -> None:
        self.own = 1

    def update_mask(self, p, mask, sparsity):
        return mask


class NoMasks(NoInit):
    def __init__(self) -> None:
        sparse.DynamicSparsityAlgorithm.__init__(self, 0.5)

    def update_masks(self, updates):
        return None


def a_level_of_type(value: object) -> None:
    sparse.GMP(sparsity=lambda step: value).apply(nn.Linear(8, 8))


def shared_between_groups() -> None:
    rigl = sparse.RigL(sparsity=0.5)
    groups = [sparse.Group([("*", rigl)]) for _ in range(2)]
    for group in groups:
        group.apply(nn.Linear(8, 8))


def load(state: object) -> None:
    sparse.SET(sparsity=0.5).load_state_dict(state)


def delete_the_mask() -> None:
    model = trained(sparse.RigL(sparsity=0.5))
    del model[0].weight_mask
    model(torch.ones(2, 8)).sum().backward()


MISTAKES = [
    (
        lambda: a_level_of_type("x"),
        errors.OptionTypeError,
        "the result of <function .*> must be a number or a 0-d tensor; got 'x'",
    ),
    (
        lambda: a_level_of_type(torch.zeros(3)),
        errors.OptionTypeError,
        r"must be a number or a 0-d tensor; got <float32 Tensor of shape \(3,\)>",
    ),
    (
        lambda: sparse.Static(sparsity=[0.1, "x"]),
        errors.OptionTypeError,
        r"^sparsity\[1\] must be a finite number; got 'x'",
    ),
    (
        lambda: sparse.RigL(sparsity=0.9, update=[1, 2]),
        errors.OptionTypeError,
        r'got \[1, 2\] \(list\)\. For a list of steps, use {"steps": \[\.\.\.\]}\.$',
    ),
    (
        lambda: sparse.RigL(sparsity=0.9, update={"freq": 1, "steps": [1]}),
        errors.ExclusiveOptionsError,
        "^update accepts freq/start/stop or steps, not both",
    ),
    (
        lambda: sparse.RigL(sparsity=0.9, balance_out_groups="2"),
        errors.OptionTypeError,
        "^balance_out_groups must be an integer >= 1; got '2'",
    ),
    (
        lambda: sparse.GMP(sparsity=0.9),
        errors.OptionError,
        r"must be a schedule that changes, such as Cubic; got 0\.9\. For a constant level, use",
    ),
    (
        lambda: sparse.configure({"sparsity": 0.9, "algoritm": "rigl"}),
        errors.MissingOptionError,
        "Rename 'algoritm' to 'algorithm'",
    ),
    (
        lambda: NoInit().apply(nn.Linear(8, 8)),
        errors.AlgorithmError,
        r"call super\(\).__init__",
    ),
    (
        lambda: trained(NoMasks()),
        errors.AlgorithmError,
        "^NoMasks.update_masks: it returned None; return one mask per weight, in order$",
    ),
    (
        lambda: sparse.Group([3]),
        errors.OptionTypeError,
        r"^an entry of groups must be a pair \(filter, algorithm\); got 3",
    ),
    (
        shared_between_groups,
        errors.AttachError,
        "^RigL: it was already applied as part of another Group; create a new one$",
    ),
    (
        lambda: load(sparse.RigL(sparsity=0.5).state_dict()),
        errors.StateError,
        "SET: it was saved by 'RigL'$",
    ),
    (
        lambda: load(sparse.Group([]).state_dict()),
        errors.StateError,
        "SET: it was saved by 'Group'$",
    ),
    (lambda: load({"a": 1}), errors.StateError, "; pass the result of its state_dict\\(\\)$"),
    (
        lambda: sparse.RigL(sparsity=0.5).remove("x"),
        errors.OptionTypeError,
        "^optimizer must be an Optimizer; got 'x'",
    ),
    (delete_the_mask, errors.AttachError, "^weight_mask: this buffer of a Linear was deleted"),
    (
        lambda: sparse.compress(None),
        errors.OptionTypeError,
        "^the argument of compress must be a Module; got None",
    ),
    (
        lambda: sparse.decompress(None),
        errors.OptionTypeError,
        "^the argument of decompress must be a Module; got None",
    ),
    (
        lambda: sparse.compress(nn.Linear(8, 8), min_sparsity="x"),
        errors.OptionTypeError,
        "^min_sparsity must be a number between 0 and 1; got 'x'",
    ),
    (
        lambda: sparse.compress(nn.Linear(8, 8), tokens=0),
        errors.OptionError,
        "^tokens must be an integer >= 1; got 0",
    ),
    (
        lambda: sparse.compress(nn.Linear(8, 8), only=3),
        errors.OptionTypeError,
        "^only must be a glob",
    ),
    (
        lambda: sparse.pack_masks(nn.Linear(8, 8)),
        errors.OptionTypeError,
        r"^the argument of pack_masks must be a state dict, such as model.state_dict\(\); got",
    ),
]


@pytest.mark.parametrize(("mistake", "error", "sentence"), MISTAKES)
def test_a_mistake_gets_a_whole_sentence(mistake, error, sentence):
    with pytest.raises(error, match=sentence):
        mistake()


def test_a_distribution_function_is_named():
    def halves(shapes, level):
        return 3

    text = r"^the result of the distribution halves must be a dict {name: level}; got 3"
    with pytest.raises(errors.OptionTypeError, match=text):
        sparse.Static(sparsity=0.5, distribution=halves).apply(nn.Linear(8, 8))


def test_compressing_a_dense_model_warns():
    text = "^the Linear has no sparse weights; nothing was compressed$"
    with pytest.warns(errors.SparsityWarning, match=text):
        assert sparse.compress(nn.Linear(8, 8)) == []


def test_a_long_model_gets_a_short_warning():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(50)))
    model.requires_grad_(False)
    with pytest.warns(errors.SparsityWarning, match=r"3\.bias and 92 more; left dense") as found:
        sparse.Static(sparsity=0.5).apply(model)
    assert all(len(str(each.message)) < 200 for each in found)


def test_a_failed_write_names_the_users_file(tmp_path):
    path = tmp_path / "missing" / "x.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        sparse.save_compressed(nn.Linear(8, 8), path)
    assert caught.value.filename == str(path)
