"""Data and model of the digits examples: 1797 handwritten digits of 8x8 pixels, a small network.

The digits (E. Alpaydin and C. Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0) ship with
scikit-learn.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TRAINED = 1300


def load():
    """Return a loader of shuffled training batches, and the test images and labels."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32) / 16
    labels = torch.tensor(labels)
    order = torch.Generator().manual_seed(0)
    train = TensorDataset(images[:TRAINED], labels[:TRAINED])
    loader = DataLoader(train, batch_size=50, shuffle=True, generator=order)
    return loader, images[TRAINED:], labels[TRAINED:]


def make_model():
    """Build a network from 64 pixels over 256 hidden units to 10 digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


@torch.no_grad()
def accuracy(model, images, labels):
    """Return the fraction of images that the model classifies correctly."""
    return float((model(images).argmax(1) == labels).float().mean())
