"""Reading checkpoints from files that may be truncated, foreign or hostile."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from sparsewright.core.errors import CheckpointError


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file.

    Raises:
        CheckpointError: missing, truncated, or not safetensors.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(path, f"truncated or not a safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def read_state(path: Path) -> dict[str, Any]:
    """The dict in a `torch.save` file, read without running code from it.

    Raises:
        CheckpointError: missing, truncated, not written by torch.save, holding objects other
            than tensors and plain values, or not a dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses about files that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's text goes on for paragraphs about switching the safety off.
        problem = "not a checkpoint, or holds more than tensors and plain values"
        raise CheckpointError(path, problem) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CheckpointError(path, f"truncated or not a torch file: {first}") from error
    if not isinstance(state, dict):
        raise CheckpointError(path, f"holds a {type(state).__name__}; allowed: a dict")
    return state
