"""Tests of `attached`: a model is sparse inside a `with` block and dense after it."""

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train
from sparsewright.errors import AttachError, OptionTypeError

MAKE = {
    "static": lambda: sparse.Static(0.5),
    "rigl": lambda: sparse.RigL(sparsity=0.5, update=2),
    "group": lambda: sparse.configure(
        [
            {"algorithm": "set", "sparsity": 0.5, "update": 2, "param_filter": "0.weight"},
            {"algorithm": "static", "sparsity": 0.5},
        ]
    ),
}
ALREADY = r"it is already attached; call remove\(\) first, or create another algorithm"


@pytest.fixture(params=MAKE)
def sparsity(request):
    return MAKE[request.param]()


def hooks_of(model, optimizer):
    """Return the number of hooks on a model and an optimizer."""
    count = sum(len(vars(optimizer)[name]) for name in vars(optimizer) if name.endswith("_hooks"))
    for module in model.modules():
        count += sum(len(vars(module)[name]) for name in vars(module) if name.endswith("_hooks"))
    for param in model.parameters():
        count += len(param._backward_hooks or ()) + len(param._post_accumulate_grad_hooks or ())
    return count


def test_sparse_inside_and_an_ordinary_model_after(sparsity):
    model, keys = make_mlp(), list(make_mlp().state_dict())
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    with sparsity.attached(model, optimizer) as inside:
        assert inside is sparsity
        train(model, optimizer, 5)
        assert_pruned(sparsity, optimizer)
        assert sparsity.step == 5
        assert hooks_of(model, optimizer) > 0
        pruned = [~p.mask.clone() for p in sparsity.sparse_params.values()]
    assert list(model.state_dict()) == keys
    assert hooks_of(model, optimizer) == 0
    assert sparsity.num_sparse_params == 0
    for module, zeros in zip((model[0], model[2]), pruned, strict=True):
        assert not module.weight[zeros].any()
    train(model, optimizer, 1)  # trains dense weights
    assert model[0].weight[pruned[0]].any()


def test_an_exception_passes_and_takes_everything_off(sparsity):
    model = make_mlp()
    optimizer = SGD(model.parameters(), 0.1)
    with pytest.raises(ZeroDivisionError), sparsity.attached(model, optimizer):
        raise ZeroDivisionError
    assert hooks_of(model, optimizer) == 0
    with pytest.raises(OptionTypeError, match="Module or an Optimizer"):
        sparsity.attached(model, "sgd").__enter__()
    assert hooks_of(model, optimizer) == 0
    assert not any(isinstance(b, torch.Tensor) for b in model.buffers())


def test_what_was_attached_before_is_not_taken_off(sparsity):
    model = make_mlp()
    sparsity.apply(model)
    with pytest.raises(AttachError, match=ALREADY):
        sparsity.attached(make_mlp()).__enter__()
    assert sparsity.num_sparse_params == 2


def test_the_same_algorithm_twice_does_the_same_twice():
    sparsity = sparse.GMP({"type": "cubic", "init": 0, "final": 0.9, "begin": 0, "end": 6},
                          update={"freq": 2, "stop": 7})  # fmt: skip
    reached = []
    for _ in range(2):
        model = make_mlp()
        optimizer = SGD(model.parameters(), 0.1)
        with sparsity.attached(model, optimizer):
            train(model, optimizer, 8)
            reached.append([p.computed_sparsity for p in sparsity.sparse_params.values()])
        assert sparsity.step == 0
    assert reached[0] == reached[1]
    assert min(reached[0]) > 0.9


def test_an_optimizer_that_was_attached_before_is_not_taken_off(sparsity):
    model = make_mlp()
    sparsity.apply(SGD(model.parameters(), 0.1))
    with pytest.raises(AttachError, match=ALREADY), sparsity.attached(model):
        pass
