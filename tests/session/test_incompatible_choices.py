"""Errors for choices that do not work together, and for classes that break their interface."""

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import backward, make_mlp, train
from sparsewright.errors import (
    AlgorithmError,
    ExclusiveOptionsError,
    IncompatibleOptionError,
    LevelError,
    OptionError,
)

NEEDS_SHADOWED = r"^storage='masked' does not work with STE, which needs 'shadowed'\.$"
ONE_LEVEL = (
    r"^distribution=ERK\(.*\) does not work with structure=NM\(2, 4\), "
    r"which has only one level\. Use 'uniform', whose option 'dense' keeps layers dense\.$"
)


def test_a_storage_that_the_algorithm_cannot_use():
    with pytest.raises(IncompatibleOptionError, match=NEEDS_SHADOWED):
        sparse.STE(0.5, storage="masked")
    algorithm = sparse.STE(0.5)
    with pytest.raises(IncompatibleOptionError, match=NEEDS_SHADOWED):
        algorithm.storage = "masked"
    with pytest.raises(IncompatibleOptionError, match=NEEDS_SHADOWED):
        sparse.configure({"algorithm": "ste", "sparsity": 0.5, "storage": "masked"})
    assert algorithm.storage == "shadowed"


def test_a_storage_that_does_not_exist():
    with pytest.raises(OptionError, match=r"^unknown storage 'shadow'; did you mean 'shadowed'\?"):
        sparse.STE(0.5, storage="shadow")
    with pytest.raises(
        OptionError, match=r"^storage must be one of masked, compressed, shadowed; got 3\.$"
    ):
        sparse.Static(0.5).storage = 3


@pytest.mark.parametrize("cls", [sparse.Static, sparse.SET, sparse.RigL])
def test_a_structure_with_one_level_takes_no_distribution(cls):
    with pytest.raises(IncompatibleOptionError, match=ONE_LEVEL):
        cls(sparsity=0.5, structure="2:4", distribution="erk")
    algorithm = cls(sparsity=0.5, structure="2:4", distribution="uniform")
    with pytest.raises(IncompatibleOptionError, match=ONE_LEVEL):
        algorithm.distribution = "erk"


@pytest.mark.parametrize(
    "distribution", [{"type": "uniform", "dense": "2.*"}, {"layers": {"2.*": 0, "9.*": 0.0}}]
)
@pytest.mark.parametrize("structure", ["2:4", {"type": "n_m", "n": 1, "m": 4}])
@pytest.mark.parametrize("cls", [sparse.GMP, sparse.SET, sparse.RigL])
def test_a_distribution_may_keep_layers_dense_under_a_structure_with_one_level(
    cls, structure, distribution
):
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4), nn.ReLU())
    model.add_module("9", nn.Linear(4, 4))
    if "layers" not in distribution:
        distribution = {**distribution, "dense": ["2.*", "9.*"]}
    level = {"type": "cubic", "init": 0, "final": 0.5, "begin": 0, "end": 2}
    sparsity = cls(
        sparsity=level if cls is sparse.GMP else None,
        update=1,
        structure=structure,
        distribution=distribution,
    )
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(3, 8)).sum().backward()
        optimizer.step()
    kept = {name: p.kept for name, p in sparsity.sparse_params.items()}
    share = 0.5 if structure == "2:4" or cls is sparse.GMP else 0.25
    assert kept == {"0.weight": share * 96, "2.weight": 48, "9.weight": 16}


RISING = {"type": "cubic", "init": 0.0, "begin": 0, "end": 8}


@pytest.mark.parametrize("cls", [sparse.GMP, sparse.SET, sparse.RigL, sparse.STE])
@pytest.mark.parametrize("level", [{**RISING, "final": 0.75}, [0.25, 0.75]])
def test_a_schedule_that_rises_above_the_level_of_a_structure_is_refused_by_apply(cls, level):
    model = make_mlp()
    sparsity = cls(sparsity=level, update={"freq": 2, "start": 2}, structure="2:4")
    message = r"^sparsity must be at most 0\.5, the level of NM\(2, 4\); got 0\.75\.$"
    with pytest.raises(LevelError, match=message):
        sparsity.apply(model)
    assert not dict(model.named_buffers())


def test_a_schedule_may_end_at_the_highest_level_that_is_possible():
    """Cubic computes 0.6 in float32, which is above 0.6 as a float64."""
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
    dense = {"type": "uniform", "dense": "2.*", "budget": "all"}
    sparsity = sparse.GMP({**RISING, "final": 0.6}, {"freq": 2, "stop": 9}, distribution=dense)
    group = sparse.Group({"*.weight": sparsity})
    group.apply(model)
    assert group.sparse_params["0.weight"].annotations["max_sparsity"] == 1.0
    rising = sparse.GMP({**RISING, "final": 0.6}, {"freq": 2, "stop": 9})
    rising.apply(make_mlp())
    assert {p.annotations["sparsity"] for p in rising.sparse_params.values()} == {0.6}


def test_levels_by_parameter_and_a_distribution():
    levels = {nn.Parameter(torch.zeros(4, 4)): 0.5}
    message = r"^give levels by parameter or a distribution, not both\.$"
    with pytest.raises(ExclusiveOptionsError, match=message):
        sparse.Static(levels, distribution="erk")
    assert sparse.Static(levels, distribution="uniform")


def test_groups_and_a_structure():
    message = r"^RigL accepts balance_in_groups or structure, not both\.$"
    with pytest.raises(ExclusiveOptionsError, match=message):
        sparse.RigL(sparsity=0.5, balance_in_groups=2, structure="2:4")


class OwnAlgorithm(sparse.DynamicSparsityAlgorithm):
    """Keep the masks."""

    def update_mask(self, p, mask, sparsity):
        """Return the current mask."""
        return mask


class OneMaskTooFew(OwnAlgorithm):
    """Return one mask too few."""

    def update_masks(self, updates):
        """Return the current masks without the last one."""
        return [update.mask for update in updates[:-1]]


class ReadsTheGradient(OwnAlgorithm):
    """Read the dense gradient without setting `needs_dense_gradient`."""

    def update_mask(self, p, mask, sparsity):
        """Grow where the gradient is positive."""
        return self.dense_gradient(p) > 0


class ReadsTooLate(OwnAlgorithm):
    """Read a dense gradient after its mask was returned."""

    needs_dense_gradient = True

    def update_masks(self, updates):
        """Yield the current masks, and read each gradient too late."""
        for update in updates:
            yield update.mask
            update.gradient()


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (
            OneMaskTooFew,
            r"^OneMaskTooFew.update_masks: it returned no mask for '2.weight'; return one per",
        ),
        (ReadsTheGradient, r"^dense gradient of 0.weight: set needs_dense_gradient = True in the"),
        (ReadsTooLate, r"^dense gradient of 0.weight: the mask has already changed; read the"),
    ],
)
def test_a_class_that_does_not_do_its_part(cls, message):
    algorithm, model = cls(0.5, update=1), make_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    algorithm.apply(model)
    algorithm.apply(optimizer)
    backward(model)
    with pytest.raises(AlgorithmError, match=message):
        optimizer.step()


@pytest.mark.parametrize(
    "method", ["dense_gradient", "gradient_score", "generator", "random_score"]
)
def test_methods_for_update_mask_say_where_they_can_be_called(method):
    algorithm, model = OwnAlgorithm(0.5, update=1), make_mlp()
    algorithm.apply(model)
    with pytest.raises(
        AlgorithmError, match=rf"^OwnAlgorithm.{method}: call it inside update_mask"
    ):
        getattr(algorithm, method)(model[0].weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    algorithm.apply(optimizer)
    train(model, optimizer, 1)
    assert algorithm.step == 1


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_mask_that_is_not_a_tensor_is_not_loaded(storage):
    model = make_mlp()
    sparse.Static(0.5, storage=storage).apply(model)
    before = model[0].weight_mask.clone()
    state = {**model.state_dict(), "0.weight_mask": [True]}
    with pytest.raises(RuntimeError, match=r"0.weight_mask: .* expected a tensor, got \[True\]"):
        model.load_state_dict(state)
    assert torch.equal(model[0].weight_mask, before)
