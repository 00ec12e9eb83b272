"""Test tables against counts over the masks, and their export as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.report_runs import WrittenRun, random_masks, write_run
from sparsewright.report import exports, tables
from sparsewright.report.read import Run, read_runs

SHAPES = {"conv.weight": (6, 3, 2, 2), "fc|.weight": (9, 20)}


def make(path: Path, seed: int, names: str = "") -> WrittenRun:
    masks = {step: random_masks(SHAPES, 0.85, seed + step, names) for step in (0, 5, 10)}
    for by_name in masks.values():
        for mask in by_name.values():
            mask[2] = False
            mask[:, 1] = False
    return write_run(path, masks)


@pytest.fixture
def written(tmp_path: Path) -> list[WrittenRun]:
    return [make(tmp_path / "a", 0), make(tmp_path / "b", 100)]


@pytest.fixture
def runs(written: list[WrittenRun]) -> list[Run]:
    return read_runs([run.path for run in written])


def test_layers(written: list[WrittenRun], runs: list[Run]) -> None:
    rows = {(row["run"], row["layer"]): row for row in tables.layer_table(runs).rows}
    assert len(rows) == 4
    for run in written:
        for name, shape in SHAPES.items():
            row, masks = rows[run.path.name, name], [run.masks[s][name] for s in (0, 5, 10)]
            flat = [mask.reshape(len(mask), -1) for mask in masks]
            grown = [(b & ~a) for a, b in itertools.pairwise(flat)]
            assert row["shape"] == "×".join(map(str, shape))
            assert row["kept"] == masks[-1].sum()
            assert row["sparsity"] == pytest.approx(1 - masks[-1].mean())
            assert row["updates"] == 2
            assert row["grown"] == sum(x.sum() for x in grown)
            assert row["dropped"] == sum((a & ~b).sum() for a, b in itertools.pairwise(flat))
            churn = [(a ^ b).sum() / b.sum() for a, b in itertools.pairwise(flat)]
            assert row["churn"] == pytest.approx(np.mean(churn))
            assert row["dead_rows"] == (~flat[-1].any(axis=1)).sum() >= 1
            assert row["dead_columns"] == (~flat[-1].any(axis=0)).sum() >= 1
            assert row["never_grown_rows"] == (~(grown[0] | grown[1]).any(axis=1)).sum() >= 1
            both, either = (masks[0] & masks[2]).sum(), (masks[0] | masks[2]).sum()
            assert row["since_first"] == pytest.approx(both / either)


def test_choices_of_layers_and_runs(tmp_path: Path, runs: list[Run]) -> None:
    assert not {"distribution", "structure", "storage"} & {
        column.key for column in tables.layer_table(runs).without_empty_columns().columns
    }
    masks = {step: random_masks(SHAPES, 0.5, step) for step in (0, 5)}
    choices = {
        "conv.weight": {"distribution": "erk", "structure": "", "storage": "masked"},
        "fc|.weight": {"structure": "NM(2, 4)", "storage": "shadowed", "algorithm": "STE"},
    }
    path = write_run(tmp_path / "chosen", masks, choices=choices).path
    found = read_runs([path])
    rows = {row["layer"]: row for row in tables.layer_table(found).rows}
    kinds = ("algorithm", "distribution", "structure", "storage")
    assert [rows["conv.weight"][kind] for kind in kinds] == ["RigL", "erk", None, "masked"]
    assert [rows["fc|.weight"][kind] for kind in kinds] == ["STE", None, "NM(2, 4)", "shadowed"]
    (row,) = tables.summary_table(found).rows
    assert [row["methods"], *(row[kind] for kind in kinds[1:])] == [
        *("RigL, STE", "erk", "NM(2, 4)", "masked, shadowed"),
    ]
    content = json.loads(exports.to_json(found))
    assert [paper["arxiv"] for paper in content["citations"]] == ["1911.11134", "1308.3432"]


def test_an_algorithm_of_ones_own_is_cited_by_the_paper_that_it_names(tmp_path: Path) -> None:
    masks = {0: random_masks(SHAPES, 0.5, 0), 5: random_masks(SHAPES, 0.5, 1)}
    choices = {"conv.weight": {"algorithm": "Mine", "paper": "arXiv:2102.04010"}}
    run = write_run(tmp_path / "run", masks, algorithm="Yours", choices=choices)
    content = json.loads(exports.to_json(read_runs([run.path])))
    assert content["without_paper"] == [
        "Mine: arXiv:2102.04010",
        "Yours: a custom method that names no paper.",
    ]


def test_layers_of_a_killed_run_are_those_of_its_checkpoint(written: list[WrittenRun]) -> None:
    (finished,) = read_runs([written[0].path])
    with (written[0].path / "metrics.jsonl").open("a") as file:
        for lines in finished.metrics.updates.values():
            file.write(json.dumps(lines[-1] | {"step": 13, "target": 0.99}) + "\n")
    (killed,) = read_runs([written[0].path])
    assert killed.metrics.updates["fc|.weight"][-1]["step"] == 13
    assert tables.layer_table([killed]).rows == tables.layer_table([finished]).rows


def test_overlap_between_runs(written: list[WrittenRun], runs: list[Run]) -> None:
    rows = tables.overlap_table(runs).rows
    assert [(row["run"], row["other"], row["layer"]) for row in rows] == [
        ("a", "b", name) for name in SHAPES
    ]
    for row in rows:
        a, b = (run.masks[10][row["layer"]] for run in written)
        assert row["both"] == (a & b).sum()
        assert row["jaccard"] == pytest.approx((a & b).sum() / (a | b).sum())
        expected = a.sum() * b.sum() / a.size
        assert row["chance"] == pytest.approx(expected / (a.sum() + b.sum() - expected))


def test_layers_that_differ_are_not_compared(tmp_path: Path, written: list[WrittenRun]) -> None:
    other = make(tmp_path / "c", 5, "x.")
    runs = read_runs([written[0].path, other.path])
    assert tables.overlap_table(runs).rows == []
    assert len(tables.layer_table(runs).rows) == 4


def test_of_many_runs_each_is_compared_with_the_first(tmp_path: Path) -> None:
    runs = read_runs([make(tmp_path / f"r{n}", n).path for n in range(6)])
    assert [(a.name, b.name) for a, b in tables.pairs(runs[:4])] == [
        ("r0", "r1"), ("r0", "r2"), ("r0", "r3"), ("r1", "r2"), ("r1", "r3"), ("r2", "r3"),
    ]  # fmt: skip
    assert [(a.name, b.name) for a, b in tables.pairs(runs)] == [
        ("r0", f"r{n}") for n in range(1, 6)
    ]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = read_runs([make(tmp_path / part / "run", 0).path for part in ("x", "y")])
    assert [run.name for run in runs] == [str(tmp_path / "x/run"), str(tmp_path / "y/run")]


def test_csv_has_exact_numbers(written: list[WrittenRun], runs: list[Run]) -> None:
    rows = list(csv.DictReader(io.StringIO(exports.to_csv(runs))))
    assert [row["run"] for row in rows] == ["a", "a", "b", "b"]
    for row in rows:
        mask = written["ab".index(row["run"])].masks[10][row["layer"]]
        assert int(row["kept"]) == mask.sum()
        assert float(row["sparsity"]) == pytest.approx(1 - mask.mean(), abs=1e-15)


def test_json_has_everything(runs: list[Run]) -> None:
    content = json.loads(exports.to_json(runs))
    assert [run["run"] for run in content["runs"]] == ["a", "b"]
    assert len(content["layers"]) == 4
    assert len(content["overlap_between_runs"]) == 2
    assert [paper["arxiv"] for paper in content["citations"]] == ["1911.11134"]
    details = content["details"]["a"]
    assert [line["step"] for line in details["steps"]] == list(range(1, 11))
    assert {line["step"] for line in details["mask_updates"]} == {5, 10}
    assert details["versions"][0]["versions"]["python"] == "3.12.1"
    assert "rigl" in details["config"]


def test_markdown_tables_are_whole(runs: list[Run]) -> None:
    text = exports.to_markdown(runs)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        # A bar in a name must not start a new cell.
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert "fc\\|.weight" in text
    assert "<https://arxiv.org/abs/1911.11134>" in text


def test_speed_and_memory(tmp_path: Path) -> None:
    masks = {0: random_masks(SHAPES, 0.5, 0), 20: random_masks(SHAPES, 0.5, 1)}
    extra = {"tokens_per_second": 500, "peak_memory_bytes": 3_000_000, "lr": 0.1}
    run = write_run(tmp_path / "run", masks, extra=extra)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "step":
            line["tokens_per_second"] = 100 * line["step"]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = {row["what"]: row for row in tables.speed_table(read_runs([run.path])).rows}
    assert set(rows) == {"tokens per second", "peak memory bytes"}
    speed = rows["tokens per second"]
    assert (speed["median"], speed["low"], speed["high"], speed["most"]) == (1050, 300, 1800, 2000)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"algorithm": "set"}, ["set"]),
        ([{"algorithm": "gmp"}, {"algorithm": "static"}, {"algorithm": "gmp"}], ["gmp", "static"]),
        (0.5, []),
        ([1, {"algorithm": 3}], []),
    ],
)
def test_methods_of_a_run_without_snapshots(
    tmp_path: Path, section: object, expected: list[str]
) -> None:
    run = write_run(
        tmp_path / "run", {0: random_masks(SHAPES, 0.5, 0)}, config={"sparsity": section}
    )
    (run.path / "masks/000000.safetensors").unlink()
    assert tables.methods(read_runs([run.path])[0]) == expected
