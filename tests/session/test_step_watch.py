"""Warnings for weights that are trained without a followed optimizer."""

import logging

import pytest
import torch
from torch.optim import LBFGS, SGD, Optimizer

import sparsewright as sparse
from helpers.support import backward, make_mlp, train
from sparsewright.session import late_writes


class TwoCalls(Optimizer):
    """An optimizer with methods `climb` and `descend`, whose `step` is never called."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def climb(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["up"] = 0.1 * p.grad
            p += self.state[p]["up"]

    @torch.no_grad()
    def descend(self):
        for p in self.param_groups[0]["params"]:
            p -= self.state[p]["up"] + 0.1 * p.grad

    def step(self, closure=None):
        raise RuntimeError("call climb and descend")


@pytest.fixture
def told(caplog):
    with caplog.at_level(logging.WARNING, "sparsewright"):
        yield lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def sparsified():
    model, sparsity = make_mlp(), sparse.SET(sparsity=0.5, update=2)
    sparsity.apply(model)
    return model, sparsity


def test_an_optimizer_whose_step_is_never_called(told):
    model, sparsity = sparsified()
    optimizer = TwoCalls(model.parameters())
    sparsity.apply(optimizer)
    for step in range(20):
        for move in (optimizer.climb, optimizer.descend):
            optimizer.zero_grad()
            backward(model, step)
            move()
    (message,) = told()
    assert "but step() was not called on TwoCalls, so weights are not pruned" in message


def test_an_optimizer_that_was_never_given(told):
    model, _ = sparsified()
    train(model, SGD(model.parameters(), 0.1), 30)
    (message,) = told()
    assert "but no optimizer was passed to apply(), so weights are not pruned" in message


def test_nothing_is_said_of_steps_by_hand(told):
    model, sparsity = sparsified()
    for step in range(30):
        model.zero_grad()
        backward(model, step)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        sparsity.update()
    assert sparsity.step == 30
    assert told() == []


def test_nothing_is_said_of_accumulation_nor_of_line_searches(told):
    model, sparsity = sparsified()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    for step in range(100):
        backward(model, step)
    optimizer.step()
    sparsity.remove(optimizer)
    optimizer = LBFGS(model.parameters(), max_iter=50, line_search_fn="strong_wolfe")
    sparsity.apply(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 8)).pow(2).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert told() == []


class Behind:
    """Pull weights to their initial values every few steps; not an `Optimizer`."""

    def __init__(self, optimizer, every):
        self.optimizer, self.every, self.steps = optimizer, every, 0
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.begin = [p.detach().clone() + 1 for p in self.params]

    def zero_grad(self):
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self):
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.every == 0:
            for p, begin in zip(self.params, self.begin, strict=True):
                p.lerp_(begin, 0.5)


@pytest.mark.parametrize("every", [1, 5])
def test_a_weight_that_is_written_to_after_the_step_is_named(told, every):
    model, sparsity = sparsified()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, Behind(optimizer, every), 20)
    (message,) = told()
    assert message.startswith("0.weight: pruned connections were set to nonzero values after the")


def test_writes_that_keep_the_zeros_are_looked_at_now_and_then(told, monkeypatch):
    model, sparsity = sparsified()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    looks = []
    monkeypatch.setattr(late_writes, "_has_values_off", lambda p: looks.append(p.name))
    for step in range(100):
        train(model, optimizer, 1, step)
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-0.1, 0.1)
    assert looks == 7 * ["0.weight", "2.weight"]
    assert told() == []
