"""Step counts of the followed optimizers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import zip_longest

CounterState = tuple[list[int], dict[int, set[Hashable]]]


class StepCounter:
    """Count the steps of optimizers, by their index (slot) among the followed optimizers.

    Attributes:
        steps: number of steps that each optimizer has completed. After a load it can be longer
            than the list of followed optimizers.
    """

    def __init__(self, steps: Iterable[int] = ()) -> None:
        self.steps = list(steps)
        self._done: dict[int, set[Hashable]] = {}

    @property
    def furthest(self) -> int:
        """Return the highest step count."""
        return max(self.steps, default=0)

    def steps_at(self, slot: int) -> int:
        """Return the step count of one optimizer."""
        return self.steps[slot] if slot < len(self.steps) else 0

    def load(self, steps: Iterable[int]) -> None:
        """Continue from the given counts."""
        self.steps = list(steps)
        self._done.clear()

    def merge(self, steps: Iterable[int]) -> None:
        """Continue each optimizer from the higher one of its count and the given count."""
        self.load(map(max, zip_longest(self.steps, steps, fillvalue=0)))

    def fold(self) -> None:
        """Keep one optimizer, which continues from the highest count."""
        if len(self.steps) > 1:
            self.load([self.furthest])

    def state(self) -> CounterState:
        """Return a state for `restore`."""
        return list(self.steps), {slot: set(done) for slot, done in self._done.items()}

    def restore(self, state: CounterState) -> None:
        """Restore a state from `state`."""
        self.steps = list(state[0])
        self._done = {slot: set(done) for slot, done in state[1].items()}

    def has_done(self, slot: int, members: Iterable[Hashable]) -> bool:
        """Return True if a new step must be counted before these members are updated.

        This is the case if one of them took part in the optimizer's current step, or if no member
        did. Otherwise the members are updated late and join the current step.
        """
        done = self._done.get(slot, set())
        return not done or bool(done.intersection(members))

    def join(self, slot: int, members: Iterable[Hashable]) -> None:
        """Record that members take part in the optimizer's current step."""
        self._done.setdefault(slot, set()).update(members)

    def count(self, slot: int | None) -> None:
        """Count a step of one optimizer, or of all from the highest count if `slot` is None."""
        if slot is None:
            self.steps = [self.furthest] * len(self.steps)
        for stepped in range(len(self.steps)) if slot is None else [slot]:
            self.steps[stepped] += 1
            self._done.pop(stepped, None)

    def make_room(self, size: int) -> None:
        """Add counts of 0 until there are at least `size` optimizers."""
        self.steps += [0] * (size - len(self.steps))

    def take_over(self, slot: int, steps: int) -> None:
        """Set an optimizer's count and drop the counts of later slots."""
        self.make_room(slot)
        self.steps[slot:] = [steps]

    def reach(self, slot: int, steps: int) -> None:
        """Raise an optimizer's count to at least `steps`."""
        self.make_room(slot + 1)
        self.steps[slot] = max(self.steps[slot], steps)

    def drop(self, slot: int) -> None:
        """Forget an optimizer."""
        del self.steps[slot : slot + 1]
        self._done.clear()
