"""Configuration files with hostile bytes raise our error immediately and run no code."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsewright.cli import main
from sparsewright.errors import ConfigError, SparsewrightError, SparsityWarning
from sparsewright.runs.config import RunConfig
from sparsewright.runs.yaml_file import read_yaml


def laughs(levels: int, form: str) -> bytes:
    """Return aliases of aliases: 10**levels values in a few lines."""
    lines = ["a0: &a0 " + form.format("x: 1")]
    for n in range(1, levels + 1):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    return "\n".join(lines).encode()


def merges(levels: int) -> bytes:
    lines = ["a0: &a0 {x: 1}"]
    for n in range(1, levels + 1):
        lines.append(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}")
    return "\n".join(lines).encode()


HOSTILE = {
    "object": b"a: !!python/object/apply:os.system ['touch hacked']",
    "object/new": b"a: !!python/object/new:os.system ['touch hacked']",
    "name": b"a: !!python/name:os.system",
    "module": b"a: !!python/module:os",
    "object as a key": b"? !!python/object/apply:os.system ['touch hacked']\n: 1",
    "unknown tag": b"a: !mine 3",
    "billion laughs": laughs(9, "{{{0}}}"),
    "merged laughs": merges(9),
    "a list of itself": b"a: &a [*a]",
    "a mapping of itself": b"a: &a {b: *a}",
    "a mapping merged into itself": b"a: &a {<<: *a}",
    "no anchor": b"a: *b",
    "deep lists": b"[" * 100_000,
    "deep mappings": b"{a: " * 100_000,
    "deep blocks": b"".join(b" " * n + b"- \n" for n in range(2000)),
    "closed deep lists": b"a: " + b"[" * 5000 + b"]" * 5000,
    "two documents": b"a: 1\n---\nb: 2",
    "a list as a key": b"? [1, 2]\n: 3",
    "NUL": b"loop: {steps: 3\0}",
    "only NUL": b"\0" * 1000,
    "UTF-16": "loop: {steps: x".encode("utf-16"),
    "Latin-1": "caf\xe9: 1".encode("latin-1"),
    "an executable": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8,
    "no month": b"a: 2024-13-45",
    "no date": b"a: !!timestamp x",
    "no integer": b"a: !!int x",
    "no float": b"a: !!float x",
    "no binary": b"a: !!binary 'ab=c'",
    "an endless integer": b"a: " + b"9" * 5000,
    "a colon too many": b"a: b: c",
    "tabs": b"a:\n\t- b",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_a_config_error(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ConfigError, match=r"c\.yaml: ") as caught:
        read_yaml(path)
    done = CliRunner().invoke(main, ["train", str(path), "--out", "new"])
    assert time.process_time() - begin < 20, "reading a few lines took 20 s or more"
    assert len(str(caught.value)) < 2000
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert done.output.startswith("error: ")
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_aliases_merges_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    path.write_text("a: [" + "1, " * 50_000 + "]")
    assert len(read_yaml(path)["a"]) == 50_000


NUMBERS = ["9" * 400, "-" + "9" * 400, "9007199254740992", ".inf", "-.inf", ".nan", "1e999", "-1"]
KEYS = ["loop.seed", "loop.steps", "loop.batch_size", "loop.threads", "loop.clip", "optimizer.lr"]
KEYS += ["model.width", "model.context", "data.validation", "optimizer.beta2", "sparsity"]


@pytest.mark.parametrize("key", KEYS)
def test_numbers_out_of_bounds(tmp_path: Path, key: str) -> None:
    refused = 0
    for number in NUMBERS:
        section, _, name = key.partition(".")
        path = tmp_path / "c.yaml"
        path.write_text(f"{section}: {{{name}: {number}}}" if name else f"{section}: {number}")
        try:
            config = RunConfig.from_file(path)
            path.write_text(config.to_yaml())
            assert repr(RunConfig.from_file(path)) == repr(config)
        except SparsewrightError as error:
            refused += len(str(error)) < 2000
    least = {"optimizer.lr": 4, "loop.clip": 4, "sparsity": 0}
    assert refused >= least.get(key, len(NUMBERS))


PIECES = st.sampled_from(
    [
        "loop:",
        "steps:",
        "seed:",
        "model:",
        "sparsity:",
        "trainer:",
        "init:",
        "recipe:",
        "charlm",
        "algorithm:",
        "rigl",
        "{",
        "}",
        "[",
        "]",
        "-",
        "?",
        "!",
        "!!int",
        "!!python/name:os",
        "&",
        "&a",
        "*a",
        "<<:",
        "|",
        ">",
        "%",
        "---",
        "...",
        "#",
        "'",
        '"',
        ",",
        "1",
        "-1",
        ".nan",
        "1e9",
        "0x10",
        "null",
        "~",
        "true",
        "2001-01-01",
    ]
    + ["\n", "\n  ", " ", "\t", "\0", "\ufeff", "\x85", "\u2028", "\ud7ff", "é"]
)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=14).map(" ".join).map(str.encode) | st.binary(max_size=40))
def test_random_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(content)
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SparsityWarning)
        try:
            RunConfig.from_file(path)
        except SparsewrightError as error:
            message = str(error)
    assert len(message) < 2000
