"""A small stand-in for Fashion-MNIST, in its own file format."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes as the content of an idx file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_images(folder: Path, train: int, test: int, *, pack: bool = False) -> None:
    """Write both splits; two brighter rows of each image mark its class."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 60, (count, 28, 28))
        for row in (0, 1):
            images[np.arange(count), labels * 2 + row] += 180
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content, suffix = idx(array), ""
            if pack:
                content, suffix = gzip.compress(content), ".gz"
            (folder / f"{prefix}-{name}-ubyte{suffix}").write_bytes(content)
