"""Settings of an algorithm, or of all algorithms in a Group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, cast

from torch import Tensor

from sparsewright.core.counts import Level
from sparsewright.core.structure import Structure
from sparsewright.distributions import Distribution, DistributionLike, make_distribution
from sparsewright.errors import (
    AlgorithmError,
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
"""A level: a number, a schedule or its short form; or a mapping `{parameter: level}`."""


def by_parameter(sparsity: object) -> Mapping[Tensor, ScheduleLike]:
    """Return the levels if they were given per parameter, else an empty mapping."""
    is_one = isinstance(sparsity, Mapping) and any(isinstance(key, Tensor) for key in sparsity)
    return cast("Mapping[Tensor, ScheduleLike]", sparsity) if is_one else {}


class Choices(TypedDict, total=False):
    """Options that every algorithm passes to `SparsityAlgorithm`."""

    seed: int
    storage: str | None
    distribution: DistributionLike
    structure: StructureLike


def check_keywords(algorithm: type, given: Iterable[str]) -> None:
    """Raise UnknownOptionError for a keyword that a class's constructor does not accept."""
    allowed = list(constructor_options(algorithm))
    for key in given:
        if key not in allowed:
            raise UnknownOptionError(algorithm.__name__, key, allowed)


def level_of(
    algorithm: type,
    structure: Structure,
    distribution: Distribution,
    drop_fraction: object = None,
) -> Level | None:
    """Return the level for a call without a level: the only level of a structure such as 2:4.

    The result is None if the distribution sets levels without one.

    Args:
        algorithm: the class whose constructor was called.
        structure: the structure.
        distribution: the distribution.
        drop_fraction: the first argument of the call, for classes whose first argument is not the
            level.

    Raises:
        MissingOptionError: a level is needed, and the structure allows more than one.
    """
    if not distribution.uses_level:
        return None
    try:
        return structure.level(None)
    except MissingOptionError as error:
        advice = "For example, pass sparsity=0.9."
        if isinstance(drop_fraction, float) and drop_fraction >= 0.5:  # probably meant as a level
            advice = f"The first argument is drop_fraction; pass sparsity={drop_fraction} by name."
        name = algorithm.__name__
        raise MissingOptionError("sparsity", name, error.allowed, advice=advice) from None


class _NotInitialized:
    """Stand for an attribute that `SparsityAlgorithm.__init__` sets on the instance."""

    def __get__(self, algorithm: object, owner: type) -> object:
        if algorithm is None:  # the attribute of the class
            return self
        problem = "its __init__ must call super().__init__ with the options of SparsityAlgorithm"
        raise AlgorithmError(owner.__name__, problem)


class Settings(ABC):
    """Settings of an algorithm. Setting one on a Group sets it for all its algorithms.

    Attributes:
        storages: names of the storages that the algorithm supports; the first one is the default.
    """

    storages: ClassVar[tuple[str, ...]] = tuple(member.name for member in ALL)
    schedules: ScheduleSet
    session: Session
    _own_levels: dict[Tensor, str]
    _is_level_given: bool = True
    _structure_now: Structure | None = None  # the structure of the weight that is being updated
    _routes: Any = _NotInitialized()

    def _choose(
        self, storage: str | None, distribution: DistributionLike, structure: StructureLike
    ) -> None:
        """Store the choices that were passed to a constructor."""
        self._levels = Levels(make_distribution(distribution))
        self._structure = make_structure(structure)
        self._structures: dict[str, Structure] = {}
        self._is_structure_given = structure is not None
        self._autoupdate = True
        self._storage: str | None = (
            self.storages[0] if storage is None else self._checked_storage(storage)
        )

    def _set_sparsity(self, sparsity: LevelLike | None) -> None:
        """Store the level, or the levels per parameter, that were passed to a constructor."""
        if sparsity is None:
            sparsity = level_of(type(self), self._structure, self.distribution)
        if sparsity is None:
            self._is_level_given, sparsity = False, 0.0
        own = by_parameter(sparsity)
        for index, (param, level) in enumerate(own.items()):
            self._own_levels[param] = self.schedules.add_shared(f"sparsity.{index}", level)
        if not own:
            self.schedules.add("sparsity", cast("ScheduleLike", sparsity))

    def _checked_storage(self, storage: str) -> str:
        """Return a storage's name if the algorithm supports it.

        Raises:
            OptionError: no storage has this name.
            IncompatibleOptionError: the algorithm does not support this storage.
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
        """Return a Group's distinct algorithms, in order; otherwise a list with the algorithm."""

    def _check_choices(self, distribution: Distribution, structure: Structure) -> None:
        """Raise an error if options do not work together.

        Raises:
            LevelError: the structure does not allow a constant level.
            ExclusiveOptionsError: both levels per parameter and a distribution are given.
            IncompatibleOptionError: a distribution is given for a structure with only one level.
            MissingOptionError: the distribution needs a level, and none was given.
        """
        if not self._is_level_given and distribution.uses_level:
            allowed = "a number from 0 to 1; create a new algorithm with this level"
            raise MissingOptionError("sparsity", f"distribution={distribution!r}", allowed)
        if not distribution.is_uniform and self._own_levels:
            raise ExclusiveOptionsError(["levels by parameter", "a distribution"])
        if structure.has_one_level and not distribution.has_one_level:
            raise IncompatibleOptionError(
                "distribution",
                distribution,
                f"structure={structure!r}",
                "has only one level",
                "'uniform', whose option 'dense' keeps layers dense",
            )
        for name, schedule in self.schedules.items():
            level = constant_value(schedule)
            if name.startswith("sparsity") and level is not None:
                structure.level(level)

    @property
    def distribution(self) -> Distribution:
        """Return the distribution, which decides the level of each weight."""
        return self._levels.distribution

    @distribution.setter
    def distribution(self, value: DistributionLike) -> None:
        made = make_distribution(value)
        self._check_choices(made, self._structure)
        self._levels = Levels(made)

    @property
    def structure(self) -> Structure:
        """Return the structure, which decides which entries are kept or pruned together.

        Inside `update_mask`, this is the structure of the weight that is being updated, with its
        output and input dimensions.
        """
        return self._structure_now or self._structure

    @structure.setter
    def structure(self, value: StructureLike) -> None:
        made = make_structure(value)
        self._check_choices(self.distribution, made)
        self._structure, self._is_structure_given = made, value is not None
        self._structures = {}

    def structure_of(self, name: str) -> Structure:
        """Return the structure of one weight, by full name, for a weight that is (out, in, ...).

        Raises:
            OptionError: a glob of the structure matches none of the algorithm's weights.
        """
        if name not in self._structures:
            own = [p.name for p in self.session.parameters.values() if id(p.rule) == id(self)]
            self._structures = dict(self._structure.for_weights(own))
        return self._structures[name]

    @property
    def skips_misfits(self) -> bool:
        """Return whether the default filter skips weights that the structure does not fit.

        True for the option `structure`, which applies to the weights that it fits. False for
        balanced groups and score shapers, which must fit every weight.
        """
        return self._is_structure_given

    @property
    def score_shaper(self) -> Structure:
        """Return the structure. You can set any score shaper, which must fit every weight."""
        return self.structure

    @score_shaper.setter
    def score_shaper(self, value: StructureLike) -> None:
        self.structure = value
        self._is_structure_given = False

    @property
    def autoupdate(self) -> bool:
        """Return whether `update` is called after each step of the optimizers passed to `apply`."""
        return all(algorithm._autoupdate for algorithm in (*self.algorithms, self))

    @autoupdate.setter
    def autoupdate(self, value: bool) -> None:
        for settings in (*self.algorithms, self):
            settings._autoupdate = value

    @property
    def storage(self) -> str:
        """Return the storage's name, or `"mixed"` if a Group's algorithms use different ones."""
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
        """Return the ranks that train replicas of the model and average their dense gradients.

        `"auto"` selects the ranks of the `DistributedDataParallel` model passed to `apply`, or all
        ranks if `torch.distributed` is initialized. You can also set a `ProcessGroup`, or None if
        this process trains alone.
        """
        return self.session.process_group

    @process_group.setter
    def process_group(self, group: ReplicaGroup) -> None:
        self.session.process_group = check_process_group(group)
        self.session.have_agreed = False
