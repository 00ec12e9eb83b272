"""The pattern that each structure requires of a mask, checked without the structure's own code."""

from __future__ import annotations

import math

from torch import Tensor

from helpers.twins import kept_exactly


def assert_pattern(structure, mask: Tensor, level: float) -> None:
    """Assert that a mask follows a structure at a level, with exact counts.

    Args:
        structure: the structure's config, a dict with `type`.
        mask: bool, `(out, in, *kernel)`.
        level: the level of this weight.
    """
    _PATTERNS[structure["type"]](mask, level, **{k: v for k, v in structure.items() if k != "type"})


def _unstructured(mask, level):
    assert int(mask.sum()) == kept_exactly(level, mask.numel())


def _groups(mask, level, inputs=None, outputs=None):
    dim, number = (1, inputs) if inputs else (0, outputs)
    groups = mask.movedim(dim, 0).reshape(number, -1)
    assert set(groups.sum(1).tolist()) <= {kept_exactly(level, groups.shape[1])}


def _n_m(mask, level, n, m, transposable=False):
    sides = [mask.movedim(1, -1), mask.movedim(0, -1)] if transposable else [mask.movedim(1, -1)]
    counts = [side.unflatten(-1, (-1, m)).sum(-1) for side in sides]
    if math.isclose(level, 1 - n / m, abs_tol=1e-6):
        assert all((count == n).all() for count in counts)
    else:  # while the level rises, the mask includes an n:m mask
        assert all((count >= n).all() for count in counts)
        assert int(mask.sum()) == kept_exactly(level, mask.numel())


def _block(mask, level, shape=(4, 4), pool="mean"):
    tiles = mask.unflatten(1, (-1, shape[1])).unflatten(0, (-1, shape[0])).transpose(1, 2)
    _assert_units(tiles.flatten(0, 1).flatten(1), level)


def _channel(mask, level, axis=0, norm=1):
    _assert_units(mask.movedim(axis, 0).flatten(1), level)


def _assert_units(units, level):
    """Assert that each row is live or pruned as a whole, and that the number is exact."""
    live = units.any(1)
    assert (units == live.unsqueeze(1)).all()
    assert int(live.sum()) == kept_exactly(level, len(units))


def _fan_in(mask, level, ablate=None, exempt=()):
    rows = mask.flatten(1).sum(1)
    if ablate is None:
        assert set(rows.tolist()) <= {kept_exactly(level, mask[0].numel())}
        return
    budget = kept_exactly(level, mask.numel())
    active = int((rows > 0).sum())
    assert set(rows.tolist()) <= {0, budget // max(active, 1)}


_PATTERNS = {
    "unstructured": _unstructured,
    "groups": _groups,
    "n_m": _n_m,
    "block": _block,
    "channel": _channel,
    "fan_in": _fan_in,
}
