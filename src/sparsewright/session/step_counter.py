"""How many steps each followed optimizer has completed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import zip_longest

CounterState = tuple[list[int], dict[int, set[Hashable]]]


class StepCounter:
    """Counts the steps of optimizers by their place among those that are followed.

    Attributes:
        steps: completed by each optimizer; may know more optimizers than are followed yet.
    """

    def __init__(self, steps: Iterable[int] = ()) -> None:
        self.steps = list(steps)
        self._done: dict[int, set[Hashable]] = {}

    @property
    def furthest(self) -> int:
        """The steps of the optimizer that has completed most."""
        return max(self.steps, default=0)

    def steps_at(self, slot: int) -> int:
        """Return the steps of one optimizer."""
        return self.steps[slot] if slot < len(self.steps) else 0

    def load(self, steps: Iterable[int]) -> None:
        """Continue from other counts."""
        self.steps = list(steps)
        self._done.clear()

    def merge(self, steps: Iterable[int]) -> None:
        """Continue, for each optimizer, from the higher of two counts."""
        self.load(map(max, zip_longest(self.steps, steps, fillvalue=0)))

    def fold(self) -> None:
        """When one optimizer remains, let it continue from the highest count."""
        if len(self.steps) > 1:
            self.load([self.furthest])

    def state(self) -> CounterState:
        """Return all that `restore` takes back."""
        return list(self.steps), {slot: set(done) for slot, done in self._done.items()}

    def restore(self, state: CounterState) -> None:
        """Take back what `state` returned."""
        self.steps = list(state[0])
        self._done = {slot: set(done) for slot, done in state[1].items()}

    def has_done(self, slot: int, members: Iterable[Hashable]) -> bool:
        """Return whether any of some members took part in the present step of an optimizer.

        A member that did not is updated late: it joins that step, and nothing is counted anew.
        """
        done = self._done.get(slot, set())
        return not done or bool(done.intersection(members))

    def join(self, slot: int, members: Iterable[Hashable]) -> None:
        """Note that members take part in the present step of an optimizer."""
        self._done.setdefault(slot, set()).update(members)

    def count(self, slot: int | None) -> None:
        """Count a step of one optimizer; None: of all, from the highest count."""
        if slot is None:
            self.steps = [self.furthest] * len(self.steps)
        for stepped in range(len(self.steps)) if slot is None else [slot]:
            self.steps[stepped] += 1
            self._done.pop(stepped, None)

    def make_room(self, size: int) -> None:
        """Know at least so many optimizers; a new one has completed no step."""
        self.steps += [0] * (size - len(self.steps))

    def take_over(self, slot: int, steps: int) -> None:
        """Let an optimizer continue the count of another one."""
        self.make_room(slot)
        self.steps[slot:] = [steps]

    def reach(self, slot: int, steps: int) -> None:
        """Let an optimizer have completed at least so many steps."""
        self.make_room(slot + 1)
        self.steps[slot] = max(self.steps[slot], steps)

    def drop(self, slot: int) -> None:
        """Forget an optimizer."""
        del self.steps[slot : slot + 1]
        self._done.clear()
