"""Bad input: one clear error on stderr, the right status, and no partial output."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.cli_process import Command
from sparsewright.runs.run_folder import SUMS, checksums


def assert_refused(command: Command, done, status: int, *words: str) -> None:
    """Assert one error line with these words, no traceback, and no new run."""
    assert done.status == status, (done.out, done.err)
    errors = [line for line in done.err.splitlines() if line.lower().startswith("error: ")]
    assert len(errors) == 1, done.err
    assert "Traceback" not in done.err
    shown = errors[0].replace(f"{command.folder}/", "")
    for word in words:
        assert word in shown
    assert not (command.folder / "new").exists()
    assert not list(command.folder.glob(".*"))


RIGL = {"algorithm": "rigl", "sparsity": 0.9}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"loop": {"stepz": 3}},
            ["section 'loop' in tiny.yaml has no option 'stepz'; did you mean 'steps'?"],
        ),
        ({"looop": {}}, ["unknown section 'looop' in tiny.yaml; did you mean 'loop'?"]),
        (
            {"loop": {"steps": "many"}},
            ["loop.steps in tiny.yaml must be of type int; got 'many' (str)."],
        ),
        (
            {"loop": {"steps": True}},
            ["loop.steps in tiny.yaml must be of type int; got True (bool)."],
        ),
        ({"loop": {"steps": 0}}, ["loop.steps in tiny.yaml must be a number >= 1; got 0."]),
        (
            {"optimizer": {"lr": float("nan")}},
            ["optimizer.lr in tiny.yaml must be a number from 0.0 to 1e+30; got nan."],
        ),
        (
            {"optimizer": {"name": "adamv"}},
            ["unknown optimizer.name 'adamv' in tiny.yaml; did you mean 'adam"],
        ),
        (
            {"optimizer": []},
            ["section 'optimizer' in tiny.yaml must be a mapping of keys to values; got []"],
        ),
        ({"model": {"heads": 3}}, ["model.heads must be a divisor of model.width = 16; got 3."]),
        ({"recipe": "charml"}, ["unknown recipe 'charml' in tiny.yaml; did you mean 'charlm'?"]),
        ({"recipe": 3}, ["recipe in tiny.yaml must be a name; got 3 (int)."]),
        ({"data": {"text": "no.txt"}}, ["no.txt", "No such file"]),
        (
            {"data": {"dir": "x"}},
            ["section 'data' in tiny.yaml has no option 'dir'; its options: text, validation"],
        ),
        ({"trainer": {"init": {}}}, ["trainer", "init: sparsity:"]),
        (
            {"trainer": {"init": {"sparsity": 0.5}}, "sparsity": 0.5},
            ["give 'sparsity' or 'trainer", "not both"],
        ),
        (
            {"sparsity": {**RIGL, "drop_fracton": 0.1}},
            ["RigL has no option 'drop_fracton'; did you mean 'drop_fraction'?"],
        ),
        (
            {"sparsity": {**RIGL, "algorithm": "riggle"}},
            ["unknown algorithm 'riggle'; did you mean"],
        ),
        (
            {"sparsity": {**RIGL, "sparsity": 1.5}},
            ["section 'sparsity': sparsity must be between 0 and 1; got 1.5."],
        ),
        (
            {"sparsity": {**RIGL, "update": "often"}},
            ["update must be None, an integer, ", "got 'often' (str)."],
        ),
        ({"sparsity": {**RIGL, "balance_out_groups": 7}}, ["(48, 16)", "into 7 equal groups"]),
        ({"sparsity": {**RIGL, "param_filter": "*conv*"}}, ["*conv*", "blocks.0.mlp.0.weight"]),
        ({"sparsity": None}, ["section 'sparsity'"]),
    ],
)
def test_configuration(command: Command, sections: dict, words: list[str]) -> None:
    done = command("train", command.config(**sections), "--out", "new")
    assert_refused(command, done, 2, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"loop: {steps: 3\nmodel: 4\n", ["c.yaml", "line 2, column"]),
        (
            b"loop: {steps: 3, steps: 4}\n",
            ["c.yaml", "line 1, column 18", "'steps' is given twice"],
        ),
        (b"\xff\xfe\x00", ["c.yaml", "not a YAML file"]),
        (b"[1, 2]", ["c.yaml: expected a mapping of sections to values, got a list"]),
        (b"loop: !!python/object/apply:os.system [touch hacked]", ["c.yaml", "line 1"]),
    ],
)
def test_yaml(command: Command, content: bytes, words: list[str]) -> None:
    (command.folder / "c.yaml").write_bytes(content)
    done = command("train", "c.yaml", "--out", "new")
    assert_refused(command, done, 2, *words)
    assert not (command.folder / "hacked").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.yaml"], ["no.yaml", "No such file"]),
        (["--text", "no.txt"], ["no.txt", "No such file"]),
        (["--text", "latin.txt"], ["latin.txt", "not UTF-8", "byte 3"]),
        (["--text", "short.txt"], ["short.txt", "context"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--steps", "-1"], ["loop.steps", "-1"]),
        (["--data", "."], ["'dir'", "text, validation"]),
        (["--recipe", "fashion", "--text", "x"], ["'text'", "dir"]),
        (["--recipe", "fashion", "--data", "."], ["train-images-idx3-ubyte"]),
        (["--stepz", "1"], ["--stepz", "--steps"]),
        (
            ["--resume", "run", "--steps", "0"],
            ["--resume continues a run with its saved", "only with --until"],
        ),
        (["--resume", "run", "--seed", "0"], ["--resume", "--until"]),
    ],
)
def test_arguments(command: Command, arguments: list[str], words: list[str]) -> None:
    (command.folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 999)
    (command.folder / "short.txt").write_text("too short")
    done = command("train", *arguments, *([] if "--resume" in arguments else ["--out", "new"]))
    assert_refused(command, done, 2, *words)


def test_run_is_never_overwritten(command: Command) -> None:
    config = command.config(loop={"steps": 1})
    assert command("train", config, "--out", "run").status == 0
    before = {p: p.read_bytes() for p in (command.folder / "run").rglob("*") if p.is_file()}
    done = command("train", config, "--out", "run")
    problem = "run: this folder already holds a run; resume it with --resume, or give a new or"
    assert_refused(command, done, 1, problem)
    assert before == {p: p.read_bytes() for p in (command.folder / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize("place", ["file.txt/new", "file.txt", "/sys/new", "/proc/new"])
def test_unwritable_run_folder(command: Command, place: str) -> None:
    (command.folder / "file.txt").write_text("")
    done = command("train", command.config(), "--out", place)
    assert_refused(command, done, 1, place)


def test_full_disk_keeps_the_last_checkpoint(command: Command) -> None:
    config = command.config()
    assert command("train", config, "--out", "whole").status == 0
    # This fits the checkpoint of step 0, which has no optimizer state, but not the next one.
    limit = (command.folder / "whole/checkpoints/000020/state.pt").stat().st_size * 2 // 3
    done = command("train", config, "--out", "run", file_limit=limit)
    assert_refused(command, done, 1, "run: cannot be written", "too large")
    assert not (command.folder / "run/result.json").exists()
    assert [path.name for path in (command.folder / "run/checkpoints").iterdir()] == ["000000"]
    assert command("train", "--resume", "run").status == 0
    one, other = (command.folder / name / "model.safetensors" for name in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


def stopped_run(command: Command) -> Path:
    assert command("train", command.config(), "--out", "run", "--until", 5).status == 0
    return command.folder / "run/checkpoints/000005"


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "missing"])
def test_damaged_checkpoint(command: Command, name: str, damage: str) -> None:
    file = stopped_run(command) / name
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        content = {"truncated": whole[:-100], "foreign": b"GIF89a" * 99, "empty": b""}
        file.write_bytes(content[damage])
    done = command("train", "--resume", "run")
    assert_refused(command, done, 1, f"000005/{name}: ")


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return open, ("hacked", "w")


def test_checkpoint_never_runs_code(command: Command) -> None:
    folder = stopped_run(command)
    torch.save({"step": 5, "bomb": Bomb()}, folder / "state.pt")
    problem = "state.pt: not a checkpoint, or holds objects other than tensors and plain values"
    assert_refused(command, command("train", "--resume", "run"), 1, problem)
    (folder / "state.pt").write_bytes(pickle.dumps(Bomb()))
    assert_refused(command, command("train", "--resume", "run"), 1, problem)
    assert not (command.folder / "hacked").exists()


def test_checkpoint_of_something_else(command: Command) -> None:
    folder = stopped_run(command)
    save_file({"fc.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    done = command("train", "--resume", "run")
    problem = "000005/SHA256SUMS: the checkpoint's files do not match these checksums"
    assert_refused(command, done, 1, problem)
    (folder / SUMS).write_text(checksums(folder))
    done = command("train", "--resume", "run")
    assert_refused(command, done, 1, "000005: does not fit the model", "fc.weight")
    torch.save({"step": 5}, folder / "state.pt")
    problem = "expected checkpoint format 2, got None"
    assert_refused(command, command("train", "--resume", "run"), 1, "state.pt", problem)


def test_other_data_than_before(command: Command) -> None:
    checkpoint = stopped_run(command)
    run = command.folder / "run"
    # This is the state after a kill at step 8, before the checkpoint: metrics and masks are ahead.
    saved = shutil.copytree(checkpoint, command.folder / "saved")
    assert command("train", "--resume", "run", "--until", 8).status == 0
    shutil.rmtree(run / "checkpoints/000008")
    saved.rename(checkpoint)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert run / "masks/000008.safetensors" in before
    text = command.folder / "text.txt"
    content = text.read_text()
    text.write_text(content.replace("fox", "cat"))
    problem = "000005: the data have changed since this checkpoint; restore them to resume the run"
    assert_refused(command, command("train", "--resume", "run"), 1, problem)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    text.write_text(content)
    assert command("train", "--resume", "run", "--until", 6).status == 0
    assert not (run / "masks/000008.safetensors").exists()


def test_lost_metrics(command: Command) -> None:
    stopped_run(command)
    (command.folder / "run/metrics.jsonl").write_text("")
    problem = "metrics.jsonl: the file is shorter than when checkpoint 000005 was saved"
    assert_refused(command, command("train", "--resume", "run"), 1, problem)


@pytest.mark.parametrize("content", [b'[{"from_step": 0, "ver', b"[3]", b"{}", b"\xff"])
def test_damaged_versions(command: Command, content: bytes) -> None:
    stopped_run(command)
    with (command.folder / "run/metrics.jsonl").open("ab") as file:
        file.write(b"{}\n")
    metrics = (command.folder / "run/metrics.jsonl").read_bytes()
    (command.folder / "run/versions.json").write_bytes(content)
    done = command("train", "--resume", "run")
    assert_refused(command, done, 1, "error: run/versions.json: not a list of versions")
    assert (command.folder / "run/metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize(
    ("place", "problem"), [("nothing", "no such run folder"), (".", "not a run folder")]
)
def test_resume_of_no_run(command: Command, place: str, problem: str) -> None:
    assert_refused(command, command("train", "--resume", place), 1, f"{place}: {problem}")


def test_diverging_run_stops(command: Command) -> None:
    config = command.config(optimizer={"name": "sgd", "lr": 1e30}, loop={"warmup": 0})
    done = command("train", config, "--out", "run")
    assert_refused(command, done, 1, "loss is", "optimizer.lr")
    for line in (command.folder / "run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_debug_shows_the_traceback(command: Command) -> None:
    done = command("train", "no.yaml", "--debug")
    assert done.status == 2
    assert "Traceback" in done.err
    assert "error: no.yaml" in done.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no.pt", None, ["no.pt", "no such file"]),
        ("x.pt", b"not a checkpoint", ["x.pt"]),
        ("x.safetensors", b"not a checkpoint", ["x.safetensors", "not a safetensors file"]),
        ("x.safetensors", b"\xff" * 8, ["x.safetensors"]),
        ("folder", "mkdir", ["folder", "not a run folder"]),
    ],
)
def test_inspect_of_nothing(command: Command, name: str, content, words: list[str]) -> None:
    path = command.folder / name
    if content == "mkdir":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert_refused(command, command("inspect", name), 1, *words)


@pytest.mark.parametrize(
    ("made", "missing"), [([], "config.yaml"), (["config.yaml"], "checkpoints/")]
)
def test_resuming_says_what_a_folder_lacks(command: Command, made: list[str], missing: str) -> None:
    (command.folder / "run").mkdir()
    for name in made:
        (command.folder / "run" / name).write_text("recipe: charlm")
    done = command("train", "--resume", "run")
    assert_refused(command, done, 1, "run", f"not a run folder (no {missing})")


def test_inspect_says_when_mask_and_weight_disagree(command: Command) -> None:
    command("train", command.config(loop={"steps": 1}), "--out", "run")
    weights = load_file(command.folder / "run/model.safetensors")
    assert command("inspect", "run/model.safetensors").status == 0
    name = "blocks.0.mlp.0.weight"
    flat = weights[name].view(-1)
    flat[(~weights[f"{name}_mask"]).view(-1).nonzero()[:3]] = 1.0
    save_file(weights, command.folder / "bad.safetensors")
    done = command("inspect", "bad.safetensors")
    assert_refused(command, done, 1, name, "3 nonzero entries outside the mask")
    assert "102" in done.out


def test_inspect_reads_a_state_dict(command: Command) -> None:
    model = torch.nn.Linear(4, 2)
    torch.nn.init.ones_(model.weight)
    torch.save(model.state_dict(), command.folder / "m.pt")
    torch.save({"model": model.state_dict(), "step": 3}, command.folder / "n.pt")
    for name in ("m.pt", "n.pt"):
        done = command("inspect", name)
        assert done.status == 0
        assert ["weight", "8", "8", "0.0000"] in [row.split()[:4] for row in done.out.splitlines()]
    torch.save({"step": 3}, command.folder / "o.pt")
    problem = "o.pt: expected a state dict, but the keys are: step"
    assert_refused(command, command("inspect", "o.pt"), 1, problem)
