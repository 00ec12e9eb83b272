"""README's picture: what it counts, what it reads, and what it draws."""

import xml.etree.ElementTree as ElementTree

import harness
import picture
import pytest
import torch


def test_rigl_moves_connections_to_the_pixels_that_vary():
    images = torch.zeros(200, picture.SIDE, picture.SIDE)
    generator = torch.Generator().manual_seed(1)
    images[:, 10:18, 10:18] = torch.rand(200, 8, 8, generator=generator)
    labels = (images[:, 10:14, 10:18].sum((1, 2)) > images[:, 14:18, 10:18].sum((1, 2))).long()
    found = picture.connections(images.flatten(1), labels, steps=(0, 200))
    first, last = found[0].float(), found[200].float()
    assert first.sum() == last.sum() == round(0.05 * 784 * 300)
    assert first[10:18, 10:18].mean() == pytest.approx(15, abs=2)  # 5% of 300
    assert last[10:18, 10:18].mean() > 2 * first[10:18, 10:18].mean()


def test_speedups_are_those_of_steps_over_dense(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    rows = [
        harness.Row("train", "step 8x128 95%", "dense", 0.2, 0.3, 1, 1),
        harness.Row("train", "step 8x128 80%", "dense", 0.5, 0.6, 1, 1),
        harness.Row("train", "step 8x128 80%", "masked", 0.4, 0.5, 1, 1),
        harness.Row("train", "bytes 80%", "dense", 0.1, 0.1, 1, 1),
    ]
    harness.report(rows, f"train-1-{harness.kernels()}")
    path = tmp_path / f"train-1-{harness.kernels()}.csv"
    assert [tuple(values) for values in picture.speedups(path)] == [(80, 95), (2.0, 5.0)]


@pytest.mark.parametrize("theme", picture.THEMES)
def test_draws_a_small_transparent_svg(theme, tmp_path):
    maps = {step: torch.randint(50, (28, 28)) for step in picture.STEPS}
    curves = dict.fromkeys(picture.SETS, ((50, 90, 98), (1.2, 3.4, 5.0)))
    path = tmp_path / "picture.svg"
    picture.draw(maps, curves, theme, path)
    drawn = path.read_bytes()
    shown = (picture.FOLDER / f"overview-{theme}.svg").read_bytes()
    for svg in (drawn, shown):
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert svg.count(b"<image ") == len(picture.STEPS)
        assert len(svg) < 100_000
    picture.draw(maps, curves, theme, path)
    assert path.read_bytes() == drawn  # no date, no random ids
