"""Safe reads of untrusted files: limited in size, and only of the named file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsewright.formats.read_file import check_regular, open_own, read_regular, read_up_to


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NOT_FILES = {
    "fifo": (fifo, "not a regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "loop": (loop, "symbolic links"),
    "device": (device, "not a regular file"),
    "nothing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    make, message = NOT_FILES[kind]
    make(tmp_path / "x")
    for read in (read_regular, check_regular):
        with pytest.raises(OSError, match=message):
            read(tmp_path / "x")


def test_a_name_with_a_nul_is_not_found() -> None:
    with pytest.raises(FileNotFoundError, match="null"):
        read_regular(Path("a\0b"))


@pytest.mark.parametrize(("size", "most"), [(10, 10), (10, None), (0, 0), (10, 11)])
def test_a_file_up_to_the_limit_is_read(tmp_path: Path, size: int, most: int | None) -> None:
    (tmp_path / "x").write_bytes(b"a" * size)
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link", most) == b"a" * size


def test_a_larger_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 100 bytes"):
        read_regular(tmp_path / "x", 100)
    with pytest.raises(OSError, match="larger than 100 bytes"):
        read_up_to(Path("/dev/zero"), 100)


def test_a_pipe_is_read_if_somebody_writes_to_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="a pipe without a writer"):
        read_up_to(tmp_path / "x", 100)
    program = "import sys, time; print('a: 1', flush=True); time.sleep(0.2); print('b: 2')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        path = Path(f"/dev/fd/{writer.stdout.fileno()}")
        assert read_up_to(path, 100) == b"a: 1\nb: 2\n"


@pytest.mark.parametrize("make", [fifo, Path.mkdir, loop, device])
def test_only_a_file_of_ones_own_is_opened_for_writing(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"regular|symbolic|directory"):
        open_own(tmp_path / "x")


def test_a_link_to_a_file_is_not_opened_for_writing(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "x").symlink_to("victim")
    with pytest.raises(OSError, match="a symbolic link"):
        open_own(tmp_path / "x")
    handle = open_own(tmp_path / "victim")
    os.write(handle, b" and more")
    os.close(handle)
    assert (tmp_path / "victim").read_text() == "precious and more"
