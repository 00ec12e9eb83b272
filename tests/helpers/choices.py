"""Configs for all members of all choices, read from the lists of their packages."""

from __future__ import annotations

import inspect
import math

import torch

import sparsewright as sparse
from sparsewright import algorithms, distributions, layers, schedules, storage, structures
from sparsewright.core.counts import num_kept
from sparsewright.errors import OptionError

RISING = {"type": "cubic", "init": 0.1, "final": 0.5, "begin": 1, "end": 4}

# Arguments for constructors that have no defaults for them.
ARGUMENTS = {
    "groups": {"inputs": 2},
    "n_m": {"n": 2, "m": 4},
    "layers": {"layers": {"*0.weight": 0.25}},
    "constant": {"value": 0.5},
    "linear": {"init": 0.2, "slope": 0.05},
    "exp": {"init": 0.1, "gamma": -0.2, "final": 0.6},
    "power": {"init": 0.5, "beta": 0.9},
    "cosine": {"init": 0.5, "half_period": 8},
    "cubic": {"init": 0.1, "final": 0.5, "begin": 1, "end": 5},
    "cycling": {"values": [0.25, 0.5]},
    "lambda": {"fn": lambda step: 0.4},
}


def configs_of(members):
    """Return the config of each member of a package's list, by name."""
    return {m.name: {"type": m.name, **ARGUMENTS.get(m.name, {})} for m in members}


STRUCTURES = {
    **configs_of(structures.ALL),
    "transposable n_m": {"type": "n_m", "n": 2, "m": 4, "transposable": True},
    "fan_in with ablation": {"type": "fan_in", "ablate": 0.3},
}
DISTRIBUTIONS = configs_of(distributions.ALL)
SCHEDULES = configs_of(schedules.ALL)
STORAGES = [member.name for member in storage.ALL]
ALGORITHMS = [member.name for member in algorithms.ALL]
KINDS = layers.KINDS


def config_of(algorithm, **choices):
    """Return a config of an algorithm, updated every second step.

    The level is 0.5, or rises if the algorithm does not accept a constant level.
    """
    (cls,) = [member for member in algorithms.ALL if member.name == algorithm]
    options = {"update": 2} if issubclass(cls, sparse.DynamicSparsityAlgorithm) else {}
    given = {"algorithm": algorithm, "sparsity": 0.5, **options, **choices}
    rising = {**given, "sparsity": RISING}
    return rising if not is_valid(given) and is_valid(rising) else given


def possible_counts(structure, shape, level):
    """Return the numbers of entries that a weight can keep at a level."""
    kept = structure.num_kept(torch.Size(shape), level)
    if kept is not None:
        return [kept]
    budget = num_kept(level, math.prod(shape))  # neurons with an equal share of it each
    return range(budget - structure.rows(torch.Size(shape))[0] + 1, budget + 1)


def is_valid(config):
    """Return whether a config can be built."""
    try:
        sparse.configure(config)
    except OptionError:
        return False
    return True


def own_storage(algorithm):
    """Return the default storage of an algorithm."""
    return next(cls for cls in algorithms.ALL if cls.name == algorithm).storages[0]


def why_not(algorithm, structure, distribution, held):
    """Return a pattern of the error that a combination must raise; "" if it works."""
    (cls,) = [member for member in algorithms.ALL if member.name == algorithm]
    if held not in cls.storages:
        needed = " or ".join(map(repr, cls.storages))
        return rf"^storage='{held}' does not work with {cls.__name__}, which needs {needed}\.$"
    made = distributions.make_distribution(distribution)
    if structures.make_structure(structure).has_one_level and not made.has_one_level:
        return (
            r"^distribution=\w+\(.*\) does not work with structure=NM\(2, 4.*\), which has only "
            r"one level\. Use 'uniform', whose option 'dense' keeps layers dense\.$"
        )
    return ""


def defaults_of(cls):
    """Return whether a constructor can be called without arguments."""
    parameters = list(inspect.signature(cls).parameters.values())
    return all(p.default is not p.empty for p in parameters)
