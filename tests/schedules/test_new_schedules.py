"""User-defined schedules: a class with a single method, and a class added to the list."""

import pytest
import torch
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import make_mlp, train
from sparsewright import schedules
from sparsewright.errors import OptionError
from sparsewright.plan.forecast import forecast, guess_steps
from sparsewright.schedules.formula import Formula
from sparsewright.utils import HyperParameterSchedule, UpdateSchedule


class Stairs(HyperParameterSchedule):
    """Rise by a tenth every second step."""

    def compute(self, step):
        return torch.as_tensor(int(step) // 2 / 10)


class Squares(UpdateSchedule):
    """Update at steps 0, 1, 4, 9, ..."""

    def is_update_step(self, step):
        return torch.tensor(int(step) in {n * n for n in range(100)})

    def __repr__(self):
        return "Squares()"


class Sine(Formula):
    """Rise to `peak` along a sine, as a new class in a file outside the library."""

    name = "sine"

    def __init__(self, peak, length=10):
        super().__init__(peak=peak, length=length)

    def _at(self, step):
        return self.peak * torch.sin((step / self.length).clamp(0, 1) * torch.pi / 2)

    @property
    def last_step(self):
        return self.length


class Burst(UpdateSchedule):
    """Update at steps `first..first+count-1`, as a new class in a file outside the library."""

    def __init__(self, first, count=3):
        self.first, self.count = first, count

    def is_update_step(self, step):
        return torch.as_tensor(step >= self.first) & torch.as_tensor(step < self.first + self.count)

    @property
    def last_step(self):
        return self.first + self.count - 1

    def __repr__(self):
        return f"Burst(first={self.first}, count={self.count})"


@pytest.fixture
def newcomers(monkeypatch):
    monkeypatch.setattr(schedules, "ALL", (*schedules.ALL, Sine))
    monkeypatch.setattr(schedules, "UPDATES", (*schedules.UPDATES, Burst))


def check_forecast(make, steps):
    """Compare the forecast of an algorithm with a training run of an equal algorithm."""
    expected, algorithm, model = forecast(make(), steps), make(), make_mlp(inputs=8, hidden=40)
    algorithm.apply(model)
    optimizer = SGD(model.parameters(), 0.01)
    algorithm.apply(optimizer)
    updates = set()
    algorithm.register_mask_update_hook(lambda update: updates.add(update.step))
    total = model[0].weight.numel()
    for step, level in expected.level:
        if step:
            train(model, optimizer, 1, start=step - 1)
        found = 1 - int(model[0].weight_mask.sum()) / total
        assert found == pytest.approx(level, abs=1.01 / total), step
    assert sorted(updates) == list(expected.updates)
    return algorithm


def test_classes_with_one_method_train_and_are_forecast():
    def make():
        return sparse.SET(Stairs(), sparsity=Stairs(), update=Squares())

    algorithm = check_forecast(make, 18)
    assert algorithm.sparse_params["0.weight"].annotations == {}
    assert repr(algorithm) == "SET(sparsity=Stairs(), update=Squares(), drop_fraction=Stairs())"
    assert algorithm.state_dict()["schedules"] == {"sparsity": {}, "drop_fraction": {}}
    assert guess_steps([algorithm]) == 1000


CONFIG = {
    "algorithm": "gmp",
    "sparsity": {"type": "Sine", "peak": 0.9, "length": 12},
    "update": {"first": 5, "count": 4},
}


@pytest.mark.usefixtures("newcomers")
def test_members_of_the_lists_work_in_configs_repr_and_forecasts():
    (algorithm,) = sparse.configure(CONFIG)
    text = repr(algorithm)
    assert text == "GMP(sparsity=Sine(peak=0.9, length=12), update=Burst(first=5, count=4))"
    assert repr(eval(text, {"GMP": sparse.GMP, "Sine": Sine, "Burst": Burst})) == text
    check_forecast(lambda: sparse.configure(CONFIG)[0], 15)
    assert guess_steps([algorithm]) == 12
    assert guess_steps([sparse.SET(sparsity=0.5, update={"first": 40})]) == 42


@pytest.mark.usefixtures("newcomers")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": {"type": "sin", "peak": 1}}, "did you mean 'sine'.* cycling, lambda, sine"),
        (
            {"sparsity": {"type": "sine"}},
            r"^sparsity needs the option 'peak'; got {'type': 'sine'}",
        ),
        ({"sparsity": {"type": "sine", "peek": 1}}, "'peek'.*did you mean 'peak'"),
        ({"update": {"frist": 5}}, "'first'.* freq, start, stop, steps, first, count"),
        (
            {"update": {"first": 5, "freq": 2}},
            r"^update accepts freq/start/stop, steps or first/count, but only one",
        ),
        ({"update": {"count": 5}}, r"^update needs the option 'first'; got {'count': 5}\.$"),
    ],
)
def test_errors_name_the_members_of_the_lists(options, message):
    with pytest.raises(OptionError, match=message):
        sparse.configure({**CONFIG, **options})
