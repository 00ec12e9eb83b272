"""Test the reading of intact and damaged idx files, and the recipe end to end."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.image_files import idx, write_images
from sparsewright.errors import ConfigError, OptionError
from sparsewright.recipes import fashion
from sparsewright.runs.config import RunConfig
from sparsewright.runs.training import Training

DEBIAN = Path(fashion.ImageSettings().dir)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 5)])
@pytest.mark.parametrize("pack", [False, True])
def test_idx_reads_back(tmp_path: Path, shape: tuple[int, ...], pack: bool) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / ("x.gz" if pack else "x")
    path.write_bytes(gzip.compress(idx(array)) if pack else idx(array))
    assert np.array_equal(fashion.read_idx(path), array)


GOOD = idx(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x", b"", "not an idx file"),
        ("x", b"\x89PNG\r\n", "not an idx file"),
        ("x", b"\0\0\x0d\x01" + GOOD[4:], r"expected idx type 0x08 \(unsigned bytes\), got 0x0d"),
        ("x", GOOD[:9], "expected a header of 12 bytes, but the file has only 9"),
        ("x", GOOD[:-1], r"expected 6 entries for shape \(2, 3\), got 5"),
        ("x", GOOD + b"\0", r"expected 6 entries for shape \(2, 3\), got 7"),
        (
            "x",
            struct.pack(">HBB2I", 0, 8, 2, 2**32 - 1, 2**32 - 1),
            r"expected 18446744065119617025 entries for shape \(4294967295, 4294967295\), got 0",
        ),
        ("x.gz", gzip.compress(GOOD, mtime=0)[:-4], "not a complete gzip file"),
        ("x.gz", GOOD, "not a complete gzip file"),
        ("x.gz", gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 20, "not a complete gzip file"),
        ("x", None, "cannot be read"),
    ],
)
def test_damaged_idx(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        fashion.read_idx(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "array", "problem"),
    [
        (
            "train-images-idx3-ubyte",
            np.zeros((200, 28, 27)),
            r"expected images of shape \(n, 28, 28\) with n > 0, got \(200, 28, 27\)",
        ),
        ("train-images-idx3-ubyte", np.zeros((0, 28, 28)), r"with n > 0, got \(0, 28, 28\)"),
        (
            "train-labels-idx1-ubyte",
            np.zeros(199),
            r"expected one label per image, shape \(200,\), got \(199,\)",
        ),
        ("train-labels-idx1-ubyte", np.full(200, 10), "labels must be between 0 and 9; got 10"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, file: str, array: np.ndarray, problem: str) -> None:
    write_images(tmp_path, 200, 200)
    (tmp_path / file).write_bytes(idx(array))
    with pytest.raises(ConfigError, match=problem):
        fashion.read_split(tmp_path, "train")


def test_every_image_is_seen_once_an_epoch(tmp_path: Path) -> None:
    write_images(tmp_path, 50, 50)
    loop = RunConfig.from_file(None, "fashion", {"loop": {"batch_size": 10}}).loop
    task = fashion.make_task(fashion.ImageSettings(str(tmp_path)), fashion.LeNetSettings(), loop)
    epochs = [
        torch.cat([task.batch(step)[0] for step in range(5 * e, 5 * e + 5)]) for e in range(2)
    ]
    assert not torch.equal(epochs[0], epochs[1])
    for epoch in epochs:
        assert len(epoch.unique(dim=0)) == 50
    assert torch.equal(task.batch(3)[0], epochs[0][30:40])


def test_batch_larger_than_the_set(tmp_path: Path) -> None:
    write_images(tmp_path, 50, 50)
    loop = RunConfig.from_file(None, "fashion").loop
    with pytest.raises(
        OptionError, match=r"^loop\.batch_size must be at most 50, the number of training images"
    ):
        fashion.make_task(fashion.ImageSettings(str(tmp_path)), fashion.LeNetSettings(), loop)


@pytest.mark.parametrize("pack", [False, True])
def test_sparse_lenet_learns(tmp_path: Path, pack: bool) -> None:
    write_images(tmp_path, 200, 200, pack=pack)
    loop = {"steps": 100, "batch_size": 50, "warmup": 5, "threads": 1}
    options = {"data": {"dir": str(tmp_path)}, "loop": loop}
    config = RunConfig.from_file(None, "fashion", options)
    training = Training(config, config.make_task())
    before = training.evaluate()["accuracy"]
    while training.steps_done < 100:
        training.step()
    after = training.evaluate()
    assert before < 0.3 < 0.8 < after["accuracy"] <= 1
    assert training.level == pytest.approx(0.9, abs=0.001)


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs Debian's dataset-fashion-mnist")
def test_full_set() -> None:
    images, labels = fashion.read_split(DEBIAN, "t10k")
    assert images.shape == (10_000, 784)
    assert labels.bincount().tolist() == [1000] * 10
    assert images.min() == 0
    assert images.max() == 1
