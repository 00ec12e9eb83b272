"""Test that malicious run folders give a report, or quickly an error that names the file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.report_runs import WrittenRun, random_masks, write_run
from sparsewright.errors import CheckpointError, ConfigError
from sparsewright.report.command import FORMATS, write_report
from sparsewright.report.read import read_run, read_runs

SHAPES = {"a.weight": (6, 8), "b.weight": (7, 9)}


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    masks = {step: random_masks(SHAPES, 0.8, step) for step in (0, 4, 8)}
    return write_run(tmp_path / "run", masks)


def laughs(levels: int) -> str:
    """Return a few lines of YAML with aliases of aliases that stand for 10**levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels + 1)]
    return "\n".join(lines)


CONFIGS = {
    "a date that is none": b"note: 2024-99-99",
    "laughs": laughs(9).encode(),
    "laughs as the recipe": f"{laughs(9)}\nrecipe: *a9".encode(),
    "a list of itself": b"recipe: &a [*a]",
    "twice": b"recipe: a\nrecipe: b",
    "too many values": b"[" + b"1," * 150_000 + b"]",
    "too large": b"# comment\n" * 200_000,
    "deep": b"[" * 100_000,
    "latin": b"recipe: caf\xe9",
    "an integer without end": b"recipe: " + b"9" * 5000,
    "an object": b"recipe: !!python/object/apply:os.system ['touch hacked']",
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_hostile_configuration_is_named(run: WrittenRun, content: bytes) -> None:
    (run.path / "config.yaml").write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ConfigError, match=r"run/config\.yaml: ") as caught:
        read_run(run.path)
    assert time.process_time() - begin < 20
    assert len(str(caught.value)) < 2000


def test_values_are_counted_while_they_are_read(run: WrittenRun) -> None:
    (run.path / "config.yaml").write_bytes(CONFIGS["too many values"])
    with pytest.raises(ConfigError, match=r"line 1, column 200000: more than 100,000 values$"):
        read_run(run.path)


def test_a_configuration_may_have_few_aliases(run: WrittenRun) -> None:
    (run.path / "config.yaml").write_text(f"{laughs(3)}\nrecipe: *a3")
    assert len(read_run(run.path).config["recipe"]) == 10
    write_report([run.path], "md", run.path / "x.md")


@pytest.mark.parametrize("name", ["metrics.jsonl", "versions.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_file_is_named(run: WrittenRun, name: str, kind: str) -> None:
    path = run.path / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=rf"run/{name}: .*(regular file|directory)"):
        read_run(run.path)


def test_a_loop_of_links_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("run")
    with pytest.raises(ConfigError, match="run: no such folder; give a run folder made by"):
        read_runs([tmp_path / "run"])


LINES = {
    "no end": b"\0" * (1 << 21),
    "deep": b"[" * 100_000 + b"\n",
    "half a character": b'{"event": "step", "step": 3, "x\xed\xb3\xbf": 1.0}\n',
    "latin": b'{"event": "caf\xe9", "step": 3}\n',
    "a step without end": b'{"event": "step", "step": ' + b"9" * 400 + b"}\n",
    "a step beyond all floats": b'{"event": "step", "step": 1e999}\n',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_hostile_line_is_named(run: WrittenRun, line: bytes) -> None:
    path = run.path / "metrics.jsonl"
    number = path.read_bytes().count(b"\n") + 1
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(CheckpointError, match=rf"metrics\.jsonl: line {number}"):
        read_run(run.path)


NUMBERS = ["NaN", "-Infinity", "1e999", "1e308", "-1e308", "9" * 400, '[NaN, {"x": 1e999}]', '"x"']


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_that_cannot_be_drawn(run: WrittenRun, tmp_path: Path, kind: str) -> None:
    with (run.path / "metrics.jsonl").open("a") as file:
        for step, number in enumerate(NUMBERS * 3, 9):
            for event in ("step", "validation"):
                names = ("loss", "dense_loss", "accuracy", "tokens_per_second", "memory_bytes")
                values = ", ".join(f'"{name}": {number}' for name in names)
                file.write(f'{{"event": "{event}", "step": {step}, {values}}}\n')
    target = tmp_path / f"report.{kind}"
    write_report([run.path], kind, target)
    assert target.stat().st_size > 0
    if kind == "json":
        json.loads(target.read_text(), parse_constant=pytest.fail)


NAMES = {"utf-8": "läufe".encode(), "latin-1": b"l\xe4ufe", "half": b"run\xff\xfe", "ctrl": b"a\tb"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_any_bytes(run: WrittenRun, tmp_path: Path, kind: str, name: bytes) -> None:
    path = run.path.rename(tmp_path / os.fsdecode(name))
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "validation", "step": 9, "\\udcff": 1.0, "loss": 2.0}\n')
    versions = [{"from_step": 0, "versions": {"torch\\udcff": "2"}}]
    (path / "versions.json").write_text(json.dumps(versions).replace("\\\\", "\\"))
    write_report([path], kind, tmp_path / "report")
    text = (tmp_path / "report").read_bytes().decode("utf-8")
    shown = name.decode("utf-8", "backslashreplace")
    if kind == "json":
        assert json.loads(text)["runs"][0]["run"] == shown
    else:  # Markdown escapes the backslashes
        assert " ".join(shown.replace("\\", "").split()) in " ".join(text.replace("\\", "").split())
    write_report([path], kind, path / os.fsdecode(b"x\xff"))
    assert (path / os.fsdecode(b"x\xff")).exists()


def test_two_runs_whose_names_differ_by_such_bytes(run: WrittenRun, tmp_path: Path) -> None:
    masks = {0: random_masks(SHAPES, 0.8, 1), 4: random_masks(SHAPES, 0.8, 2)}
    paths = [tmp_path / os.fsdecode(name) for name in (b"\xff", b"\xfe")]
    for path in paths:
        write_run(path, masks)
    assert [r.name for r in read_runs(paths)] == ["\\xff", "\\xfe"]


def test_a_report_for_a_pipe_or_a_device_is_written_to_it(run: WrittenRun, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    assert write_report([run.path], "csv", Path(f"/dev/fd/{writer}")) is not None
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read().startswith(b"run,")
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    write_report([run.path], "csv", null)
    assert null.is_char_device()


def test_a_link_in_the_folder_is_replaced_and_what_it_leads_to_stays(
    run: WrittenRun, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("precious")
    (run.path / "report.csv").symlink_to(tmp_path / "victim")
    assert write_report([run.path], "csv", None) == run.path / "report.csv"
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_snapshot_under_another_step_is_none(run: WrittenRun) -> None:
    (run.path / "masks/000004.safetensors").rename(run.path / "masks/4.safetensors")
    assert sorted(read_run(run.path).bits) == [0, 8]
    assert np.array_equal(read_run(run.path).mask("a.weight"), run.masks[8]["a.weight"])
