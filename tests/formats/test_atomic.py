"""Atomic writes: a file is written completely or not at all."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from sparsewright.formats.atomic import (
    draft_of,
    remove_drafts,
    remove_folder,
    write_atomically,
)


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"", b"third"):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_files_are_replaced_not_rewritten(tmp_path):
    file, before = tmp_path / "file", tmp_path / "before"
    file.write_bytes(b"old")
    os.link(file, before)
    write_atomically(file, b"new")
    assert (file.read_bytes(), before.read_bytes()) == (b"new", b"old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "file"]


def test_others_may_read_what_they_could_read_of_a_plain_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "file", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("content", ["not bytes", None])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, content):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, content)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_drafts_have_names_of_their_own_and_are_removed(tmp_path):
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    drafts = {draft_of(deep / "file") for _ in range(20)}
    assert len(drafts) == 20
    for draft in drafts:
        draft.touch()
    draft_of(tmp_path / "folder").mkdir()
    kept = [deep / "file.part", deep / ".hidden", tmp_path / "file"]
    for path in kept:
        path.touch()
    remove_drafts(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "file"}


def test_only_drafts_are_removed_as_such(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/thesis").write_text("years of work")
    (tmp_path / ".link.ab12cd34.part").symlink_to("victim")
    for name in (".mine.part", ".part", "x.ab12cd34.part", ".notes.txt.part"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".config.yaml.ab12cd34.part").write_text("")
    remove_drafts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(".mine.part", ".notes.txt.part", ".part", "victim", "x.ab12cd34.part")
    ]
    assert (tmp_path / "victim/thesis").read_text() == "years of work"


def test_a_folder_whose_removal_is_cut_short_is_gone_or_a_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "000003"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text("x")

    def cut_short(path: Path) -> None:
        (path / "a").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder)
    assert not folder.exists()
    (draft,) = tmp_path.iterdir()
    assert sorted(p.name for p in (draft / "000003").iterdir()) == ["b", "c"]
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []
