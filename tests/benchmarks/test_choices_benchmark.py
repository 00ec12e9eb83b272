"""The comparison of distributions and structures: its cases, its results file, its tables."""

import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import choices
import choices_picture
import choices_tables
import choices_why
import harness
import picture
import pytest
import torch
import yaml
from methods import configuration

import sparsewright as sparse
from helpers.image_files import write_images
from sparsewright.runs.config import RECIPES

FOLDER = harness.RESULTS.parent


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """Measure LeNet with one seed, and return the configuration file."""
    folder = tmp_path_factory.mktemp("measured")
    write_images(folder, 40, 20)
    config = folder / "config.yaml"
    sections = {
        "recipe": "fashion",
        "data": {"dir": str(folder)},
        "model": {"hidden1": 32, "hidden2": 16},
        "loop": {"steps": 4, "batch_size": 8, "warmup": 1, "threads": 1},
    }
    config.write_text(yaml.safe_dump(sections))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "RESULTS", folder)
        choices.main([str(config), "--seeds", "0"], standalone_mode=False)
    return config


@pytest.fixture
def measured(lenet, monkeypatch):
    """Return the configuration file, and let the scripts find its results."""
    monkeypatch.setattr(harness, "RESULTS", lenet.parent)
    return lenet


def written(main, config, seeds, folder, *parts):
    """Run a command for some seeds; return the page that it wrote."""
    page = folder / "page.md"
    page.write_text("".join(f"<!-- {x} -->\nold\n<!-- end {x} -->\n" for x in parts))
    main([str(config), "--seeds", seeds, "--write", str(page)], standalone_mode=False)
    text = page.read_text()
    assert "old" not in text
    return text


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_measures_every_case_once_and_writes_the_tables(measured, tmp_path):
    first = choices.read("choices-fashion")
    assert len(first) == len(list(choices.cases())) == 87
    parts = ("fashion distributions", "fashion structures")
    text = written(choices.main, measured, "0,1", tmp_path, *parts)
    rows = choices.read("choices-fashion")
    assert rows[:87] == first
    assert [row["seed"] for row in rows[87:]] == ["1"] * 87
    case = {"part": "structures", "method": "rigl", "choice": "4x4 blocks", "level": "0.9"}
    mean = sum(50 * float(row["accuracy"]) for row in rows if case.items() <= row.items())
    table = text.partition("<!-- fashion structures -->")[2].partition("| RigL |")[2]
    assert line_of(table, "| 4x4 blocks |").split("|")[3].startswith(f" {mean:.2f} ± ")


def test_explains_with_the_runs_of_both_files(measured, tmp_path):
    text = written(choices_why.main, measured, "0", tmp_path, "fashion why")
    rows = choices.read("why-fashion")
    assert len(rows) == len(choices_why.CASES["fashion"])
    accuracy = {
        row["choice"]: 100 * float(row["accuracy"])
        for row in rows
        if (row["method"], row["level"]) == ("set", "0.75")
    }
    difference = accuracy["1:4"] - accuracy["unstructured"]
    assert line_of(text, "| 1:4, 75% |").split("|")[2] == f" {difference:+.2f} ± 0.00 "
    written(choices_why.main, measured, "0", tmp_path, "fashion why")
    assert choices.read("why-fashion") == rows


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


@pytest.mark.parametrize("recipe", ["charlm", "fashion"])
def test_tables_on_the_page_are_those_of_the_results(recipe):
    page = (picture.FOLDER.parent / "choices.md").read_text()
    rows = choices.read(f"choices-{recipe}")
    for part, text in choices_tables.tables(rows, recipe).items():
        assert text in page, part
    found = choices_tables.Found(rows + choices.read(f"why-{recipe}"), recipe)
    assert choices_why.tables(found) in page
    assert len(found.seeds) == 5


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
    assert line_of(differences, "| channels |").split("|")[2:6] == [" +5.00 ± 0.00 "] * 4
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


def test_counts_values_that_the_projection_reads():
    qkv, proj = torch.zeros(12, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    qkv[:8] = True  # queries and keys do not count
    qkv[[8, 9, 10], [0, 1, 1]] = True  # the values 0, 1 and 2
    proj[0, [1, 2, 3]] = True
    masks = {
        f"blocks.{i}.attention.{n}.weight": m
        for i in (0, 1)
        for n, m in (("qkv", qkv), ("proj", proj))
    }
    assert choices_why.live_values(masks) == 2 * 2


def test_measures_the_text_that_no_connection_reaches():
    mask = torch.tensor([[True, False], [False, False], [False, True]])
    targets = torch.tensor([[0, 1, 1, 2], [0, 0, 0, 1]])
    task = SimpleNamespace(batch=lambda step: (None, targets))
    assert choices_why.unreached(mask, task) == pytest.approx(3 / 8)


def test_explanations_of_the_language_model_are_tables():
    rows = rows_of("01")
    for case in choices_why.CASES["charlm"]:
        for seed in "01":
            row = {**vars(case), "seed": seed, "level": str(case.level), "loss": "2", "cpu_s": "1"}
            row |= {"kept": "3 5", "entries": "9 9", "outputs": "4", "unreached": "0.25"}
            rows.append(row | {"values": str(3 + int(seed))})
    text = choices_why.tables(choices_tables.Found(rows, "charlm"))
    assert "| RigL, erk | 2.0000 ± 0.0000 | 5 | 4 | 25% |" in text
    assert "| GMP, channels | 2.0000 ± 0.0000 | 3.5 | 3 |" in text
    assert "| Static, fan-in | 2.0000 ± 0.0000 | +0.0000 ± 0.0000 |" in text
    assert "| RigL, fan-in | 1.9050 ± 0.0071 | +0.0000 ± 0.0000 |" in text
    assert "| Static minus dense | +0.9950 ± 0.0050 |" in text
    assert "| lamp minus uniform | +0.0450 ± 0.0050 | +0.0150 ± 0.0050 |" in text
