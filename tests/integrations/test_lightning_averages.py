"""The Lightning callback together with callbacks that average weights."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparsewright as sparse
from helpers.support import assert_pruned, batch, make_mlp
from sparsewright.errors import AttachError
from sparsewright.integrations.lightning import SparsityCallback

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        # Warnings of Lightning 2.6 with torch 2.13, and its advice for such small runs.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning",
        r".*does not have many workers:lightning.pytorch.utilities.warnings.PossibleUserWarning",
        r"Swapping scheduler:UserWarning",
        r"Found keys that are not in the model state dict:UserWarning:lightning",
    )
]


class Net(LightningModule):
    """A module that records the weights at validation."""

    def __init__(self, normalised=False):
        super().__init__()
        self.net = make_mlp()
        if normalised:
            self.net.insert(1, nn.BatchNorm1d(16))
        self.validated = []

    def training_step(self, batch, index):
        return self.net(batch[0]).pow(2).mean()

    def validation_step(self, batch, index):
        self.validated.append(
            {
                name: (param.detach().clone(), self.get_buffer(name + "_mask").clone())
                for name, param in self.named_parameters()
                if name + "_mask" in dict(self.named_buffers())
            }
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Average(Callback):
    """A typical user callback: it averages each weight and copies the average back at the end."""

    def __init__(self, hook):
        self.averages = {}
        setattr(self, hook, self.copy_back)

    def on_train_batch_end(self, trainer, module, *rest):
        for name, param in module.named_parameters():
            self.averages.setdefault(name, param.detach().clone()).lerp_(param.detach(), 0.1)

    def copy_back(self, trainer, module, *rest):
        for name, param in module.named_parameters():
            param.data.copy_(self.averages[name])


CALLBACKS = {
    "WeightAveraging": WeightAveraging,
    "EMAWeightAveraging": lambda: EMAWeightAveraging(decay=0.5),
    "StochasticWeightAveraging": lambda: StochasticWeightAveraging(0.1, swa_epoch_start=1),
    "on_train_end": lambda: Average("on_train_end"),
    "on_fit_end": lambda: Average("on_fit_end"),
}


def fit(module, sparsity, *callbacks, is_first=True):
    """Fit for 3 epochs of 4 steps; masks change until step 8."""
    data = DataLoader(TensorDataset(batch(0, 16, 8)), batch_size=4)
    every = [SparsityCallback(sparsity), *callbacks]
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=every if is_first else every[::-1],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, data)


def rigl(**choices):
    return sparse.RigL(sparsity=0.75, update={"freq": 2, "stop": 8}, **choices)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("storage", ["masked", "shadowed"])
@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_weights_are_pruned_after_fit(make, storage, is_first):
    sparsity, module = rigl(storage=storage), Net()
    fit(module, sparsity, make(), is_first=is_first)
    assert_pruned(sparsity)
    for parameter in sparsity.sparse_params.values():
        assert parameter.kept == parameter.shape.numel() // 4
        assert parameter.param.detach()[parameter.mask].any()
    assert module.validated
    for weights in module.validated:
        for name, (weight, mask) in weights.items():
            assert not weight[~mask].any(), name


@pytest.mark.parametrize("make", [WeightAveraging, EMAWeightAveraging])
def test_an_average_that_masks_do_not_survive_is_refused(make):
    with pytest.raises(AttachError, match=r"before the masks, .* were added; .*use_buffers=False"):
        fit(Net(normalised=True), rigl(), make())
    with pytest.raises(AttachError, match="copied the weights before they were compressed; apply"):
        fit(Net(), rigl(storage="compressed"), make())
    sparsity, module = rigl(), Net(normalised=True)
    sparsity.apply(module)
    with pytest.raises(AttachError, match="masks are buffers; pass use_buffers=False to it"):
        fit(module, sparsity, make())


@pytest.mark.parametrize("storage", ["masked", "shadowed"])
@pytest.mark.parametrize("make", [WeightAveraging, EMAWeightAveraging])
def test_an_average_works_as_the_error_says(make, storage):
    sparsity, module = rigl(storage=storage), Net(normalised=True)
    sparsity.apply(module)
    fit(module, sparsity, make(use_buffers=False))
    assert_pruned(sparsity)
    assert all(p.kept == p.shape.numel() // 4 for p in sparsity.sparse_params.values())
