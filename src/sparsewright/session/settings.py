"""What can be set on an algorithm, and on all those of a Group at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict, cast

from torch import Tensor

from sparsewright.core.structure import Structure
from sparsewright.distributions import Distribution, DistributionLike, make_distribution
from sparsewright.errors import OptionError
from sparsewright.schedules.schedule import ScheduleLike, constant_value
from sparsewright.schedules.schedule_set import ScheduleSet
from sparsewright.session.levels import Levels
from sparsewright.session.replicas import ReplicaGroup, check_process_group
from sparsewright.session.session import Session
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


class Settings(ABC):
    """Settings of an algorithm; setting one on a Group sets it for all of its algorithms.

    Attributes:
        storages: the storages that the algorithm can use; the first is its own choice.
    """

    storages: ClassVar[tuple[str, ...]] = ("masked", "compressed", "shadowed")
    schedules: ScheduleSet
    session: Session
    _own_levels: dict[Tensor, str]

    def _choose(
        self, storage: str | None, distribution: DistributionLike, structure: StructureLike
    ) -> None:
        """Take the choices of a constructor."""
        self._levels = Levels(make_distribution(distribution))
        self._structure = make_structure(structure)
        self._has_structure = structure is not None
        self._autoupdate = True
        self._storage: str | None = (
            self.storages[0] if storage is None else self._checked_storage(storage)
        )

    def _checked_storage(self, storage: str) -> str:
        """The name of a storage that the algorithm can use.

        Raises:
            OptionError: it cannot, or there is none of that name.
        """
        if storage not in self.storages:
            name = type(self).__name__
            raise OptionError(f"storage of {name}", storage, list(self.storages))
        return storage

    @property
    @abstractmethod
    def algorithms(self) -> Sequence[Settings]:
        """The distinct algorithms of a Group, in order; any other algorithm is its own only one."""

    def _check_choices(self) -> None:
        """Raise if options do not go with each other.

        Raises:
            LevelError: a constant level that the structure cannot hold.
            OptionError: several levels for a structure that has one.
        """
        is_uniform, structure = self._levels.distribution.is_uniform, self._structure
        if not is_uniform and self._own_levels:
            raise OptionError(
                "distribution", self.distribution, "levels by parameter or a distribution, not both"
            )
        if not is_uniform and structure.has_one_level:
            raise OptionError(
                "distribution",
                self.distribution,
                f"'uniform' with the structure {structure!r}, which has one level",
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
        self._levels = Levels(make_distribution(value))
        self._check_choices()

    @property
    def structure(self) -> Structure:
        """Which entries of a weight stand or fall together."""
        return self._structure

    @structure.setter
    def structure(self, value: StructureLike) -> None:
        self._structure = make_structure(value)
        self._has_structure = value is not None
        self._check_choices()

    @property
    def score_shaper(self) -> Structure:
        """The same as `structure`; setting it takes any score shaper."""
        return self._structure

    @score_shaper.setter
    def score_shaper(self, value: StructureLike) -> None:
        self.structure = value
        self._has_structure = False

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
