"""Hyperparameter schedules: a value that depends on the step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.errors import OptionError, OptionTypeError, StateError, show
from sparsewright.core.plots import plot_values

Step = int | Tensor


def as_tensor(step: Step) -> Tensor:
    """A step as a 0-d int64 tensor: an int's is on the CPU, whatever the default device."""
    return step if isinstance(step, Tensor) else torch.tensor(step, device="cpu")


class HyperParameterSchedule(ABC):
    """A value that depends on the step. Subclasses write `compute`."""

    @abstractmethod
    def compute(self, step: Step) -> Tensor:
        """The value at a step.

        Args:
            step: optimizer steps completed; an int or a 0-d int64 tensor.

        Returns:
            0-d float32 tensor on step's device.
        """

    def __call__(self, step: Step) -> Tensor:
        """The same as `compute(step)`; nothing is cached."""
        return self.compute(step)

    def update(self, is_update_step: Tensor | bool) -> None:  # noqa: B027 - few have state
        """Told once a step whether masks were due; schedules with a state move on here."""

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:  # noqa: B027 - few have one
        """Replace every state tensor by `fn` of it."""

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Smallest, largest and last value over the steps `begin..end`, both included."""
        values = [float(self.compute(step)) for step in range(begin, end + 1)]
        return min(values), max(values), values[-1]

    def state_dict(self) -> dict[str, Any]:
        """What the schedule's future depends on besides the step: plain numbers."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            StateError: the state is another schedule's.
        """
        if state_dict:
            raise StateError(repr(self), f"it has no state, but was given {show(state_dict)}")

    def plot(self, steps: int = 1000, ax: Any = None) -> Any:
        """Draw the values with matplotlib (extra `plot`); a cycle from update to update.

        Args:
            steps: the last step drawn, >= 1.
            ax: matplotlib axes to draw on; None: a new figure.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        return plot_values(self, steps, ax)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = object.__hash__


class _Formula(HyperParameterSchedule):
    """A schedule that is a formula of the step, evaluated in float64 over any number of steps."""

    def __init__(self, **numbers: float) -> None:
        for name, value in numbers.items():
            number = finite_number(f"{name} of {type(self).__name__}", value)
            # Torch takes integers of 64 bits.
            is_small = isinstance(value, int) and abs(value) < 2**53
            setattr(self, name, value if is_small else number)

    @abstractmethod
    def _at(self, step: Tensor) -> Tensor:
        """The values at float64 `step`s, elementwise."""

    def compute(self, step: Step) -> Tensor:
        """The value at a step; see the class for the formula."""
        return self._at(as_tensor(step).double()).float()

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Smallest, largest and last value over the steps `begin..end`, both included."""
        values = self._at(torch.arange(begin, end + 1, dtype=torch.float64, device="cpu")).float()
        return values.min().item(), values.max().item(), values[-1].item()


def finite_number(what: str, value: Any) -> float:
    """A number that was given as an option.

    Raises:
        OptionTypeError: it is none.
        OptionError: it is not finite, or beyond the largest float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionTypeError(what, value, "a finite number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(what, value, "a finite number")
    return number


class Constant(_Formula):
    """The same value at every step.

    >>> Constant(0.9)(1000)
    tensor(0.9000)
    """

    value: float

    def __init__(self, value: float) -> None:
        super().__init__(value=value)

    def _at(self, step: Tensor) -> Tensor:
        return torch.full_like(step, self.value)


class Linear(_Formula):
    """`init + step * slope`.

    >>> Linear(init=0.1, slope=0.02)(5)
    tensor(0.2000)
    """

    init: float
    slope: float

    def __init__(self, init: float, slope: float) -> None:
        super().__init__(init=init, slope=slope)

    def _at(self, step: Tensor) -> Tensor:
        return self.init + step * self.slope


class Exp(_Formula):
    """`final + (init - final) * e^(step * gamma)`; `gamma < 0` goes from `init` to `final`.

    >>> Exp(init=0.0, gamma=-0.1)(10)
    tensor(0.6321)
    """

    init: float
    gamma: float
    final: float

    def __init__(self, init: float, gamma: float, final: float = 1) -> None:
        super().__init__(init=init, gamma=gamma, final=final)

    def _at(self, step: Tensor) -> Tensor:
        return self.final + (self.init - self.final) * torch.exp(step * self.gamma)


class Power(_Formula):
    """`init * beta^step`.

    >>> Power(init=0.5, beta=0.9)(1)
    tensor(0.4500)
    """

    init: float
    beta: float

    def __init__(self, init: float, beta: float) -> None:
        super().__init__(init=init, beta=beta)

    def _at(self, step: Tensor) -> Tensor:
        return self.init * torch.pow(torch.full_like(step, self.beta), step)


class Cosine(_Formula):
    """`o + a * cos(step * pi / half_period)`, `o = (init + minimum) / 2`, `a = init - o`.

    Goes from `init` to `minimum` in `half_period` steps and back in as many.

    Source: the drop-fraction decay of RigL, arXiv:1911.11134, section 3, with `minimum = 0`.

    >>> Cosine(init=0.3, half_period=10)(5), Cosine(init=0.3, half_period=10, minimum=0.1)(10)
    (tensor(0.1500), tensor(0.1000))
    """

    init: float
    half_period: float
    minimum: float

    def __init__(self, init: float, half_period: float, minimum: float = 0) -> None:
        super().__init__(init=init, half_period=half_period, minimum=minimum)
        if self.half_period <= 0:
            raise OptionError("half_period of Cosine", half_period, "a number of steps > 0")

    def _at(self, step: Tensor) -> Tensor:
        offset = (self.init + self.minimum) / 2
        amplitude = self.init - offset
        return offset + amplitude * torch.cos(step * (math.pi / self.half_period))


class Cubic(_Formula):
    """`final + (init - final) * (1 - t)^3`, `t = clamp((step - begin) / (end - begin), 0, 1)`.

    Source: gradual magnitude pruning, arXiv:1710.01878, equation 1.

    >>> cubic = Cubic(init=0.0, final=0.9, begin=10, end=20)
    >>> cubic(10), cubic(15), cubic(20), cubic(99)
    (tensor(0.), tensor(0.7875), tensor(0.9000), tensor(0.9000))
    """

    init: float
    final: float
    begin: float
    end: float

    def __init__(self, init: float, final: float, begin: float, end: float) -> None:
        super().__init__(init=init, final=final, begin=begin, end=end)
        if self.end <= self.begin:
            raise OptionError("end of Cubic", end, f"a step > begin = {begin}")

    def _at(self, step: Tensor) -> Tensor:
        t = ((step - self.begin) / (self.end - self.begin)).clamp(0, 1)
        return self.final + (self.init - self.final) * (1 - t) ** 3


class Cycling(HyperParameterSchedule):
    """The next of `values` after each update step, in a circle.

    >>> cycling = Cycling([0.3, 0.5])
    >>> cycling(0), cycling.update(True), cycling(1), cycling.update(False), cycling(2)
    (tensor(0.3000), None, tensor(0.5000), None, tensor(0.5000))
    """

    def __init__(self, values: Sequence[float]) -> None:
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise OptionTypeError("values of Cycling", values, "a list of numbers")
        if not values:
            raise OptionError("values of Cycling", values, "a list of at least one number")
        self.values = [finite_number("an entry of a list of values", value) for value in values]
        self.index = 0

    def compute(self, step: Step) -> Tensor:
        """The value in turn; the step does not matter."""
        return as_tensor(step).new_tensor(self.values[self.index], dtype=torch.float32)

    def update(self, is_update_step: Tensor | bool) -> None:
        """Move on to the next value if this was an update step."""
        if is_update_step:
            self.index = (self.index + 1) % len(self.values)

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Smallest, largest and last of the values, whatever the steps."""
        return min(self.values), max(self.values), self.values[-1]

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace the position in the circle by `fn` of it (a 0-d int64 tensor)."""
        self.load_state_dict({"index": int(fn(torch.tensor(self.index, device="cpu")))})

    def state_dict(self) -> dict[str, Any]:
        """The position in the circle: `{"index": int}`."""
        return {"index": self.index}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back the position.

        Raises:
            StateError: no `index`, or one outside the values; or more than that.
        """
        index = state_dict.get("index")
        if type(index) is not int:
            raise StateError(repr(self), f"index must be an integer, not {show(index)}")
        if not 0 <= index < len(self.values):
            problem = f"index {show(index)} is outside 0..{len(self.values) - 1}"
            raise StateError(repr(self), problem)
        if len(state_dict) > 1:
            raise StateError(repr(self), f"it has an index only, but was given {show(state_dict)}")
        self.index = index

    def __repr__(self) -> str:
        return f"Cycling({self.values})"


class Lambda(HyperParameterSchedule):
    """Any function of the step.

    Args:
        fn: `step -> number` or 0-d tensor.

    >>> Lambda(lambda step: 0.1 * step)(3)
    tensor(0.3000)
    """

    def __init__(self, fn: Callable[[Step], Any]) -> None:
        if not callable(fn):
            raise OptionTypeError("fn of Lambda", fn, "a function of the step")
        self.fn = fn

    def compute(self, step: Step) -> Tensor:
        """`fn(step)` as a 0-d tensor."""
        value, device = self.fn(step), as_tensor(step).device
        return torch.as_tensor(value, dtype=torch.float32, device=device).reshape(())
