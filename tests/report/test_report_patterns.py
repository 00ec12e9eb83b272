"""Test what a report says about structured masks against counts by hand and a slow reference."""

from __future__ import annotations

import base64
import itertools
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.report_runs import random_masks, write_run
from sparsewright import structures
from sparsewright.formats.mask_bits import Mask
from sparsewright.report.patterns import pattern_of
from sparsewright.report.pictures import take_pictures
from sparsewright.report.read import read_run
from sparsewright.report.tables import layer_table, summary_table


def mask_of(structure: Any, shape: tuple[int, ...], level: float, dims: tuple[int, int]) -> Mask:
    score = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found: Mask = structure.with_dims(*dims).topk(score, level).numpy()
    return found.reshape(shape[0], -1)


CASES = [
    # structure, shape, level, dims -> unit, clause
    (structures.Block((4, 4)), (68, 4), 0.7, (0, 1), (4, 4), "5 of 17 blocks live"),
    (structures.Block((2, 4)), (4, 8, 3, 3), 0.5, (0, 1), (2, 36), "2 of 4 blocks live"),
    (structures.Block((2, 4)), (8, 4, 3), 0.5, (1, 0), (4, 6), "2 of 4 blocks live"),
    (structures.Block((2, 2), "l2"), (4, 4), 0.5, (0, 1), (2, 2), "2 of 4 blocks live"),
    (structures.Channel(), (10, 4, 3), 0.7, (0, 1), (1, 12), "3 of 10 outputs live"),
    (structures.Channel(1), (4, 10, 3), 0.7, (0, 1), (4, 3), "3 of 10 inputs live"),
    (structures.Channel(1, math.inf), (10, 4), 0.7, (1, 0), (1, 4), "3 of 10 inputs live"),
    (structures.NM(2, 4), (6, 8), 0.5, (0, 1), (1, 4), "2 of 4 inputs live in all 12 groups"),
    (structures.NM(1, 4), (6, 8, 3), 0.75, (0, 1), (1, 12), "1 of 4 inputs live in all 36 groups"),
    (structures.NM(1, 4), (8, 6), 0.75, (1, 0), (4, 1), "1 of 4 inputs live in all 12 groups"),
    (
        structures.NM(2, 4, transposable=True),
        (8, 12, 2),
        0.5,
        (0, 1),
        (4, 8),
        "2 of 4 inputs live in all 48 groups, and 2 of 4 outputs in all 48 groups",
    ),
    (structures.FanIn(), (5, 10), 0.7, (0, 1), None, "3 live inputs per neuron"),
    (structures.FanIn(), (10, 5, 2), 0.7, (1, 0), None, "6 live inputs per neuron"),
    (
        structures.Groups(inputs=2),
        (3, 8, 2),
        0.75,
        (0, 1),
        (3, 8),
        "6 connections live in each of 2 groups",
    ),
    (
        structures.Groups(outputs=4),
        (3, 8),
        0.5,
        (1, 0),
        (3, 2),
        "3 connections live in each of 4 groups",
    ),
]


@pytest.mark.parametrize(("structure", "shape", "level", "dims", "unit", "clause"), CASES, ids=str)
def test_masks_of_each_structure(
    structure: Any,
    shape: tuple[int, ...],
    level: float,
    dims: tuple[int, int],
    unit: tuple[int, int] | None,
    clause: str,
) -> None:
    mask = mask_of(structure, shape, level, dims)
    pattern = pattern_of(repr(structure), shape, dims)
    assert pattern is not None
    assert pattern.unit == unit
    assert pattern.describe(mask) == clause
    units = pattern.whole_units(mask)
    if structure.name not in ("block", "channel"):
        assert units is None
        return
    assert unit is not None
    assert units is not None
    for row, column in itertools.product(*map(range, mask.shape)):
        assert units[row // unit[0], column // unit[1]] == mask[row, column]


def test_every_structure_of_the_library_has_a_sentence() -> None:
    missing = {cls.name for cls in structures.ALL} - {case[0].name for case in CASES}
    assert missing == {"unstructured"}


def test_masks_that_do_not_hold_the_structure() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0, :3] = mask[2, 4:] = True
    block, n_m = pattern_of("Block((2, 4))", (4, 8)), pattern_of("NM(3, 4)", (4, 8))
    assert block is not None
    assert n_m is not None
    assert block.describe(mask) == "2 of 4 blocks live, 2 of them in part"
    assert block.whole_units(mask) is None
    assert n_m.describe(mask) == "3 of 4 inputs live in 12.50% of 8 groups"
    fan_in = pattern_of("FanIn(ablate=0.3)", (4, 8))
    assert fan_in is not None
    text = "3 to 4 live inputs per neuron (median 3.5), 2 of 4 neurons without"
    assert fan_in.describe(mask) == text
    assert fan_in.describe(np.zeros((4, 8), bool)) == "all neurons without live inputs"
    groups = pattern_of("Groups(outputs=2)", (4, 8))
    assert groups is not None
    assert groups.describe(mask) == "3 to 4 connections live in each of 2 groups"


@pytest.mark.parametrize(
    "text",
    [
        "Block((0, 4))",
        "Block((3, 4))",
        "Block((999999999, 999999999))",
        "Block()",
        "NM(2, 0)",
        "NM(2, 3)",
        "NM(2)",
        "Channel()",
        "Groups(inputs=0)",
        "Groups(outputs=9)",
        "Groups()",
        "Mine(4, 4)",
        "Unstructured()",
        "<b>",
    ],
)
def test_text_that_does_not_fit_the_mask_says_nothing(text: str) -> None:
    pattern = pattern_of(text, (4, 8))
    assert pattern is not None
    assert pattern.unit is None
    assert pattern.whole_units(np.ones((4, 8), bool)) is None
    assert pattern.describe(np.ones((4, 8), bool)) == ""


def test_vectors_and_unstructured_masks_have_no_pattern() -> None:
    assert pattern_of("", (4, 4)) is None
    assert pattern_of("Block((1, 1))", (4,)) is None
    assert pattern_of("Block((1, 1))", (0, 4)) is None


def run_of(tmp_path: Path, shape: tuple[int, int], facts: dict[str, Any]) -> Any:
    masks = {step: {"fc.weight": blocks(shape, step)} for step in (0, 5)}
    return write_run(tmp_path / "run", masks, choices={"fc.weight": facts})


def blocks(shape: tuple[int, int], seed: int) -> Mask:
    small = random_masks({"fc": (shape[0] // 4, shape[1] // 4)}, 0.75, seed)["fc"]
    return np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)


def test_a_picture_has_one_cell_per_block(tmp_path: Path) -> None:
    facts = {"structure": "Block((4, 4))", "dims": [0, 1]}
    written = run_of(tmp_path, (400, 800), facts)
    pictures = take_pictures([read_run(written.path)], 20_000)
    (layer,) = pictures.layers
    assert layer["unit"] == [4, 4]
    for picture in layer["pictures"]:
        assert picture["unit"] == (4, 4)
        bits = zlib.decompress(base64.b64decode(pictures.payloads[picture["whole"]]))
        cells = np.unpackbits(np.frombuffer(bits, np.uint8), count=20_000, bitorder="little")
        mask = written.masks[picture["step"]]["fc.weight"]
        assert np.array_equal(cells.reshape(100, 200), mask[::4, ::4])
        assert picture["pattern"] == "5,000 of 20,000 blocks live"
    assert [picture["step"] for picture in layer["pictures"]] == [0, 5]


def test_a_picture_that_does_not_fit_shows_the_density_of_blocks(tmp_path: Path) -> None:
    written = run_of(tmp_path, (800, 800), {"structure": "Block((4, 4))"})
    (layer,) = take_pictures([read_run(written.path)], 6_000).layers
    last = layer["pictures"][-1]
    row, column, height, width = last["window"]
    assert last["unit"] == (4, 4)
    assert max(last["grid"]) <= 96
    assert row + height <= 200
    assert column + width <= 200


def test_tables_show_the_target_next_to_the_sparsity(tmp_path: Path) -> None:
    """The mask keeps 1,248 of 5,000 entries; the updates aim for a level of 0.9."""
    facts = {"structure": "Block((4, 4))", "target": 0.7}
    written = run_of(tmp_path, (40, 80), facts)
    run = read_run(written.path)
    (row,) = layer_table([run]).rows
    assert (row["sparsity"], row["target"], row["pattern"]) == (0.75, 0.9, "50 of 200 blocks live")
    assert row["unused"] == 0  # the mask keeps more than the target
    assert summary_table([run]).rows[0]["target"] == pytest.approx(0.9)
    run.metrics.updates.clear()  # as in a run of Static, which records the target of its masks
    (row,) = layer_table([run]).rows
    assert (row["target"], row["unused"]) == (0.7, 960 - 800)
    assert summary_table([run]).rows[0]["target"] == pytest.approx(0.7)


@pytest.mark.parametrize("target", [None, "0.5", -1, 2, float("nan"), True, [0.5]])
def test_a_target_that_is_no_level_is_left_out(tmp_path: Path, target: object) -> None:
    run = read_run(run_of(tmp_path, (40, 80), {"target": target, "dims": [7]}).path)
    assert (run.layers["fc.weight"].target, run.layers["fc.weight"].dims) == (None, (0, 1))
    run.metrics.updates.clear()
    assert "target" not in [c.key for c in layer_table([run]).without_empty_columns().columns]
