"""What can be set on an algorithm, and on all those of a Group at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, TypedDict, cast

from torch import Tensor

from sparsewright.core.counts import Level
from sparsewright.core.structure import Structure
from sparsewright.distributions import Distribution, DistributionLike, make_distribution
from sparsewright.errors import (
    ExclusiveOptionsError,
    IncompatibleOptionError,
    MissingOptionError,
    OptionError,
    UnknownOptionError,
)
from sparsewright.schedules.schedule import ScheduleLike, constant_value
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.session.levels import Levels
from sparsewright.session.replicas import ReplicaGroup, check_process_group
from sparsewright.session.representation import constructor_options
from sparsewright.session.session import Session
from sparsewright.storage import ALL
from sparsewright.structures import StructureLike, make_structure

LevelLike = ScheduleLike | Mapping[Tensor, ScheduleLike]
"""A level: a number, a schedule or what stands for one; or a mapping `{parameter: level}`."""


def by_parameter(sparsity: object) -> Mapping[Tensor, ScheduleLike]:
    """Return levels that were given by parameter; an empty mapping if they were not."""
    is_one = isinstance(sparsity, Mapping) and any(isinstance(key, Tensor) for key in sparsity)
    return cast("Mapping[Tensor, ScheduleLike]", sparsity) if is_one else {}


class Choices(TypedDict, total=False):
    """The options that every algorithm passes on to `SparsityAlgorithm`."""

    seed: int
    storage: str | None
    distribution: DistributionLike
    structure: StructureLike


def check_keywords(algorithm: type, given: Iterable[str]) -> None:
    """Raise UnknownOptionError for a keyword that the constructor of a class does not take."""
    allowed = list(constructor_options(algorithm))
    for key in given:
        if key not in allowed:
            raise UnknownOptionError(algorithm.__name__, key, allowed)


def level_of(algorithm: type, structure: Structure, drop_fraction: object = None) -> Level:
    """Return the level of a structure that has only one, where no level is given.

    Args:
        algorithm: the class whose constructor was called.
        structure: its structure.
        drop_fraction: what was given as its first argument, if that is not the level.

    Raises:
        MissingOptionError: the structure takes any level.
    """
    try:
        return structure.level(None)
    except MissingOptionError as error:
        advice = "For example, pass sparsity=0.9."
        if isinstance(drop_fraction, float) and drop_fraction >= 0.5:  # perhaps meant as a level
            advice = f"The first argument is drop_fraction; pass sparsity={drop_fraction} by name."
        name = algorithm.__name__
        raise MissingOptionError("sparsity", name, error.allowed, advice=advice) from None


class Settings(ABC):
    """Settings of an algorithm; setting one on a Group sets it for all of its algorithms.

    Attributes:
        storages: the storages that the algorithm can use; the first is its own choice.
    """

    storages: ClassVar[tuple[str, ...]] = tuple(member.name for member in ALL)
    schedules: ScheduleSet
    session: Session
    _own_levels: dict[Tensor, str]

    def _choose(
        self, storage: str | None, distribution: DistributionLike, structure: StructureLike
    ) -> None:
        """Take the choices of a constructor."""
        self._levels = Levels(make_distribution(distribution))
        self._structure = make_structure(structure)
        self._is_structure_given = structure is not None
        self._autoupdate = True
        self._storage: str | None = (
            self.storages[0] if storage is None else self._checked_storage(storage)
        )

    def _set_sparsity(self, sparsity: LevelLike | None) -> None:
        """Take the level, or levels, of a constructor."""
        if sparsity is None:
            sparsity = level_of(type(self), self._structure)
        own = by_parameter(sparsity)
        for index, (param, level) in enumerate(own.items()):
            self._own_levels[param] = self.schedules.add_shared(f"sparsity.{index}", level)
        if not own:
            self.schedules.add("sparsity", cast("ScheduleLike", sparsity))

    def _checked_storage(self, storage: str) -> str:
        """Return a storage's name, if the algorithm can use it.

        Raises:
            OptionError: there is no storage of that name.
            IncompatibleOptionError: the algorithm cannot use it.
        """
        name = type(self).__name__
        if not isinstance(storage, str) or storage not in Settings.storages:
            raise OptionError("storage", storage, self.storages)
        if storage not in self.storages:
            needed = " or ".join(map(repr, self.storages))
            raise IncompatibleOptionError("storage", storage, name, f"needs {needed}")
        return storage

    @property
    @abstractmethod
    def algorithms(self) -> Sequence[Settings]:
        """The distinct algorithms of a Group, in order; any other algorithm is its own only one."""

    def _check_choices(self, distribution: Distribution, structure: Structure) -> None:
        """Raise if options do not work together.

        Raises:
            LevelError: a constant level that the structure cannot hold.
            ExclusiveOptionsError: levels by parameter and a distribution.
            IncompatibleOptionError: a distribution for a structure that has one level.
        """
        if not distribution.is_uniform and self._own_levels:
            raise ExclusiveOptionsError(["levels by parameter", "a distribution"])
        if not distribution.is_uniform and structure.has_one_level:
            raise IncompatibleOptionError(
                "distribution",
                distribution,
                f"structure={structure!r}",
                "has only one level",
                ["uniform"],
            )
        for name, schedule in self.schedules.items():
            level = constant_value(schedule)
            if name.startswith("sparsity") and level is not None:
                structure.level(level)

    @property
    def distribution(self) -> Distribution:
        """Which weight gets which level."""
        return self._levels.distribution

    @distribution.setter
    def distribution(self, value: DistributionLike) -> None:
        made = make_distribution(value)
        self._check_choices(made, self._structure)
        self._levels = Levels(made)

    @property
    def structure(self) -> Structure:
        """Which entries of a weight stand or fall together."""
        return self._structure

    @structure.setter
    def structure(self, value: StructureLike) -> None:
        made = make_structure(value)
        self._check_choices(self.distribution, made)
        self._structure, self._is_structure_given = made, value is not None

    @property
    def skips_misfits(self) -> bool:
        """Whether weights that the structure does not fit stay dense under the default filter.

        That of the option `structure` is meant for all weights that it fits; groups to balance and
        a score shaper are meant for every weight.
        """
        return self._is_structure_given

    @property
    def score_shaper(self) -> Structure:
        """The same as `structure`; setting it takes any score shaper."""
        return self._structure

    @score_shaper.setter
    def score_shaper(self, value: StructureLike) -> None:
        self.structure = value
        self._is_structure_given = False

    @property
    def autoupdate(self) -> bool:
        """Whether `update` is called after each step of a sparsified optimizer."""
        return all(algorithm._autoupdate for algorithm in (*self.algorithms, self))

    @autoupdate.setter
    def autoupdate(self, value: bool) -> None:
        for settings in (*self.algorithms, self):
            settings._autoupdate = value

    @property
    def storage(self) -> str:
        """How weights are held; `"mixed"` if those of a Group are not alike."""
        storages = {algorithm._storage for algorithm in self.algorithms} or {self._storage}
        return "mixed" if len(storages) > 1 else storages.pop() or self.storages[0]

    @storage.setter
    def storage(self, value: str) -> None:
        for algorithm in self.algorithms:
            algorithm._checked_storage(value)
        for settings in (*self.algorithms, self):
            settings._storage = value

    @property
    def process_group(self) -> ReplicaGroup:
        """The ranks that train replicas of the model, whose dense gradients are averaged.

        `"auto"`: those of the `DistributedDataParallel` that `apply` was given, or else all, once
        `torch.distributed` is initialized. A `ProcessGroup`: its ranks. None: nobody.
        """
        return self.session.process_group

    @process_group.setter
    def process_group(self, group: ReplicaGroup) -> None:
        self.session.process_group = check_process_group(group)
        self.session.have_agreed = False
