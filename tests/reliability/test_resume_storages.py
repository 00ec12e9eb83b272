"""A run resumes bit-equal after any step, in each storage and from one storage to the other."""

from __future__ import annotations

import copy

import pytest
import torch

import sparsewright as sparse
from helpers.cases import ALGORITHMS, OPTIMIZERS, attach, every_algorithm, loaded, saved, step_once
from helpers.support import assert_same, masks_of

STEPS = 7
STORAGES = ["masked", "compressed"]
MOMENTS = ["sgd with momentum", "adam", "rmsprop", "adagrad"]
every_optimizer = pytest.mark.parametrize("name", MOMENTS)
every_storage = pytest.mark.parametrize("storage", STORAGES)


class Run:
    """A run with hooks that record each event with its step."""

    def __init__(self, make, make_optimizer, storage, seed=0):
        self.model, self.sparsity, self.optimizer = attach(make, make_optimizer, seed=seed)
        self.storage = "masked"
        self.convert(storage)
        self.told: list[tuple] = []
        self.sparsity.register_target_sparsity_hook(
            lambda own, name, value: self.told.append((own.step, "target", name, float(value)))
        )
        self.sparsity.register_computed_sparsity_hook(
            lambda own, name, value: self.told.append((own.step, "computed", name, float(value)))
        )
        self.sparsity.register_mask_update_hook(
            lambda update: self.told.append((update.step, "mask", update))
        )

    def convert(self, storage):
        if storage != self.storage:
            if storage == "compressed":
                assert all(c.is_compressed for c in sparse.compress(self.model, verbose=False))
            else:
                sparse.decompress(self.model)
        self.storage = storage

    def save(self):
        return saved(self.model, self.optimizer, self.sparsity)

    def load(self, checkpoint, order=(0, 1, 2)):
        objects, states = (self.model, self.optimizer, self.sparsity), loaded(checkpoint)
        for index in order:
            objects[index].load_state_dict(states[index])

    def train(self, begin, end):
        for step in range(begin + 1, end + 1):
            step_once(self.model, self.optimizer, step)

    def result(self):
        return [
            masks_of(self.sparsity),
            dict(self.model.state_dict()),
            self.optimizer.state_dict(),
            self.sparsity.state_dict(),
        ]


@every_storage
@every_optimizer
@every_algorithm
def test_resumed_at_every_step_equals_uninterrupted(make, name, storage):
    run = Run(make, OPTIMIZERS[name], storage)
    checkpoints = [run.save()]
    for step in range(1, STEPS + 1):
        run.train(step - 1, step)
        checkpoints.append(run.save())
    expected, told = run.result(), copy.deepcopy(run.told)
    assert {kind for _, kind, *_ in told} >= {"target", "computed"}
    orders = [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)]
    for done, checkpoint in enumerate(checkpoints):
        torch.manual_seed(done)  # other random draws must not matter
        new = Run(make, OPTIMIZERS[name], storage, seed=99)
        new.load(checkpoint, orders[done % len(orders)])
        assert_same(new.result()[1], loaded(checkpoint)[0], f"loaded after {done}")
        new.train(done, STEPS)
        assert_same(new.result(), expected, f"after {done}")
        assert new.told == [event for event in told if event[0] > done], f"hooks after {done}"


@pytest.mark.parametrize("before", STORAGES)
@every_optimizer
@every_algorithm
def test_a_checkpoint_resumes_in_the_other_storage(make, name, before):
    """Loading a checkpoint and then converting equals converting during the run."""
    (after,) = set(STORAGES) - {before}
    for done in (1, 4, 6):
        run = Run(make, OPTIMIZERS[name], before)
        run.train(0, done)
        checkpoint = run.save()
        run.told.clear()
        run.convert(after)
        run.train(done, STEPS)
        new = Run(make, OPTIMIZERS[name], before, seed=99)
        new.load(checkpoint)
        new.convert(after)
        new.train(done, STEPS)
        assert_same(new.result(), run.result(), f"after {done}")
        assert new.told == run.told


@pytest.mark.parametrize("before", STORAGES)
@every_algorithm
def test_weights_and_masks_cross_over_without_converting(make, before):
    run = Run(make, OPTIMIZERS["adam"], before)
    run.train(0, 4)
    (after,) = set(STORAGES) - {before}
    new = Run(make, OPTIMIZERS["adam"], after, seed=99)
    new.model.load_state_dict(run.model.state_dict())
    new.sparsity.load_state_dict(run.sparsity.state_dict())
    assert_same(dict(new.model.state_dict()), dict(run.model.state_dict()))
    new.train(4, STEPS)
    run.train(4, STEPS)
    assert new.sparsity.step == run.sparsity.step == STEPS


@pytest.mark.parametrize("before", STORAGES)
def test_optimizer_state_of_the_other_storage_raises(before):
    run = Run(ALGORITHMS["rigl"], OPTIMIZERS["adam"], before)
    run.train(0, 4)
    (after,) = set(STORAGES) - {before}
    new = Run(ALGORITHMS["rigl"], OPTIMIZERS["adam"], after, seed=99)
    new.load(run.save())
    with pytest.raises(RuntimeError, match=r"size|shape"):
        new.train(4, 5)
