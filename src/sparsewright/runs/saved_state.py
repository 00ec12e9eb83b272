"""Read checkpoint files that may be truncated, of another format, or malicious."""

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
    """Read the tensors and metadata in a `.safetensors` file.

    Raises:
        CheckpointError: the file is missing, truncated, or not in safetensors format.
    """
    try:
        check_regular(path)
        return compressed_file.read_tensors(path)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error


def read_state(path: Path) -> dict[str, Any]:
    """Read the dict in a `torch.save` file, without running code from the file.

    Raises:
        CheckpointError: the file is missing, truncated or not written by torch.save, holds objects
            other than tensors and plain values, or does not hold a dict.
    """
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about files that it then rejects
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's own message is long, and explains how to turn the safety check off.
        problem = "not a checkpoint, or holds objects other than tensors and plain values"
        raise CheckpointError(path, problem) from error
    except Exception as error:  # zip, pickle and torch document no errors for bad bytes
        problem = "truncated, or not a file that torch.save wrote"
        raise CheckpointError(path, problem) from error
    if not isinstance(state, dict):
        raise CheckpointError(path, f"expected a dict in the file, got {type(state).__name__}")
    return state
