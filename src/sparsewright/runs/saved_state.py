"""Reading checkpoints from files that may be truncated, foreign or hostile."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsewright.errors import CheckpointError
from sparsewright.formats.read_file import check_regular
from sparsewright.storage import compressed_file


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file.

    Raises:
        CheckpointError: missing, truncated, or not safetensors.
    """
    try:
        check_regular(path)
        return compressed_file.read_tensors(path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def read_state(path: Path) -> dict[str, Any]:
    """The dict in a `torch.save` file, read without running code from it.

    Raises:
        CheckpointError: missing, truncated, not written by torch.save, holding objects other
            than tensors and plain values, or not a dict.
    """
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses about files that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's text goes on for paragraphs about switching the safety off.
        problem = "not a checkpoint, or holds more than tensors and plain values"
        raise CheckpointError(path, problem) from error
    except Exception as error:  # what the bytes can provoke is up to zip, pickle and torch
        first = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CheckpointError(path, f"truncated or not a torch file: {first}") from error
    if not isinstance(state, dict):
        raise CheckpointError(path, f"holds a {type(state).__name__}; allowed: a dict")
    return state
