"""Random generators that depend only on (seed, parameter, step)."""

from __future__ import annotations

import hashlib

import torch


def make_generator(seed: int, name: str, step: int) -> torch.Generator:
    """Return a new CPU generator for a parameter at a step.

    Earlier draws do not affect it. A resumed run therefore needs only the seed and the step, and
    all ranks of a distributed run draw the same numbers. PyTorch's global generator is not used.

    Args:
        seed: the algorithm's seed.
        name: full name of the parameter.
        step: number of completed optimizer steps.

    >>> [torch.rand(1, generator=make_generator(0, "fc", s)).item() for s in (5, 5)] == 2 * [
    ...     torch.rand(1, generator=make_generator(0, "fc", 5)).item()]
    True
    """
    digest = hashlib.sha256(f"{seed}\0{name}\0{step}".encode()).digest()
    generator = torch.Generator("cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator
