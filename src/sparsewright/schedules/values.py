"""The hyperparameter schedules: constants, formulas of the step, cycles and functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsewright.core.step import Step, device_of
from sparsewright.errors import OptionError, OptionTypeError, StateError
from sparsewright.schedules.formula import Formula, finite_number
from sparsewright.schedules.schedule import HyperParameterSchedule
from sparsewright.wording import show


class Constant(Formula):
    """Keep the same value at every step.

    >>> Constant(0.9)(1000)
    tensor(0.9000)
    """

    name = "constant"
    value: float

    def __init__(self, value: float) -> None:
        super().__init__(value=value)

    def _at(self, step: Tensor) -> Tensor:
        return torch.full_like(step, self.value)

    def exact(self, step: Step) -> Tensor:
        """Return the value that the user gave; 0-d float64 tensor on step's device."""
        return torch.tensor(self.value, dtype=torch.float64, device=device_of(step))

    def levels(self) -> Sequence[float]:
        """Return the single value."""
        return (self.value,)

    @property
    def last_step(self) -> int:
        """Return 0, because the value never changes."""
        return 0

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Return the value, rounded to float32, three times."""
        value = float(self.compute(0))
        return value, value, value


class Linear(Formula):
    """Change linearly with the step: `init + step * slope`.

    >>> Linear(init=0.1, slope=0.02)(5)
    tensor(0.2000)
    """

    name = "linear"
    init: float
    slope: float

    def __init__(self, init: float, slope: float) -> None:
        super().__init__(init=init, slope=slope)

    def _at(self, step: Tensor) -> Tensor:
        return self.init + step * self.slope


class Exp(Formula):
    """Change exponentially: `final + (init - final) * e^(step * gamma)`.

    With `gamma < 0`, the value goes from `init` toward `final`.

    >>> Exp(init=0.0, gamma=-0.1)(10)
    tensor(0.6321)
    """

    name = "exp"
    init: float
    gamma: float
    final: float

    def __init__(self, init: float, gamma: float, final: float = 1) -> None:
        super().__init__(init=init, gamma=gamma, final=final)

    def _at(self, step: Tensor) -> Tensor:
        return self.final + (self.init - self.final) * torch.exp(step * self.gamma)


class Power(Formula):
    """Multiply by a factor at each step: `init * beta^step`.

    >>> Power(init=0.5, beta=0.9)(1)
    tensor(0.4500)
    """

    name = "power"
    init: float
    beta: float

    def __init__(self, init: float, beta: float) -> None:
        super().__init__(init=init, beta=beta)

    def _at(self, step: Tensor) -> Tensor:
        return self.init * torch.pow(torch.full_like(step, self.beta), step)


class Cosine(Formula):
    """Follow a cosine: `o + a * cos(step * pi / half_period)`.

    The symbols are `o = (init + minimum) / 2` and `a = init - o`. The value goes from `init` to
    `minimum` in `half_period` steps, and back to `init` in the next `half_period` steps.

    Source: the drop-fraction decay of RigL, arXiv:1911.11134, section 3, with `minimum = 0`.

    >>> Cosine(init=0.3, half_period=10)(5), Cosine(init=0.3, half_period=10, minimum=0.1)(10)
    (tensor(0.1500), tensor(0.1000))
    """

    name = "cosine"
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

    @property
    def last_step(self) -> int:
        """Return `half_period`, rounded up; earlier values then repeat in reverse order."""
        return math.ceil(self.half_period)


class Cubic(Formula):
    """Go from `init` to `final` along a cubic: `final + (init - final) * (1 - t)^3`.

    The time is `t = clamp((step - begin) / (end - begin), 0, 1)`.

    Source: gradual magnitude pruning, arXiv:1710.01878, equation 1.

    >>> cubic = Cubic(init=0.0, final=0.9, begin=10, end=20)
    >>> cubic(10), cubic(15), cubic(20), cubic(99)
    (tensor(0.), tensor(0.7875), tensor(0.9000), tensor(0.9000))
    """

    name = "cubic"
    init: float
    final: float
    begin: float
    end: float

    def __init__(self, init: float, final: float, begin: float, end: float) -> None:
        super().__init__(init=init, final=final, begin=begin, end=end)
        if self.end <= self.begin:
            raise OptionError("end of Cubic", end, f"greater than begin = {begin}")

    def _at(self, step: Tensor) -> Tensor:
        t = ((step - self.begin) / (self.end - self.begin)).clamp(0, 1)
        return self.final + (self.init - self.final) * (1 - t) ** 3

    @property
    def last_step(self) -> int:
        """Return `end`, rounded up; the value then stays `final`."""
        return max(0, math.ceil(self.end))


class Cycling(HyperParameterSchedule):
    """Advance to the next of `values` after each mask update, and start over after the last.

    Args:
        values: one or more numbers.

    >>> cycling = Cycling([0.3, 0.5])
    >>> cycling(0), cycling.update(True), cycling(1), cycling.update(False), cycling(2)
    (tensor(0.3000), None, tensor(0.5000), None, tensor(0.5000))
    """

    name = "cycling"

    def __init__(self, values: Sequence[float]) -> None:
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise OptionTypeError("values of Cycling", values, "a list of numbers")
        if not values:
            raise OptionError("values of Cycling", values, "a list with at least one number")
        self.values = [
            finite_number(f"values[{index}] of Cycling", value)
            for index, value in enumerate(values)
        ]
        self.index = 0

    def compute(self, step: Step) -> Tensor:
        """Return the current value, which does not depend on `step`."""
        return torch.tensor(self.values[self.index], dtype=torch.float32, device=device_of(step))

    def exact(self, step: Step) -> Tensor:
        """Return the current value as the user gave it; 0-d float64 tensor on step's device."""
        return torch.tensor(self.values[self.index], dtype=torch.float64, device=device_of(step))

    def levels(self) -> Sequence[float]:
        """Return the values."""
        return self.values

    def update(self, is_update_step: Tensor | bool) -> None:
        """Advance to the next value if the step was an update step."""
        if is_update_step:
            self.index = (self.index + 1) % len(self.values)

    def get_min_max_end(self, begin: int, end: int) -> tuple[float, float, float]:
        """Return the smallest, largest and last of all values, for any steps."""
        return min(self.values), max(self.values), self.values[-1]

    def visit_state(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace the position `i` in `values`, a 0-d int64 tensor, by `fn(i)`."""
        self.load_state_dict({"index": int(fn(torch.tensor(self.index, device="cpu")))})

    def state_dict(self) -> dict[str, Any]:
        """Return the position in `values`: `{"index": int}`."""
        return {"index": self.index}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the position in `values`.

        Raises:
            StateError: `index` is missing or out of range, or the state has other keys.
        """
        index = state_dict.get("index")
        if type(index) is not int:
            raise StateError(repr(self), f"index must be an integer; got {show(index)}")
        if not 0 <= index < len(self.values):
            most = len(self.values) - 1
            raise StateError(repr(self), f"index must be between 0 and {most}; got {show(index)}")
        if len(state_dict) > 1:
            raise StateError(repr(self), f"expected the key index only; got {show(state_dict)}")
        self.index = index

    def __repr__(self) -> str:
        return f"Cycling({self.values})"


class Lambda(HyperParameterSchedule):
    """Compute the value with a function of the step.

    Args:
        fn: a function `step -> number`; it can also return a 0-d tensor.

    >>> Lambda(lambda step: 0.1 * step)(3)
    tensor(0.3000)
    """

    name = "lambda"

    def __init__(self, fn: Callable[[Step], float | Tensor]) -> None:
        if not callable(fn):
            raise OptionTypeError("fn of Lambda", fn, "a function of the step")
        self.fn = fn

    def compute(self, step: Step) -> Tensor:
        """Return `fn(step)` as a 0-d tensor.

        Raises:
            OptionTypeError: `fn` did not return a number or a tensor with one entry.
        """
        value, device = self.fn(step), device_of(step)
        try:
            return torch.as_tensor(value, dtype=torch.float32, device=device).reshape(())
        except (TypeError, ValueError, RuntimeError):
            what = f"the result of {self.fn!r}"
            raise OptionTypeError(what, value, "a number or a 0-d tensor") from None
