"""A context manager that makes normal tensors inside `torch.inference_mode()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Make normal tensors inside the block, even if the caller is in inference mode.

    Inference tensors cannot be trained, and cannot be written to outside inference mode.
    """
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield
