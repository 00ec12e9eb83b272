"""Test the mask history against counts over all masks, and the choice of snapshots."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsewright
from helpers.support import make_mlp
from sparsewright.core.packing import pack_mask, unpack_mask
from sparsewright.errors import StateError
from sparsewright.runs.mask_history import MaskHistory, is_snapshot_due
from sparsewright.runs.run_folder import RunFolder


class Followed:
    """Train a small sparse network, and keep its mask history and all its masks."""

    def __init__(self, algorithm: str) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6 * 4, 13))
        section = {"algorithm": algorithm, "sparsity": 0.9, "update": {"freq": 1}, "seed": 3}
        self.group = sparsewright.configure(section)
        self.group.apply(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.group.apply(self.optimizer)
        self.history = MaskHistory(self.group)
        self.masks = {name: [p.mask.clone()] for name, p in self.group.sparse_params.items()}
        self.facts: dict[str, dict[str, int]] = {}
        self.group.register_mask_update_hook(self.update)

    def update(self, update: sparsewright.events.MaskUpdate) -> None:
        self.facts[update.name] = self.history.record(update)
        self.masks[update.name].append(self.group.sparse_params[update.name].mask.clone())

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(2, 3, 4, 4)).square().sum().backward()
        self.optimizer.step()

    def expected(self, name: str, first: int = 0) -> dict[str, int]:
        masks = [mask.flatten(1) for mask in self.masks[name]]
        grown = [
            any(
                bool(((~masks[i - 1][row]) & masks[i][row]).any())
                for i in range(first + 1, len(masks))
            )
            for row in range(len(masks[0]))
        ]
        dead = sum(not bool(row.any()) for row in masks[-1])
        return {"rows": len(grown), "dead_rows": dead, "never_grown_rows": grown.count(False)}


@pytest.mark.parametrize("algorithm", ["set", "rigl"])
def test_rows_are_those_counted_by_hand(algorithm: str) -> None:
    run = Followed(algorithm)
    seen = set()
    for _ in range(6):
        run.step()
        for name in run.masks:
            assert run.facts[name] == run.expected(name)
            seen.add(run.facts[name]["never_grown_rows"])
    assert len(seen) > 2


def test_history_goes_on_from_its_state() -> None:
    run = Followed("set")
    run.step()
    saved = {name: rows.clone() for name, rows in run.history.state().items()}
    restored = MaskHistory(run.group)
    assert not any(rows.any() for rows in restored.grown_rows.values())
    restored.load(saved)
    run.history = restored
    run.step()
    for name in run.masks:
        assert run.facts[name] == run.expected(name)
    assert all(rows.any() for rows in saved.values())


def test_state_of_another_model_does_not_load() -> None:
    run = Followed("set")
    with pytest.raises(StateError, match=r"the mask history: it has no rows for 2\.weight, or"):
        run.history.load({"0.weight": torch.zeros(6, dtype=torch.bool)})


def test_a_snapshot_has_masks_shapes_and_algorithms() -> None:
    run = Followed("rigl")
    bits, layers = run.history.snapshot()
    assert layers["0.weight"] == {
        "shape": [6, 3, 3, 3],
        "dims": [0, 1],
        "target": 0.9,
        "algorithm": "RigL",
        "paper": "arXiv:1911.11134",
        "distribution": "",
        "structure": "",
        "storage": "masked",
    }
    for name, (mask,) in run.masks.items():
        assert torch.equal(unpack_mask(bits[name], torch.Size(layers[name]["shape"])), mask)


def test_a_snapshot_has_the_choices_of_each_weight() -> None:
    group = sparsewright.configure(
        [
            {"algorithm": "ste", "structure": "2:4", "param_filter": "0.weight"},
            {
                "algorithm": "set",
                "sparsity": 0.5,
                "distribution": "erk",
                "storage": "compressed",
                "param_filter": "2.weight",
            },
        ]
    )
    model = make_mlp()
    group.apply(model)
    _, layers = MaskHistory(group).snapshot()
    assert layers["0.weight"] == {
        "shape": [16, 8],
        "dims": [0, 1],
        "target": 0.5,
        "algorithm": "STE",
        "paper": "arXiv:1308.3432",
        "distribution": "",
        "structure": "NM(2, 4)",
        "storage": "shadowed",
    }
    assert layers["2.weight"] == {
        "shape": [4, 16],
        "dims": [0, 1],
        "target": pytest.approx(0.5, abs=1e-6),
        "algorithm": "SET",
        "paper": "arXiv:1707.04780",
        "distribution": "erk",
        "structure": "",
        "storage": "compressed",
    }


def test_a_snapshot_has_the_target_of_the_first_masks_and_the_dimensions() -> None:
    transposed = nn.ConvTranspose2d(4, 8, 3)
    rising = {"type": "linear", "init": 0.2, "slope": 0.1}
    for update, target in (({"freq": 2}, 0.2), ({"freq": 2, "start": 2}, 0.0)):
        model = nn.Sequential(transposed)
        section = {"algorithm": "gmp", "sparsity": rising, "update": update}
        group = sparsewright.configure(section)
        group.apply(model)
        history = MaskHistory(group)
        _, layers = history.snapshot()
        assert layers["0.weight"]["dims"] == [1, 0]
        assert layers["0.weight"]["target"] == pytest.approx(target)
        group.remove()


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (7, 1), (20, 3), (400, 1), (1000, 7)])
def test_at_most_twenty_masks_of_a_run_and_evenly_spaced(steps: int, every: int) -> None:
    taken = [0]
    for step in range(every, steps + 1, every):
        if is_snapshot_due(step, taken[-1], steps):
            taken.append(step)
    assert len(taken) <= 19
    gaps = [b - a for a, b in itertools.pairwise(taken)]
    assert max(gaps, default=0) <= steps / 18 + 1 + every
    assert len(taken) > min(steps // every, 18) // 2


def test_snapshots_behind_the_checkpoint_go(tmp_path: Path) -> None:
    state = {"metadata": {}}
    RunFolder.create(tmp_path / "run", "recipe: charlm\n", {}, {"step": 0, **state})
    bits = {"w": pack_mask(torch.tensor([[True, False]]))}
    with RunFolder(tmp_path / "run") as folder:
        for step in (0, 5, 10):
            folder.save_masks(step, bits, {})
            if step == 5:
                folder.save({}, {"step": 5, **state})
        assert folder.last_masks == 10
        folder.rewind(folder.load()[1])
        assert folder.last_masks == 5
    assert sorted(path.stem for path in (tmp_path / "run/masks").iterdir()) == ["000000", "000005"]


def test_versions_are_noted_once_and_again_when_they_change(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "recipe: charlm\n", {}, {"step": 0, "metadata": {}})
    with RunFolder(tmp_path / "run") as folder:
        folder.note_versions(0, {"torch": "1"})
        before = (tmp_path / "run/versions.json").read_bytes()
        folder.note_versions(3, {"torch": "1"})
        assert (tmp_path / "run/versions.json").read_bytes() == before
        folder.note_versions(6, {"torch": "2"})
    text = (tmp_path / "run/versions.json").read_text()
    assert text.count("from_step") == 2
    assert '"from_step": 6' in text


def test_a_weight_without_rows_has_no_rows_of_any_kind() -> None:
    group = sparsewright.configure({"algorithm": "static", "sparsity": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns when it initializes an empty weight
        group.apply(nn.Linear(3, 0))
    history = MaskHistory(group)
    update = sparsewright.events.MaskUpdate(1, "weight", 0, 0, 0.5, 0.5, 0, 0)
    assert history.record(update) == {"rows": 0, "dead_rows": 0, "never_grown_rows": 0}


def test_a_connection_that_comes_back_is_grown() -> None:
    model = nn.Linear(2, 1)
    group = sparsewright.configure({"algorithm": "static", "sparsity": 0.5})
    group.apply(model)
    (parameter,) = group.sparse_params.values()
    first = parameter.mask.clone()
    history = MaskHistory(group)
    never = []
    for mask in (torch.zeros_like(first), first):
        parameter.mask = mask
        update = sparsewright.events.MaskUpdate(1, "weight", 2, 1, 0.5, 0.5, 1, 1)
        never.append(history.record(update)["never_grown_rows"])
    assert never == [1, 0]
