"""Train with Lightning: add one callback; the module and its optimizer stay unchanged."""

import sys

import torch
from digits import accuracy, load, make_model
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import sparsewright as sparse
from sparsewright.integrations.lightning import SparsityCallback


class Digits(LightningModule):
    """A plain classifier, without any code for sparsity."""

    def __init__(self):
        super().__init__()
        self.net = make_model()

    def training_step(self, batch, index):
        """Return the cross entropy of one batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        """Return an AdamW optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "runs/lightning"
    batches, images, labels = load()
    sparsity = sparse.RigL(sparsity=0.9, update={"freq": 20, "stop": 400})
    module = Digits()
    trainer = Trainer(
        max_epochs=20,
        accelerator="cpu",
        callbacks=[SparsityCallback(sparsity)],
        logger=CSVLogger(folder),  # logs sparsity, churn and gradient norm per weight
        log_every_n_steps=20,
        enable_progress_bar=False,
    )
    trainer.fit(module, batches)  # ckpt_path="last.ckpt" resumes bit for bit
    zeros = float((module.net[0].weight == 0).float().mean())
    print(f"zeros {zeros:.3f}, accuracy {accuracy(module.net, images, labels):.3f}")
