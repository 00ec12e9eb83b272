"""Test plans for every combination of choices against training."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim import SGD

import sparsewright as sparse
from helpers.choices import ALGORITHMS, DISTRIBUTIONS, STRUCTURES, config_of, own_storage, why_not
from helpers.plan_models import small_with_weights
from helpers.support import batch
from sparsewright.core.counts import num_kept
from sparsewright.plan.contents import Plan
from sparsewright.plan.phases import bytes_of_steps, flops_of_steps
from sparsewright.plan.plan_config import Problem, plan_file
from sparsewright.plan.view import as_json, print_plan

STEPS = 7
MORE = [
    ("set", None, {"type": "uniform", "dense": "2.*"}),
    ("set", None, {"type": "global", "minimum": 0.1}),
    ("gmp", {"type": "groups", "outputs": 2}, {"type": "global", "normalize": "l2"}),
]
COMBINATIONS = [
    (name, STRUCTURES[structure], DISTRIBUTIONS[distribution])
    for name, structure, distribution in itertools.product(ALGORITHMS, STRUCTURES, DISTRIBUTIONS)
    if not why_not(name, STRUCTURES[structure], DISTRIBUTIONS[distribution], own_storage(name))
] + MORE


def plan_of(folder: Path, section: object, model: str, steps: int = STEPS):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(section))
    return plan_file(path, f"helpers.plan_models:{model}", steps)


def planned(folder: Path, section: object, model: str = "small") -> Plan:
    plan, problems = plan_of(folder, section, model)
    assert plan is not None, problems
    return plan


class Trained:
    """Train a section, and record storages and live connections before and after training."""

    def __init__(self, section: object) -> None:
        model, inputs = small_with_weights()
        group = sparse.configure(section)
        group.apply(model)
        params = group.sparse_params
        start = {name: p.kept for name, p in params.items()}
        optimizer = SGD(model.parameters(), 0.05)
        group.apply(optimizer)
        for step in range(STEPS):
            optimizer.zero_grad()
            model(batch(step, *inputs.shape)).square().mean().backward()
            optimizer.step()
        self.kept = {name: (start[name], p.kept) for name, p in params.items()}
        self.totals = tuple(map(sum, zip(*self.kept.values(), strict=True)))
        self.storages = {name: p.storage.name for name, p in params.items()}


@pytest.mark.parametrize(("name", "structure", "distribution"), COMBINATIONS, ids=str)
def test_a_plan_is_what_training_does(
    tmp_path: Path, name: str, structure: object, distribution: object
) -> None:
    section = config_of(name, structure=structure, distribution=distribution)
    trained = Trained(section)
    for model in ("small", "small_with_weights"):
        plan = planned(tmp_path, section, model)
        (entry,) = plan.entries
        forecast, made = entry.forecast, entry.algorithm.distribution
        # Counts that depend on values are known before the first step, for real weights only.
        is_there = model == "small_with_weights" and forecast.starts_sparse
        is_fixed = not forecast.updates or isinstance(section["sparsity"], float)
        known = (
            not made.needs_weights or is_there or not forecast.starts_sparse,
            not made.needs_weights or (is_there and is_fixed),
        )
        if entry.algorithm.structure.num_kept(torch.Size([8, 8]), 0.5) is None:
            known = not forecast.starts_sparse, False
        assert {w.name: w.kept for w in plan.sparse} == {
            weight: tuple(n if k else None for n, k in zip(kept, known, strict=True))
            for weight, kept in trained.kept.items()
        }
        is_plain = entry.algorithm.structure.name == "unstructured"
        has_total = (known[0] or is_plain, known[1] or is_plain)
        assert entry.kept == tuple(
            n if k else None for n, k in zip(trained.totals, has_total, strict=True)
        )
        storages = {w.name: w.storage.name for w in plan.sparse if w.storage}
        assert storages == trained.storages


@pytest.mark.parametrize(
    ("distribution", "reasons"),
    [
        ("uniform", ["", "", ""]),
        ({"type": "uniform", "dense": "2.*"}, ["by uniform", "dense: matches '2.*'", "by uniform"]),
        ("erk", ["by erk", "by erk", "by erk"]),
        (
            {"type": "er", "epsilon": 3, "dense": ["4.*", "0.*"]},
            [
                "dense: matches '0.*'",
                "dense: its er density would exceed 1",
                "dense: matches '4.*'",
            ],
        ),
        ("uniform_plus", ["by uniform_plus"] * 3),
        ("lamp", ["by lamp"] * 3),
        ({"layers": {"4.*": 0.25}}, ["", "", "matches '4.*'"]),
    ],
    ids=str,
)
def test_a_plan_gives_the_reason_for_each_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], distribution: object, reasons: list[str]
) -> None:
    section = {"algorithm": "static", "sparsity": 0.75, "distribution": distribution}
    plan = planned(tmp_path, section)
    assert [weight.why_level for weight in plan.sparse] == reasons
    shown = [w["level_because"] for w in as_json(plan)["parameters"] if w["entry"]]
    assert shown == reasons
    print_plan(plan)
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for weight in plan.sparse:
        assert lines[weight.name].rstrip().endswith(weight.why_level or "0.7500")


def test_a_plan_names_the_layers_that_uniform_plus_spares(tmp_path: Path) -> None:
    named = {"param_filter": "*.weight", "distribution": "uniform_plus"}
    for level, last in ((0.8, "last layer: keeps 20%"), (0.5, "by uniform_plus")):
        section = {"algorithm": "static", "sparsity": level, **named}
        plan = planned(tmp_path, section, "conv_first")
        reasons = [weight.why_level for weight in plan.sparse]
        assert reasons == ["dense: first layer, a convolution", "by uniform_plus", last]


def test_a_plan_notes_a_level_that_is_not_used(tmp_path: Path) -> None:
    er = {"type": "er", "epsilon": 2}
    plan = planned(tmp_path, {"algorithm": "static", "sparsity": 0.75, "distribution": er})
    note = "sparsity: ER(epsilon=2, dense=(), budget='each') sets the level of each weight; "
    assert note + "the entry's sparsity is not used" in plan.notes
    plan = planned(tmp_path, {"algorithm": "static", "distribution": er})
    assert not [text for text in plan.notes if text.startswith(note)]
    (entry,) = plan.entries
    assert as_json(plan)["entries"][0]["level"] == []
    assert entry.kept == (sum(w.kept[0] for w in plan.sparse),) * 2


def test_a_weight_that_the_structure_does_not_fit_stays_dense_or_is_an_error(
    tmp_path: Path,
) -> None:
    section = {"algorithm": "static", "structure": "2:4"}
    weights = {w.name: w for w in planned(tmp_path, section).weights}
    reason = "its input dimension 2 is not divisible by m = 4"
    assert (weights["2.weight"].entry, weights["2.weight"].reason) == (None, reason)
    _, problems = plan_of(tmp_path, {**section, "param_filter": "*.weight"}, "small")
    expected = f"2.weight of shape (6, 2, 3): {reason}"
    assert problems == [Problem("sparsity", expected)]
    _, problems = plan_of(tmp_path, {**section, "structure": "1:5"}, "small")
    (problem,) = problems
    assert (
        "param_filter matches at least one of 0.weight, 2.weight, 4.weight and whose structure"
        in (problem.message)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distribution": {"layers": {"body*": 0.5}}},
            "a key of layers must be a glob that matches a sparse weight; got 'body*'.",
        ),
        (
            {"distribution": {"type": "global", "minimum": 0.2}},
            "at most 0.796178, because every layer keeps at least a fraction 0.2",
        ),
        (
            {"distribution": {"type": "erk", "dense": ["0.*", "4.*"], "budget": "all"}},
            "sparsity must be at most 0.057324",
        ),
        (
            {"structure": "2:4", "sparsity": {"type": "linear", "init": 0, "slope": 0.1}},
            "sparsity must be at most 0.5, the level of NM(2, 4); got",
        ),
    ],
)
def test_levels_that_cannot_be_held_are_reported_once(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    section = {"algorithm": "set", "sparsity": 0.9, "update": 2, **options}
    plan, problems = plan_of(tmp_path, section, "small", 10)
    assert plan is None
    (problem,) = problems
    assert problem.place == "sparsity"
    assert message in problem.message


@pytest.mark.parametrize("model", ["small", "small_with_weights"])
def test_what_is_compressed_and_why_the_rest_is_not(tmp_path: Path, model: str) -> None:
    section = {"algorithm": "static", "sparsity": 0.5, "storage": "compressed"}
    plan = planned(tmp_path, section, model)
    assert {w.name: w.storage.name for w in plan.sparse if w.storage} == Trained(section).storages
    reasons = {w.name: w.why_masked for w in plan.sparse if w.why_masked}
    assert reasons == {"2.weight": "no kernel for Conv1d layers"}
    named = {**section, "param_filter": ["embed.weight", "body.weight"]}
    tied = planned(tmp_path, named, "tied_with_inputs")
    reason = "its weight is tied to another layer's weight"
    assert [w.why_masked for w in tied.sparse] == [reason, ""]
    alone = planned(tmp_path, section, "thirds")
    assert alone.sparse[0].why_masked.startswith("the model is this layer itself")


def test_costs_of_a_shadowed_weight(tmp_path: Path) -> None:
    section = {"algorithm": "ste", "sparsity": 0.75, "param_filter": "4.weight", "update": 2}
    plan = planned(tmp_path, section)
    n, others = 4 * 84, 32 * 8 + 32 + 6 * 2 * 3 + 6 + 4
    # Weight, gradient and two moments are dense, the shadow has the same size, the mask a byte.
    expected = 16 * others + n * (16 + 4 + 1)
    assert set(bytes_of_steps(plan).values()) == {16 * (n + others), expected}
    flops = flops_of_steps(plan)
    forward = plan.flops["4.weight"]
    # Two products use a quarter of the weight; the gradient is dense at every step.
    saved = forward * (3 - (2 * 0.25 + 1))
    assert flops["start"] == flops["last update"] == flops["end"] == flops["dense"] - saved
    (entry,) = as_json(plan)["entries"]
    assert (entry["total"], entry["kept_at_start"], entry["storage"]) == (n, n // 4, "shadowed")


def test_counts_that_depend_on_the_weights_are_question_marks_with_an_exact_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"algorithm": "rigl", "sparsity": 0.9, "update": 2, "distribution": "global"}
    plan = planned(tmp_path, section)
    print_plan(plan)
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert rows["4.weight"][-5:] == ["?", "?", "?", "by", "global"]
    n = sum(w.total for w in plan.sparse)
    kept = sparse.utils.make_mask_topk_sparsity(torch.rand(n), 0.9).sum()
    assert plan.kept(0) == plan.kept(1) == kept
    expected = "the number of connections kept per weight depends on the weights' values; costs"
    assert expected in " ".join(plan.notes)
    # Costs assume one level for all weights.
    shares = {w.name: num_kept(0.9, w.total) / w.total for w in plan.sparse}
    expected = sum(3 * share * plan.flops[name] for name, share in shares.items())
    assert flops_of_steps(plan)["end"] == pytest.approx(expected)
