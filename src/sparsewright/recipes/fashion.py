"""Recipe `fashion`: LeNet-300-100 trained on Fashion-MNIST from idx files.

Debian's package `dataset-fashion-mnist` installs the four files in this recipe's default folder.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsewright.errors import ConfigError, OptionError
from sparsewright.formats.read_file import read_regular
from sparsewright.recipes.sections import LoopSettings, OptimizerSettings, option
from sparsewright.recipes.task import Recipe, Task, keyed_generator, rigl_section

CLASSES = 10
PIXELS = 28 * 28


@dataclass(frozen=True)
class ImageSettings:
    """Section `data`: the folder with the four idx files, gzipped (.gz) or not."""

    dir: str = option("/usr/share/datasets/fashion-mnist")

    def __post_init__(self) -> None:  # a run can be resumed from any directory
        object.__setattr__(self, "dir", os.path.abspath(self.dir))


@dataclass(frozen=True)
class LeNetSettings:
    """Section `model`: the widths of the two hidden layers."""

    hidden1: int = option(300, least=1, most=2**20)
    hidden2: int = option(100, least=1, most=2**20)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the array of bytes in an idx file, which is gzipped if its name ends in `.gz`.

    The file starts with two zero bytes, the type (8: unsigned byte), the number of dimensions and
    each dimension as a big-endian 32-bit integer. The entries follow in row-major order.

    Raises:
        ConfigError: the file is missing, is not an idx file, does not hold unsigned bytes, or has
            another length than its header gives.
    """
    try:
        raw = read_regular(path)
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(path, f"not a complete gzip file: {error}") from error
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ConfigError(path, f"not an idx file: it starts with {content[:4]!r}")
    if content[2] != 8:
        problem = f"expected idx type 0x08 (unsigned bytes), got {content[2]:#04x}"
        raise ConfigError(path, problem)
    header = 4 + 4 * content[3]
    if len(content) < header:
        problem = f"expected a header of {header} bytes, but the file has only {len(content)}"
        raise ConfigError(path, problem)
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) - header != math.prod(shape):
        expected = f"expected {math.prod(shape)} entries for shape {shape}"
        raise ConfigError(path, f"{expected}, got {len(content) - header}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def read_split(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Read the images `[n, 784]` (float, 0..1) and labels `[n]` (int64) of one split.

    Args:
        folder: folder with the idx files.
        prefix: `train` or `t10k`.

    Raises:
        ConfigError: a file is missing or damaged, or images and labels do not fit together.
    """
    paths = []
    for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        there = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        if not there:
            problem = (
                f"the folder has no {name} or {name}.gz; on Debian, install the package "
                "dataset-fashion-mnist"
            )
            raise ConfigError(folder, problem)
        paths.append(there[0])
    images, labels = read_idx(paths[0]), read_idx(paths[1])
    if images.shape[1:] != (28, 28) or len(images) == 0:
        problem = f"expected images of shape (n, 28, 28) with n > 0, got {images.shape}"
        raise ConfigError(paths[0], problem)
    if labels.shape != images.shape[:1]:
        problem = f"expected one label per image, shape ({len(images)},), got {labels.shape}"
        raise ConfigError(paths[1], problem)
    if labels.max() >= CLASSES:
        problem = f"labels must be between 0 and {CLASSES - 1}; got {labels.max()}"
        raise ConfigError(paths[1], problem)
    pixels = torch.from_numpy(images.reshape(len(images), PIXELS).astype(np.float32) / 255)
    return pixels, torch.from_numpy(labels.astype(np.int64))


class LeNet(nn.Module):
    """LeNet-300-100: a perceptron with two hidden layers."""

    def __init__(self, size: LeNetSettings) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, size.hidden1)
        self.fc2 = nn.Linear(size.hidden1, size.hidden2)
        self.fc3 = nn.Linear(size.hidden2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[n, 10]` for images `[n, 784]`."""
        logits: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(images)))))
        return logits


def make_task(data: ImageSettings, model: LeNetSettings, loop: LoopSettings) -> Task:
    """Read the images and make the task.

    Raises:
        ConfigError: the files are missing or damaged.
        OptionError: the batch is larger than the training set.
    """
    images, labels = read_split(Path(data.dir), "train")
    test_images, test_labels = read_split(Path(data.dir), "t10k")
    size, per_epoch = loop.batch_size, len(images) // loop.batch_size
    if per_epoch == 0:
        most = f"at most {len(images)}, the number of training images"
        raise OptionError("loop.batch_size", size, most)

    def make_model() -> nn.Module:
        torch.manual_seed(loop.seed)
        return LeNet(model)

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        return torch.randperm(len(images), generator=keyed_generator(loop.seed, epoch))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, per_epoch)
        chosen = order(epoch)[place * size : (place + 1) * size]
        return images[chosen], labels[chosen]

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), targets)

    def evaluate(model: nn.Module) -> dict[str, float]:
        logits = model(test_images)
        right = (logits.argmax(dim=1) == test_labels).double().mean()
        return {
            "loss": F.cross_entropy(logits, test_labels).item(),
            "accuracy": right.item(),
        }

    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
    return Task(make_model, batch, loss, evaluate, "images", size, digest.hexdigest())


def outline(
    data: ImageSettings, model: LeNetSettings, loop: LoopSettings
) -> tuple[nn.Module, Tensor]:
    """Make a new model and a batch of black images."""
    return LeNet(model), torch.zeros(loop.batch_size, PIXELS)


RECIPE = Recipe(
    data=ImageSettings(),
    model=LeNetSettings(),
    optimizer=OptimizerSettings(name="adamw", lr=5e-3, weight_decay=0.01),
    # One thread, because the matrix products are too small to split.
    loop=LoopSettings(steps=3000, batch_size=100, warmup=100, evaluate_every=600, threads=1),
    sparsity=lambda loop: rigl_section(loop, level=0.9, updates=30),
    make_task=make_task,
    outline=outline,
)
