"""Optimizers that wrap other optimizers, write to weights and call the inner step."""

import gc
import weakref

import pytest
import pytorch_optimizer
import torch
from torch.optim import SGD, AdamW, Optimizer

import sparsewright as sparse
from helpers.support import assert_pruned, backward, make_mlp, train
from sparsewright.errors import AttachError


class Pull(Optimizer):
    """Pull weights to their initial values after each step of the inner optimizer."""

    def __init__(self, optimizer):
        self.inside = [optimizer]
        self.param_groups = optimizer.param_groups
        self.state, self.defaults = optimizer.state, {}
        self.begin = [p.detach().clone() + 1 for g in self.param_groups for p in g["params"]]

    def zero_grad(self, set_to_none=True):
        self.inside[0].zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        self.inside[0].step(closure)
        params = (p for g in self.param_groups for p in g["params"])
        for p, begin in zip(params, self.begin, strict=True):
            p.lerp_(begin, 0.1)


class PullWithHooks(Pull):
    """A `Pull` whose constructor calls `Optimizer.__init__`."""

    def __init__(self, optimizer):
        Optimizer.__init__(self, optimizer.param_groups, {})
        super().__init__(optimizer)

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)


class Idle(Optimizer):
    """Skip every other step, as gradient accumulation does."""

    def __init__(self, optimizer):
        self.optimizer, self.calls = optimizer, 0
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, {}

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            self.optimizer.step()


def started(make, algorithm=lambda: sparse.SET(0.5, sparsity=0.8, update=2)):
    model, sparsity = make_mlp(), algorithm()
    sparsity.apply(model)
    optimizer = make(SGD(model.parameters(), 0.1, momentum=0.9))
    sparsity.apply(optimizer)
    return model, sparsity, optimizer


WRAPPERS = {
    "without hooks": Pull,
    "with hooks": PullWithHooks,
    "around a wrapper": lambda inner: Pull(Pull(inner)),
    "lookahead": lambda inner: pytorch_optimizer.Lookahead(inner, k=2),
}


@pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("algorithm", ["set", "ste", "gmp"])
def test_masks_hold_after_each_outer_step(make, algorithm):
    level = {"type": "cubic", "init": 0.1, "final": 0.8, "begin": 0, "end": 8}
    options = {"sparsity": level, "update": 2} if algorithm == "gmp" else {"sparsity": 0.8}
    model, sparsity, optimizer = started(
        make, lambda: sparse.configure({"algorithm": algorithm, **options})
    )
    for step in range(1, 9):
        train(model, optimizer, 1, start=step)
        assert_pruned(sparsity)
        assert sparsity.step == step


def test_a_scheduler_on_a_wrapper_and_its_removal():
    model, sparsity, optimizer = started(WRAPPERS["without hooks"])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
    for step in range(3):
        train(model, optimizer, 1, start=step)
        scheduler.step()
    assert_pruned(sparsity)
    sparsity.remove()
    train(model, optimizer, 1)
    assert sparsity.step == 3
    assert bool(model[0].weight.all())
    other = make_mlp()  # the class was not changed
    train(other, Pull(SGD(other.parameters(), 0.1)), 1)


class Twice(SGD):
    """Call the step of the base class, for which PyTorch calls the same hooks again."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.add_(0.01)


@pytest.mark.parametrize("algorithm", ["set", "ste"])
def test_a_step_that_calls_that_of_its_base_counts_once(algorithm):
    model = make_mlp()
    SGD(model.parameters(), 0.1)  # registers hooks on the base class
    sparsity = sparse.configure({"algorithm": algorithm, "sparsity": 0.5})
    sparsity.apply(model)
    optimizer = Twice(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    for step in range(1, 5):
        train(model, optimizer, 1, start=step)
        assert sparsity.step == step
        assert_pruned(sparsity)


def test_a_step_that_a_wrapper_leaves_out_does_not_count():
    model, sparsity, optimizer = started(Idle)
    train(model, optimizer, 6)
    assert sparsity.step == 3
    assert_pruned(sparsity, optimizer.optimizer)


def test_an_exception_inside_does_not_end_the_counting():
    model, sparsity, optimizer = started(WRAPPERS["without hooks"])

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fail)
    train(model, optimizer, 3)
    assert sparsity.step == 3
    assert_pruned(sparsity)


def test_the_wrapper_may_be_applied_after_what_is_inside():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    inner = SGD(model.parameters(), 0.1)
    sparsity.apply(inner)
    outer = Pull(inner)
    sparsity.apply(outer)
    train(model, outer, 3)
    assert sparsity.step == 3
    assert sparsity.state_dict()["steps"] == [3]
    assert_pruned(sparsity)
    with pytest.warns(sparse.errors.SparsityWarning, match="optimizer was already sparsified"):
        sparsity.apply(outer)


@pytest.mark.parametrize("base", [SGD, AdamW])
@pytest.mark.parametrize("form", ["two calls", "closure"])
@pytest.mark.parametrize("algorithm", ["rigl", "gmp"])
def test_sharpness_aware_minimization(base, form, algorithm):
    level = {"type": "cubic", "init": 0, "final": 0.75, "begin": 0, "end": 8}
    sparsity = sparse.configure(
        {"algorithm": algorithm, "sparsity": level if algorithm == "gmp" else 0.75, "update": 2}
    )
    model = make_mlp()
    sparsity.apply(model)
    optimizer = pytorch_optimizer.SAM(model.parameters(), base, rho=0.1, lr=0.05)
    sparsity.apply(optimizer)
    for step in range(8):
        optimizer.zero_grad()
        backward(model, step)
        if form == "closure":
            optimizer.step(lambda step=step: backward(model, step))
        else:
            optimizer.first_step(zero_grad=True)
            backward(model, step)
            optimizer.second_step()
        assert_pruned(sparsity, optimizer)
    assert sparsity.step == 8
    assert [p.computed_sparsity for p in sparsity.sparse_params.values()] == [0.75, 0.75]


def test_a_wrapper_is_let_go():
    model, _, optimizer = started(WRAPPERS["without hooks"])
    train(model, optimizer, 2)
    gone = [weakref.ref(optimizer), weakref.ref(optimizer.inside[0])]
    del optimizer
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_a_wrapper_that_hides_what_it_wraps_is_refused():
    class Hides(Optimizer):
        def __init__(self, optimizer):
            self.get = lambda: optimizer

    text = "Hides: its __init__ did not call Optimizer.__init__, so it has no step hooks; call"
    with pytest.raises(AttachError, match=text):
        started(Hides)


class Both(Optimizer):
    """Step several optimizers with different parameters, without parameters of its own."""

    def __init__(self, *optimizers):
        self.optimizers, self.defaults = optimizers, {}

    @property
    def param_groups(self):
        return [group for each in self.optimizers for group in each.param_groups]

    @property
    def state(self):
        return {key: state for each in self.optimizers for key, state in each.state.items()}

    def zero_grad(self, set_to_none=True):
        for each in self.optimizers:
            each.zero_grad(set_to_none)

    def step(self, closure=None):
        for each in self.optimizers:
            each.step()


def test_all_that_a_wrapper_steps_is_followed(caplog):
    model = make_mlp()
    level = {"type": "linear", "init": 0, "slope": 0.05}
    sparsity = sparse.GMP(sparsity=level, update={"freq": 2, "stop": 11})
    sparsity.apply(model)
    one, two = SGD(model[0].parameters(), 0.1, momentum=0.9), AdamW(model[2].parameters(), 0.01)
    optimizer = Both(one, two)
    sparsity.apply(optimizer)
    train(model, optimizer, 14)
    assert sparsity.step == 14
    assert [round(p.computed_sparsity, 2) for p in sparsity.sparse_params.values()] == [0.5, 0.5]
    assert_pruned(sparsity, one, two)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
