from __future__ import annotations

from pathlib import Path

import pytest

from cli_process import Command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    sentence = "the quick brown fox jumps over the lazy dog, again and again; "
    (tmp_path / "text.txt").write_text(sentence * 40)
    return Command(tmp_path)
