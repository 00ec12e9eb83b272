"""The command `sparsewright train`: its files, and results that no interruption changes."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.cli_process import TINY, Command, wait_for
from helpers.image_files import write_images


def lines(run: Path, event: str) -> list[dict[str, float]]:
    """Return the lines of one kind in metrics.jsonl, without speed and memory values."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if not key.endswith(("_per_second", "memory_bytes"))
        }
        for line in found
        if line["event"] == event
    ]


def assert_same_run(one: Path, other: Path) -> None:
    """Assert bit-identical weights, masks and optimizer state, and equal metrics and snapshots."""
    for name in ("model.safetensors", "config.yaml", "result.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for event in ("step", "mask_update", "validation"):
        assert lines(one, event) == lines(other, event)
    snapshots = [
        {path.name: path.read_bytes() for path in (run / "masks").iterdir()} for run in (one, other)
    ]
    assert len(snapshots[0]) > 1 or not lines(one, "mask_update")
    assert snapshots[0] == snapshots[1]
    first, second = (
        torch.load(next((run / "checkpoints").iterdir()) / "state.pt", weights_only=True)
        for run in (one, other)
    )
    moments = [state["sparse"]["optimizer"]["state"] for state in (first, second)]
    torch.testing.assert_close(*moments, rtol=0, atol=0)


def test_installed_command_trains_on_the_text_of_python(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({k: v for k, v in TINY.items() if k != "data"}))
    start = [sys.executable, "-W", "error", "-c", "from sparsewright.cli import main; main()"]
    done = subprocess.run(
        [*start, "train", "c.yaml", "--steps", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with safe_open(tmp_path / "runs/charlm-1/model.safetensors", "pt") as file:
        stored = json.loads(file.metadata()["sparsewright"])
    characters = {c for text in pydoc_data.topics.topics.values() for c in text}
    assert json.loads(stored["vocabulary"]) == sorted(characters | {"\n"})


def test_everything_in_a_run_folder_loads(command: Command) -> None:
    done = command("train", command.config(), "--out", "run")
    assert done.status == 0, done.err
    run = command.folder / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["sparsity"]["sparsity"] == 0.9
    assert [line["step"] for line in lines(run, "step")] == list(range(1, 21))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    peaks = [line["peak_memory_bytes"] for line in metrics if line["event"] == "step"]
    assert 50_000_000 < peaks[0] <= peaks[-1] < 10_000_000_000  # torch alone uses 150 MB
    assert peaks == sorted(peaks)
    assert [line["step"] for line in lines(run, "validation")] == [10, 20]
    assert {line["step"] for line in lines(run, "mask_update")} == set(range(1, 15))
    weights = load_file(run / "model.safetensors")
    masks = {name: t for name, t in weights.items() if name.endswith("_mask")}
    assert len(masks) == 4
    for name, mask in masks.items():
        weight = weights[name.removesuffix("_mask")]
        assert not weight[~mask].any()
        assert mask.sum() == mask.numel() // 10
    state = torch.load(run / "checkpoints/000020/state.pt", weights_only=True)
    assert state["step"] == 20
    result = json.loads((run / "result.json").read_text())
    assert result["validation"] == {
        key: value for key, value in lines(run, "validation")[-1].items() if key.endswith("loss")
    }
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]


def test_result_shows_layers_and_the_dense_twin(command: Command) -> None:
    done = command("train", command.config())
    rows = [line.split() for line in done.out.splitlines()]
    assert ["layer", "kept", "total", "sparsity", "churn"] in rows
    (row,) = [row for row in rows if row and row[0] == "blocks.0.mlp.0.weight"]
    assert row[1:4] == ["102", "1,024", "0.9004"]
    assert 0 < float(row[4].rstrip("%")) <= 60
    assert ["validation", "sparse", "dense", "difference"] in rows
    assert "step 20/20" in done.err
    assert "tokens/s" in done.err
    assert "\x1b" not in done.err + done.out


def test_no_baseline_trains_the_same_sparse_network(command: Command) -> None:
    config = command.config()
    with_twin = command("train", config, "--out", "a")
    alone = command("train", config, "--out", "b", "--no-baseline")
    assert with_twin.status == alone.status == 0
    assert "dense" not in alone.out
    first, second = ((command.folder / n / "model.safetensors").read_bytes() for n in "ab")
    assert first == second


def test_dense_twin_does_not_depend_on_the_sparsity(command: Command) -> None:
    command("train", command.config(sparsity=0.5), "--out", "a")
    command("train", command.config(sparsity=0.98), "--out", "b")
    a, b = (lines(command.folder / name, "step") for name in "ab")
    assert [line["dense_loss"] for line in a] == [line["dense_loss"] for line in b]
    assert [line["loss"] for line in a] != [line["loss"] for line in b]


def test_seed_changes_weights_masks_and_batches(command: Command) -> None:
    config = command.config()
    for seed in (0, 1):
        done = command("train", config, "--out", f"s{seed}", "--seed", seed, "--steps", 1)
        assert done.status == 0
    first, second = (load_file(command.folder / f"s{n}/model.safetensors") for n in (0, 1))
    name = "blocks.0.mlp.0.weight_mask"
    assert not torch.equal(first[name], second[name])
    assert not torch.equal(first["token_embedding.weight"], second["token_embedding.weight"])


def test_resolved_config_repeats_the_run(command: Command) -> None:
    command("train", command.config(), "--out", "a", "--seed", 3, "--steps", 12)
    again = command("train", "a/config.yaml", "--out", "b")
    assert again.status == 0, again.err
    assert_same_run(command.folder / "a", command.folder / "b")


@pytest.mark.parametrize("algorithm", ["rigl", "set", "gmp"])
def test_resumed_equals_uninterrupted(command: Command, algorithm: str) -> None:
    level = {"type": "Linear", "init": 0.0, "slope": 0.01} if algorithm == "gmp" else 0.8
    section = {"algorithm": algorithm, "sparsity": level, "update": {"freq": 4}}
    config = command.config(sparsity=section, model={"dropout": 0.2}, loop={"steps": 60})
    assert command("train", config, "--out", "whole").status == 0
    stopped = command("train", config, "--out", "parts", "--until", 30)
    assert stopped.status == 0
    assert "--resume parts" in stopped.err
    assert not (command.folder / "parts/model.safetensors").exists()
    resumed = command("train", "--resume", "parts")
    assert resumed.status == 0, resumed.err
    assert_same_run(command.folder / "whole", command.folder / "parts")


def test_killed_at_any_moment_resumes_to_the_same_result(command: Command) -> None:
    config = command.config(loop={"steps": 60, "checkpoint_every": 2})
    assert command("train", config, "--out", "whole").status == 0
    run = command.folder / "parts"
    process = command.start("train", config, "--out", "parts")
    for size in (1, 4000, 9000):
        wait_for(lambda size=size: run.exists() and (run / "metrics.jsonl").stat().st_size > size)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (run / "result.json").exists()
        assert not (run / "model.safetensors").exists()
        assert command("inspect", "parts").status == 0
        process = command.start("train", "--resume", "parts")
    assert command.wait(process).status == 0
    assert_same_run(command.folder / "whole", run)


def test_killed_at_the_start_leaves_a_whole_run_or_none(command: Command) -> None:
    config = command.config(model={"width": 256})
    run = command.folder / "run"
    process = command.start("train", config, "--out", "run")
    wait_for(lambda: any(command.folder.glob(".run.*.part/*")) or run.exists())
    process.kill()
    process.join()
    if run.exists():
        assert command("inspect", "run").status == 0
    else:
        assert command("train", "--resume", "run").status == 1
        assert command("train", config, "--out", "run", "--steps", 1).status == 0


def test_interrupt_says_where_to_go_on(command: Command) -> None:
    config = command.config(loop={"steps": 200, "checkpoint_every": 1000})
    assert command("train", config, "--out", "whole").status == 0
    run = command.folder / "parts"
    process = command.start("train", config, "--out", "parts")
    wait_for(lambda: run.exists() and (command.folder / "stderr").read_text().count("step ") > 1)
    os.kill(process.pid, signal.SIGINT)
    done = command.wait(process)
    assert done.status == 130
    assert "sparsewright train --resume parts" in done.err
    assert "Traceback" not in done.err
    (step,) = re.findall(r"interrupted at step (\d+)", done.err)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"{int(step):06d}"]
    assert command("train", "--resume", "parts").status == 0
    assert_same_run(command.folder / "whole", run)


def test_the_command_that_goes_on_can_be_pasted(command: Command) -> None:
    stopped = command("train", command.config(), "--out", "my run", "--until", 1)
    _, _, text = stopped.err.partition("resume with: sparsewright ")
    assert command(*shlex.split(text)).status == 0
    assert (command.folder / "my run/result.json").exists()


def test_two_processes_never_train_in_one_folder(command: Command) -> None:
    config = command.config(loop={"steps": 100_000})
    process = command.start("train", config, "--out", "run")
    wait_for((command.folder / "run").exists)
    wait_for(lambda: (command.folder / "run/metrics.jsonl").stat().st_size > 0)
    other = command("train", "--resume", "run")
    process.kill()
    process.join()
    assert other.status == 1
    assert "another process" in other.err


def test_finished_run_has_nothing_to_resume(command: Command) -> None:
    command("train", command.config(), "--out", "run")
    before = (command.folder / "run/metrics.jsonl").read_bytes()
    done = command("train", "--resume", "run")
    assert done.status == 0
    assert "is finished; run `sparsewright inspect" in done.out
    assert (command.folder / "run/metrics.jsonl").read_bytes() == before


def test_runs_are_numbered(command: Command) -> None:
    config = command.config(loop={"steps": 1})
    for _ in range(2):
        assert command("train", config).status == 0
    assert sorted(p.name for p in (command.folder / "runs").iterdir()) == ["charlm-1", "charlm-2"]


def test_model_zoo_file(command: Command) -> None:
    section = {"algorithm": "static", "sparsity": 0.75}
    trainer = {"init": {"sparsity": section, "backend": {"backend_type": "CSX"}}, "fit": {}}
    done = command("train", command.config(trainer=trainer), "--out", "run")
    assert done.status == 0, done.err
    assert "ignored: trainer.init.backend, trainer.fit" in done.err
    resolved = yaml.safe_load((command.folder / "run/config.yaml").read_text())
    assert resolved["sparsity"] == section
    assert lines(command.folder / "run", "step")[0]["level"] == pytest.approx(0.75, abs=0.01)


def test_partly_matching_section_warns_and_trains(command: Command) -> None:
    section = [
        {"algorithm": "static", "sparsity": 0.5, "param_filter": "*mlp*weight"},
        {"algorithm": "static", "sparsity": 0.9, "param_filter": "*atention*"},
    ]
    done = command("train", command.config(sparsity=section))
    assert done.status == 0
    assert "warning:" in done.err
    assert "*atention*" in done.err


def test_fashion_reports_accuracy_and_resumes(command: Command) -> None:
    write_images(command.folder, 400, 100, pack=True)
    config = command.folder / "fashion.yaml"
    loop = {"steps": 60, "batch_size": 50, "warmup": 5, "threads": 1}
    config.write_text(yaml.safe_dump({"recipe": "fashion", "loop": loop}))
    done = command("train", config, "--data", ".", "--out", "whole")
    assert done.status == 0, done.err
    (row,) = [line.split() for line in done.out.splitlines() if line.startswith("accuracy")]
    assert float(row[1]) > 0.5
    assert float(row[2]) > 0.5
    assert command("train", config, "--data", ".", "--out", "parts", "--until", 7).status == 0
    assert command("train", "--resume", "parts").status == 0
    assert_same_run(command.folder / "whole", command.folder / "parts")
