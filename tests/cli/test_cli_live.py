"""Progress of a run: a bar on a terminal, plain lines elsewhere, TensorBoard, custom logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.cli_process import Command
from helpers.processes import shown_on_a_terminal

LOG = """
import json

def send(scalars, step):
    with open("sent.jsonl", "a") as file:
        file.write(json.dumps([step, scalars]) + "\\n")

number = 3
"""


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def metrics(run: Path, event: str) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_plain_lines_say_level_churn_and_speed(command: Command) -> None:
    done = command("train", command.config(), "--no-baseline")
    (line,) = [line for line in done.err.splitlines() if line.startswith("step 14/20")]
    assert "level 0.90" in line
    assert "tokens/s" in line
    churn = metrics(command.folder / "runs/charlm-1", "step")[13]["churn"]
    assert f"churn {churn:.1%}" in line
    assert "\x1b" not in done.err


def test_churn_of_a_step_counts_dropped_and_grown(command: Command) -> None:
    assert command("train", command.config(), "--out", "run").status == 0
    updates = [u for u in metrics(command.folder / "run", "mask_update") if u["step"] == 3]
    changed = sum(update["dropped"] + update["grown"] for update in updates)
    steps = metrics(command.folder / "run", "step")
    assert steps[2]["churn"] == pytest.approx(changed / sum(u["kept"] for u in updates), abs=1e-6)
    assert "churn" not in steps[-1]


def test_tensorboard_has_what_the_metrics_have(command: Command) -> None:
    done = command("train", command.config(), "--out", "run", "--tensorboard")
    assert done.status == 0, done.err
    run = command.folder / "run"
    found = scalars(run)
    for name in ("loss", "dense_loss", "level"):
        wrote = [line[name] for line in metrics(run, "step")]
        assert [value for _, value in found[f"train/{name}"]] == pytest.approx(wrote)
    assert [step for step, _ in found["validation/loss"]] == [10, 20]
    weight = "blocks.0.mlp.0.weight"
    assert len(found[f"sparsity/{weight}/grad_norm"]) == 20
    assert all(value > 0 for _, value in found[f"sparsity/{weight}/grad_norm"])
    updates = [line for line in metrics(run, "mask_update") if line["name"] == weight]
    churn = [(u["step"], (u["dropped"] + u["grown"]) / u["kept"]) for u in updates]
    steps, values = zip(*found[f"sparsity/{weight}/churn"], strict=True)
    assert list(steps) == [step for step, _ in churn]
    assert list(values) == pytest.approx([value for _, value in churn])
    for kind in ("target", "actual"):
        assert found[f"sparsity/{weight}/{kind}"][-1] == pytest.approx((20, 0.9), abs=1e-3)


def test_logging_changes_nothing_and_goes_on_in_a_resumed_run(command: Command) -> None:
    config = command.config()
    assert command("train", config, "--out", "plain").status == 0
    command("train", config, "--out", "run", "--until", 12, "--tensorboard")
    run = command.folder / "run"
    assert command("train", "--resume", "run", "--tensorboard").status == 0
    assert [step for step, _ in scalars(run)["train/loss"]] == list(range(1, 21))
    files = [command.folder / name / "model.safetensors" for name in ("plain", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_any_log_by_one_function(command: Command) -> None:
    (command.folder / "my_logs.py").write_text(LOG)
    config = command.config()
    done = command("train", config, "--log", "my_logs:send", "--until", 3, "--out", "run")
    assert done.status == 0, done.err
    lines = map(json.loads, (command.folder / "sent.jsonl").read_text().splitlines())
    merged: dict[int, dict[str, float]] = {}
    for step, values in lines:
        merged.setdefault(step, {}).update(values)
    assert list(merged) == [1, 2, 3]
    assert {"train/loss", "sparsity/actual", "sparsity/churn"} <= set(merged[3])
    assert merged[3]["train/loss"] == metrics(command.folder / "run", "step")[2]["loss"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("my_logs:sent", "did you mean 'send'?"),
        ("my_logs:number", "a function (scalars, step)"),
        ("my_logs", "expected module:function, such as"),
        ("none:send", "No module named 'none'"),
        ("math:pi.reel", "math has no 'pi.reel'; did you mean 'real'?"),
    ],
)
def test_wrong_logs(command: Command, spec: str, says: str) -> None:
    (command.folder / "my_logs.py").write_text(LOG)
    done = command("train", command.config(), "--log", spec)
    assert done.status == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert not (command.folder / "runs").exists()


def test_a_terminal_gets_a_bar_with_level_churn_speed_and_time_left(command: Command) -> None:
    config = command.config(loop={"steps": 60})
    text = shown_on_a_terminal(["train", config, "--no-baseline"], command.folder, columns=140)
    for part in ("60/60", "level 0.9", "churn ", "tokens/s", "0:00:00", "━"):
        assert part in text, (part, text[-2000:])
    assert "step 6/60" not in text
