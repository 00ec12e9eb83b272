from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from helpers import plan_models
from helpers.cli_process import Command

MODELS = Path(plan_models.__file__)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    sentence = "the quick brown fox jumps over the lazy dog, again and again; "
    (tmp_path / "text.txt").write_text(sentence * 40)
    return Command(tmp_path)


@pytest.fixture
def plan(command: Command):
    """Write a config and plan it, for a model in models.py or for a recipe."""
    shutil.copy(MODELS, command.folder / "models.py")

    def run(content: object, model: str | None = "models:mlp", *options: object):
        path = command.folder / "plan.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        given = [] if model is None else ["--model", model]
        return command("plan", "plan.yaml", *given, *options)

    return run
