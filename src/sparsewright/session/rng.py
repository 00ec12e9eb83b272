"""Randomness that belongs to the run: a fresh generator per (seed, parameter, step)."""

from __future__ import annotations

import hashlib

import torch


def make_generator(seed: int, name: str, step: int) -> torch.Generator:
    """A CPU generator keyed by what it is for, not by what was drawn before.

    Nothing has to be stored to resume a run but the seed and the step, and every rank of a
    distributed run draws the same numbers. The global generator is neither read nor moved.

    Args:
        seed: the algorithm's seed.
        name: full name of the parameter.
        step: optimizer steps completed.

    >>> [torch.rand(1, generator=make_generator(0, "fc", s)).item() for s in (5, 5)] == 2 * [
    ...     torch.rand(1, generator=make_generator(0, "fc", 5)).item()]
    True
    """
    digest = hashlib.sha256(f"{seed}\0{name}\0{step}".encode()).digest()
    generator = torch.Generator("cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator
