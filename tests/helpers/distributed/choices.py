"""Algorithms with the choices that several ranks must handle: distribution, structure, storage."""

from __future__ import annotations

import sparsewright as sparse
from helpers.cases import COSINE, CUBIC

RISING = {"type": "cubic", "init": 0.1, "final": 0.5, "begin": 1, "end": 9}
ABLATING = {"type": "fan_in", "ablate": 0.3}
HALVES = {"type": "groups", "inputs": 2}


def is_first_linear(name, param):
    """Return whether a parameter is the layer that the first algorithm gets in the test models."""
    return param.ndim == 2 and param.shape[1] in (8, 36)


CHOICES = {
    "static by erk": lambda: sparse.Static(0.6, distribution="erk"),
    "rigl by erk in groups": lambda: sparse.RigL(
        COSINE, sparsity=0.6, update=2, distribution="erk", structure=HALVES
    ),
    "static by magnitude": lambda: sparse.Static(
        0.6, init_method="topk", distribution={"type": "global", "normalize": "mean"}
    ),
    "gmp by magnitude": lambda: sparse.GMP(
        CUBIC, update={"freq": 2, "start": 2}, distribution="global"
    ),
    "set by magnitude": lambda: sparse.SET(
        0.4, sparsity=[0.5, 0.6], update=3, distribution={"type": "global", "minimum": 0.05}
    ),
    "gmp by lamp": lambda: sparse.GMP(CUBIC, update={"freq": 2, "start": 2}, distribution="lamp"),
    "rigl by er": lambda: sparse.RigL(
        0.4, sparsity=0.6, update=2, distribution={"type": "er", "epsilon": 2}
    ),
    "set by uniform_plus": lambda: sparse.SET(
        0.4, sparsity=[0.5, 0.6], update=3, distribution="uniform_plus"
    ),
    "static in 1:2": lambda: sparse.Static(structure="1:2"),
    "gmp in 1:2": lambda: sparse.GMP(RISING, update=2, structure="1:2"),
    "set in 1:2": lambda: sparse.SET(0.4, update=2, structure="1:2"),
    "rigl in 1:2": lambda: sparse.RigL(0.4, update=2, structure="1:2"),
    "rigl with ablation by erk": lambda: sparse.RigL(
        0.4, sparsity=0.6, update=2, distribution="erk", structure=ABLATING
    ),
    "ablation in gmp": lambda: sparse.GMP(CUBIC, update=2, structure=ABLATING),
    "set with equal fan-in": lambda: sparse.SET(0.4, sparsity=0.6, update=2, structure="fan_in"),
    "ste with ablation": lambda: sparse.STE(0.6, update=2, structure=ABLATING),
    "group of rigl in 2:4 and set by erk": lambda: sparse.Group(
        [
            (is_first_linear, sparse.RigL(0.4, update=2, structure="2:4")),
            ("*weight", sparse.SET(0.4, sparsity=0.6, update=3, distribution="erk")),
        ]
    ),
    "rigl by magnitude, from dense": lambda: sparse.RigL(
        0.4, sparsity=0.6, update={"freq": 2, "start": 2}, distribution="global"
    ),
    "rigl in blocks": lambda: sparse.RigL(
        0.4, sparsity=0.6, update=2, structure={"type": "block", "shape": [1, 2]}
    ),
    "set in outputs by erk": lambda: sparse.SET(
        0.4, sparsity=0.4, update=3, structure="channel", distribution="erk"
    ),
    "gmp in inputs": lambda: sparse.GMP(
        RISING, update=2, structure={"type": "channel", "axis": 1, "norm": 2}
    ),
    "set in groups": lambda: sparse.SET(0.4, sparsity=0.6, update=2, structure=HALVES),
    "rigl, shadowed": lambda: sparse.RigL(0.4, sparsity=0.6, update=2, storage="shadowed"),
    "ste": lambda: sparse.STE(0.6),
    "ste in 1:2": lambda: sparse.STE(structure="1:2"),
    "ste in groups by erk": lambda: sparse.STE(0.6, update=2, structure=HALVES, distribution="erk"),
    "ste by magnitude": lambda: sparse.STE([0.5, 0.6], distribution="global"),
    "group of ste and rigl": lambda: sparse.Group(
        [
            (is_first_linear, sparse.STE(0.6, update=2)),
            ("*weight", sparse.RigL(0.4, sparsity=0.5, update=3)),
        ]
    ),
}
