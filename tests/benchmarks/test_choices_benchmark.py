"""The comparison of distributions and structures: its cases, its results file, its tables."""

import xml.etree.ElementTree as ElementTree

import choices
import choices_picture
import choices_tables
import harness
import picture
import pytest
import yaml
from methods import configuration

import sparsewright as sparse
from helpers.image_files import write_images
from sparsewright.runs.config import RECIPES

FOLDER = harness.RESULTS.parent


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measure LeNet with one seed; return the configuration file and the page with the tables."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    write_images(tmp_path, 40, 20)
    config = tmp_path / "config.yaml"
    sections = {
        "recipe": "fashion",
        "data": {"dir": str(tmp_path)},
        "model": {"hidden1": 32, "hidden2": 16},
        "loop": {"steps": 4, "batch_size": 8, "warmup": 1, "threads": 1},
    }
    config.write_text(yaml.safe_dump(sections))
    page = tmp_path / "page.md"
    parts = ("distributions", "structures")
    page.write_text(
        "".join(f"<!-- fashion {x} -->\nold\n<!-- end fashion {x} -->\n" for x in parts)
    )
    measure(config, page, "0")
    return config, page


def measure(config, page, seeds):
    options = [str(config), "--seeds", seeds, "--write", str(page)]
    choices.main(options, standalone_mode=False)


def test_measures_every_case_once_and_writes_the_tables(measured):
    config, page = measured
    first = choices.read("choices-fashion")
    assert len(first) == len(list(choices.cases())) == 87
    measure(config, page, "0,1")
    rows = choices.read("choices-fashion")
    assert rows[:87] == first
    assert {row["seed"] for row in rows[87:]} == {"1"}
    assert len(rows) == 2 * 87
    text = page.read_text()
    assert "old" not in text
    assert "Seeds: 2." in text
    case = {"part": "structures", "method": "rigl", "choice": "4x4 blocks", "level": "0.9"}
    mean = sum(50 * float(row["accuracy"]) for row in rows if case.items() <= row.items())
    table = text.partition("<!-- fashion structures -->")[2].partition("| RigL |")[2]
    line = next(line for line in table.splitlines() if line.startswith("| 4x4 blocks |"))
    assert line.split("|")[3].startswith(f" {mean:.2f} ± ")


@pytest.mark.parametrize("recipe", ["charlm", "fashion"])
def test_cases_of_one_level_have_equal_budgets(recipe):
    config = configuration(None, FOLDER / f"choices-{recipe}.yaml", 0)
    sizes = {"distributions": set(), "structures": set()}
    for case in choices.cases():
        if case.method != "rigl":  # GMP starts dense
            continue
        model, _ = RECIPES[recipe].outline(config.data, config.model, config.loop)
        group = sparse.configure(case.section(config))
        group.apply(model)
        weights = list(group.sparse_params.values())
        total, kept = sum(w.mask.numel() for w in weights), sum(w.kept for w in weights)
        sizes[case.part].add(total)
        budget = (1 - case.level) * total
        if case.choice == "16x16 blocks":
            units = sum(int((1 - case.level) * (w.mask.numel() // 256) + 1e-9) for w in weights)
            assert kept == 256 * units
        else:
            assert 0.8 * budget <= kept <= budget + len(weights)  # ERK rounds the pruned entries
    assert all(len(found) == 1 for found in sizes.values())
    assert max(sizes["distributions"]) > max(sizes["structures"])  # by the output layer


def rows_of(seeds):
    """Return a made-up row for each case: the loss is 1 + level, 0.1 more for channels."""
    rows = []
    for seed in seeds:
        for case in choices.cases():
            loss = 1 + case.level + 0.1 * (case.choice == "channels") + 0.01 * int(seed)
            kept = "0 10 10" if case.choice == "channels" else "10 10 10"
            rows.append(
                {
                    "seed": seed,
                    "part": case.part,
                    "method": case.method,
                    "choice": case.choice,
                    "level": str(case.level),
                    "loss": str(loss),
                    "accuracy": str(loss / 2),
                    "kept": kept,
                    "entries": "100 100 100",
                    "cpu_s": "1.0",
                }
            )
    return rows


def test_tables_compare_paired_seeds_and_count_empty_layers():
    text = choices_tables.tables(rows_of("01"), "fashion")["structures"]
    differences = text.partition("RigL minus unstructured | 80% |")[2]
    line = next(line for line in differences.splitlines() if line.startswith("| channels |"))
    assert line.split("|")[2:6] == [" +5.00 ± 0.00 "] * 4
    assert "| channels | 93.33%, 1 empty |" in text
    assert "| 1:4, 75% | 87.75 ± 0.35 | +0.00 ± 0.00 |" in text


def test_tables_use_only_seeds_that_have_every_case():
    rows = rows_of("01")
    assert "Seeds: 1." in choices_tables.tables(rows[:-1], "fashion")["structures"]


@pytest.mark.parametrize("theme", picture.THEMES)
def test_draws_a_panel_for_each_table(theme, tmp_path):
    found = {"fashion": choices_tables.Found(rows_of("01"), "fashion")}
    path = tmp_path / "picture.svg"
    choices_picture.draw(found, theme, path)
    for svg in (path, picture.FOLDER / f"choices-{theme}.svg"):
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert svg.stat().st_size < 250_000
    drawn = path.read_bytes()
    choices_picture.draw(found, theme, path)
    assert path.read_bytes() == drawn  # no date, no random ids


def test_points_of_the_picture_are_means_over_the_seeds():
    found = choices_tables.Found(rows_of("02"), "fashion")
    levels, means, spreads = choices_picture.curve(found, "structures", "gmp", "channels")
    assert levels == list(choices.LEVELS)
    assert means == pytest.approx([1.11 + level for level in levels])
    assert spreads == pytest.approx([0.02 / 2**0.5] * 4)
