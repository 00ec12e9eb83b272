"""The command `sparsewright plan`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from helpers.cli_process import Command
from helpers.planned import ENTRY, as_json, lines_of
from helpers.processes import shown_on_a_terminal
from sparsewright.layers import kind_of


def index_bytes(rows: int, cols: int, kept: int) -> int:
    kind = kind_of(torch.nn.Linear(1, 1))
    assert kind is not None
    return kind.cost((rows, cols), kept, torch.float32).index_bytes


def test_plan_of_a_train_config_is_what_the_run_does(command: Command) -> None:
    section = [
        {
            "algorithm": "rigl",
            "param_filter": "*.mlp.*weight",
            "sparsity": 0.95,
            "update": {"freq": 4, "stop": 15},
            "balance_out_groups": 4,
        },
        {
            "algorithm": "gmp",
            "param_filter": "*.attention.*weight",
            "sparsity": {"type": "cubic", "init": 0.0, "final": 0.8, "begin": 2, "end": 12},
            "update": {"freq": 3, "start": 3, "stop": 16},
        },
    ]
    path = command.config(sparsity=section)
    planned = as_json(command("plan", path, "--json"))
    assert command("train", path, "--out", "run", "--no-baseline").status == 0
    result = json.loads((command.folder / "run/result.json").read_text())
    kept = {layer["name"]: layer["kept"] for layer in result["layers"]}
    sparse = {p["name"]: p for p in planned["parameters"] if p["entry"]}
    assert {name: p["kept_at_end"] for name, p in sparse.items()} == kept
    assert sparse["blocks.0.attention.qkv.weight"]["kept_at_start"] == 48 * 16
    lines = (command.folder / "run/metrics.jsonl").read_text().splitlines()
    updates = [line for line in map(json.loads, lines) if line["event"] == "mask_update"]
    for name, index in (("blocks.0.mlp.0.weight", 0), ("blocks.0.attention.qkv.weight", 1)):
        steps = [line["step"] for line in updates if line["name"] == name]
        entry = planned["entries"][index]
        assert [entry["updates"], entry["first_update"], entry["last_update"]] == [
            *(len(steps), steps[0], steps[-1])
        ]
        level = dict(entry["level"])
        for line in updates:
            if line["name"] == name:
                assert level[line["step"]] == pytest.approx(line["target"])
    assert planned["steps"] == 20


def test_tables_name_every_parameter_and_why_it_stays_dense(command: Command) -> None:
    done = command("plan", command.config(), "--all")
    assert done.status == 0, done.err
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if line.strip()}
    assert rows["blocks.0.mlp.0.weight"] == [
        *("blocks.0.mlp.0.weight", "64x16", "sparsity", "102", "102", "0.9004")
    ]
    assert "it is an embedding" in " ".join(rows["token_embedding.weight"])
    assert "it belongs to a normalization layer" in " ".join(rows["blocks.0.mlp_norm.weight"])
    assert re.search(r"^  level +9{21} 0.900 -> 0.900$", done.out, re.MULTILINE)
    assert re.search(r"^  drop +[0-9 ]{21} 0.\d+ -> 0.\d+$", done.out, re.MULTILINE)
    assert "starts sparse; has 14 mask updates, after steps 1 to 14" in done.out
    assert done.out.isascii()
    assert not (command.folder / "runs").exists()


def test_biases_and_norms_are_listed_only_if_asked_for(command: Command) -> None:
    config = command.config()
    full, short = command("plan", config, "--all").out, command("plan", config).out
    reasons = "at most one of its dimensions", "it belongs to a normalization layer"
    lines = [line for line in full.splitlines() if line.strip() != "than 1"]  # a wrapped cell
    hidden = [line.split() for line in lines if any(reason in line for reason in reasons)]
    total = sum(int(line[1]) for line in hidden)
    (row,) = [line for line in short.splitlines() if "--all" in line]
    assert row.split()[:5] == [str(len(hidden)), "biases,", "norms,", "...", "-"]
    assert row.split()[5] == str(total)
    shown = [line for line in lines if not any(reason in line for reason in reasons)]
    assert [line.split() for line in short.splitlines() if "--all" not in line] == [
        line.split() for line in shown
    ]


def test_the_section_alone_the_whole_file_and_a_model_zoo_file(plan) -> None:
    for content in (ENTRY, {"sparsity": ENTRY}, {"trainer": {"init": {"sparsity": ENTRY}}}):
        planned = as_json(plan(content, "models:mlp", "--json"))
        assert planned["steps"] == 1000
        assert planned["entries"][0]["updates"] == 9
        assert {p["name"]: p["kept_at_end"] for p in planned["parameters"]} == {
            "0.weight": 20,
            "0.bias": 20,
            "2.weight": 8,
            "2.bias": 4,
        }
    assert as_json(plan("0.5", "models:mlp", "--json"))["entries"][0]["algorithm"] == (
        "Static(sparsity=0.5)"
    )
    section = {"loop": {"steps": 50}, "sparsity": [ENTRY]}
    assert as_json(plan(section, "models:mlp", "--json"))["steps"] == 50
    assert as_json(plan(section, "models:mlp", "--json", "--steps", 70))["steps"] == 70


def test_a_third_is_a_third(plan) -> None:
    third = {"algorithm": "static", "sparsity": 1 / 3}
    planned = as_json(plan(third, "models:thirds", "--json"))
    assert planned["parameters"][0]["kept_at_end"] == 200
    scheduled = {"type": "cubic", "init": 0.0, "final": 0.9, "begin": 0, "end": 5}
    gmp = {"algorithm": "gmp", "sparsity": scheduled, "update": 5}
    assert as_json(plan(gmp, "models:mlp", "--json"))["parameters"][0]["kept_at_end"] == 20


def test_costs(plan) -> None:
    planned = as_json(plan(ENTRY, "models:with_inputs", "--json"))
    forward = 2 * 8 * (200 + 80)
    kept = 2 * 8 * (20 + 8)
    assert planned["flops"] == {
        "dense": 3 * forward,
        "start": pytest.approx(3 * kept),
        "last update": pytest.approx(2 * kept + forward),
        "end": pytest.approx(3 * kept),
        "mean": pytest.approx(3 * kept + 9 / 1000 * (forward - kept)),  # 9 of 1000 steps
    }
    assert planned["bytes"] == {
        "dense": 16 * 304,
        "start": 16 * 304 + 280,
        "last update": 16 * 304 + 280 + 4 * 280,
        "end": 16 * 304 + 280,
    }
    compressed = as_json(plan({**ENTRY, "storage": "compressed"}, "models:with_inputs", "--json"))
    index = index_bytes(20, 10, 20) + index_bytes(4, 20, 8)
    assert compressed["bytes"]["end"] == 16 * 24 + 28 * 16 + index
    without = as_json(plan(ENTRY, "models:mlp", "--json"))
    assert without["flops"]["dense"] == 3 * 2 * 280
    assert "return (model, inputs) from the factory" in " ".join(without["notes"])


def test_factories_that_need_numbers_lazy_ones_and_modules(plan) -> None:
    looked = as_json(plan(ENTRY, "models:looks_at_numbers", "--json"))
    assert looked["flops"] == as_json(plan(ENTRY, "models:with_inputs", "--json"))["flops"]
    lazy = as_json(plan(ENTRY, "models:lazy", "--json"))
    assert lazy["parameters"][0]["shape"] == [20, 10]
    assert as_json(plan(ENTRY, "models:ready", "--json"))["parameters"][0]["kept_at_end"] == 2


def test_tied_weights_count_once_and_frozen_ones_have_no_gradient(plan) -> None:
    section = {"algorithm": "rigl", "sparsity": 0.9, "param_filter": "body.*", "update": 100}
    planned = as_json(plan(section, "models:Tied", "--json"))
    # The tied weight has a gradient and two moments; the frozen weight has only a mask.
    assert planned["bytes"]["dense"] == 100 * 16 + 100 * 4
    assert planned["bytes"]["start"] == planned["bytes"]["last update"] == 100 * 16 + 100 * 5
    rows = [line.split() for line in plan(section, "models:Tied").out.splitlines()]
    (row,) = [row for row in rows if row[:1] == ["all"] and row[1] != "sparse"]
    assert row[:3] == ["all", "110", "110"]
    # 2 x 8 x 100 per pass: two products of three passes (tied), one of two passes (frozen).
    product, share = 2 * 8 * 100, 0.1
    tied = as_json(plan(section, "models:tied_with_inputs", "--json"))
    assert tied["flops"]["dense"] == product * (2 * 3 + 2)
    for phase in ("start", "last update", "end"):
        assert tied["flops"][phase] == pytest.approx(product * (2 * 3 + share * 2)), phase
    embed = as_json(
        plan({**section, "param_filter": "embed.*"}, "models:tied_with_inputs", "--json")
    )
    assert embed["flops"]["last update"] == pytest.approx(product * (2 * (2 * share + 1) + 2))
    compressed = as_json(plan({**section, "storage": "compressed"}, "models:Tied", "--json"))
    assert compressed["bytes"]["end"] == 100 * 16 + 10 * 4 + index_bytes(10, 10, 10)
    (line,) = lines_of(plan({**section, "param_filter": "head.*"}, "models:Tied"))
    assert line.endswith(" head.weight is tied to embed.weight; match that name instead.")


@pytest.mark.parametrize("model", ["models:compiled", "models:averaged"])
def test_names_are_those_without_wrappers(plan, model: str) -> None:
    planned = as_json(plan(ENTRY, model, "--json"))
    assert planned["flops"] == as_json(plan(ENTRY, "models:with_inputs", "--json"))["flops"]
    (line,) = lines_of(plan([], model))
    assert "param_filter matches at least one of 0.weight, 2.weight; got []." in line


def test_a_model_larger_than_memory(plan) -> None:
    planned = as_json(plan(ENTRY, "models:huge", "--json"))
    assert planned["bytes"]["dense"] == 16 * 32 * 16384 * 65536
    assert sum(p["total"] for p in planned["parameters"]) == 2**35


def test_an_algorithm_of_the_users_own(plan) -> None:
    mine = {"algorithm": "Mine", "sparsity": 0.5, "update": 3, "rate": 1}
    assert as_json(plan(mine, "models:mlp", "--json"))["entries"][0]["updates"] == 333
    found = lines_of(plan({**mine, "rate": 2, "update": 0}))
    assert len(found) == 2
    assert "must be an integer >= 1; got 0." in found[0]
    assert found[1] == "error: sparsity: ValueError: rate 2 is too high"
    (line,) = lines_of(plan({"algorithm": "Mine", "sparsity": 0.5}))
    assert "TypeError" in line
    assert "rate" in line


def test_older_spellings_warn_and_are_planned(plan) -> None:
    old = {"type": "gmp", "param_name_patterns": "0", "sparsity_schedule": [[0, 0.1], [5, 0.5]]}
    done = plan(old, "models:mlp", "--json")
    assert as_json(done)["entries"][0]["level"][-1] == [5, 0.5]
    assert "warning: the keys param_name_patterns" in done.err


def test_masks_that_depend_on_the_weights_are_not_guessed(plan) -> None:
    planned = as_json(plan({**ENTRY, "init_method": "from_zeros"}, "models:mlp", "--json"))
    assert planned["parameters"][0]["kept_at_start"] is None
    assert planned["parameters"][0]["kept_at_end"] == 20
    static = {"algorithm": "static", "init_method": "from_zeros"}
    assert " ? " in plan(static).out


@pytest.mark.usefixtures("plan")
def test_a_terminal_gets_blocks_that_fit_unless_it_wants_none(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(ENTRY))
    command = ["plan", "c.yaml", "--model", "models:mlp"]
    shown = shown_on_a_terminal(command, tmp_path, columns=80)
    (level,) = [line for line in shown.splitlines() if line.startswith("  level")]
    assert "█" in level
    assert len(level) <= 80
    plain = shown_on_a_terminal(command, tmp_path, columns=80, NO_COLOR="1")
    assert plain.isascii()
    assert "9" * 51 in plain
