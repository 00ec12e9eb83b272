"""Groups from configs in the older dialect."""

import pytest
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import kept_of, make_mlp, train
from sparsewright.errors import ExclusiveOptionsError, OptionError, OptionTypeError
from sparsewright.utils import Constant, FreqSchedule

DEPRECATED = "param_name_patterns and sparsity_schedule are deprecated"


def configure(config):
    with pytest.warns(DeprecationWarning, match=DEPRECATED) as record:
        group = sparse.configure(config)
    assert len(record) == 1
    assert record[0].filename == __file__
    return group


def test_patterns_are_searched_for_as_regular_expressions():
    for patterns in (r"^2\.w", [r"^2\.w", "nothing"], r"\.weight$", "2.we"):
        group = configure({"type": "static", "sparsity": 0.5, "param_name_patterns": patterns})
        group.apply(make_mlp())
        expected = {"2.weight": 32}
        if patterns == r"\.weight$":
            expected = {"0.weight": 64, **expected}
        assert kept_of(group) == expected


def test_schedule_says_when_to_update():
    (algorithm,) = configure(
        {
            "type": "rigl",
            "sparsity": 0.5,
            "schedule": {"freq": 7, "start": 2},
            "param_name_patterns": "weight",
        }
    )
    assert isinstance(algorithm.update_schedule, FreqSchedule)
    assert (algorithm.update_schedule.freq, algorithm.update_schedule.start) == (7, 2)
    assert algorithm.schedules["sparsity"] == Constant(0.5)


def test_the_sparsity_schedule_steps_and_masks_change_at_its_steps():
    (algorithm,) = group = configure(
        {"algorithm": "gmp", "sparsity_schedule": [[0, 0.0], [2, 0.25], [4, 0.75]]}
    )
    assert type(algorithm) is sparse.GMP
    assert [step for step in range(9) if algorithm.update_schedule(step)] == [0, 2, 4]
    model = make_mlp()
    group.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    group.apply(optimizer)
    kept = [kept_of(group)["0.weight"]]
    for step in range(5):
        train(model, optimizer, 1, start=step)
        kept.append(kept_of(group)["0.weight"])
    assert kept == [128, 128, 96, 96, 32, 32]


def test_before_its_first_step_the_first_level_counts():
    (algorithm,) = configure({"type": "gmp", "sparsity_schedule": [[5, 0.25], [9, 0.5]]})
    levels = [float(algorithm.schedules["sparsity"](step)) for step in (0, 5, 8, 9, 99)]
    assert levels == [0.25, 0.25, 0.25, 0.5, 0.5]


def test_when_to_update_may_be_given_beside_the_sparsity_schedule():
    (algorithm,) = configure(
        {"type": "set", "sparsity_schedule": [[0, 0.1], [9, 0.5]], "schedule": {"freq": 3}}
    )
    assert algorithm.update_schedule.freq == 3


def test_one_point_is_a_constant_level():
    (algorithm,) = configure({"type": "static", "sparsity_schedule": [[0, 0.3]]})
    assert algorithm.schedules["sparsity"] == Constant(0.3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"sparsity_schedule": 0.5},
            OptionTypeError,
            r"^sparsity_schedule must be a list of pairs \[st.* got 0.5",
        ),
        ({"sparsity_schedule": []}, OptionTypeError, r"^sparsity_schedule must be .*; got \[\]"),
        (
            {"sparsity_schedule": [[0]]},
            OptionTypeError,
            r"^an entry .* a pair \[step, level\]; got \[0\]",
        ),
        ({"sparsity_schedule": [[0, "x"]]}, OptionTypeError, r"an entry .*'x'"),
        ({"sparsity_schedule": [[0.5, 0.5]]}, OptionTypeError, r"an entry .*0.5, 0.5"),
        (
            {"sparsity_schedule": [[0, 1.5]]},
            OptionError,
            r"^an entry .* levels between 0 and 1; got \[0, 1",
        ),
        (
            {"sparsity_schedule": [[3, 0.1], [3, 0.2]]},
            OptionError,
            r"^an entry .* ascending steps >= 0",
        ),
        (
            {"sparsity_schedule": [[0, 0.1]], "sparsity": 0.5},
            ExclusiveOptionsError,
            r"^give sparsity or sparsity_schedule, not both\.$",
        ),
        (
            {"param_name_patterns": "(", "sparsity": 0.5},
            OptionError,
            r"^param_name_patterns must be .*; got '\('. Python says: ",
        ),
        (
            {"param_name_patterns": 3, "sparsity": 0.5},
            OptionTypeError,
            r"^param_name_patterns must be .*; got 3",
        ),
        ({"param_name_patterns": [3], "sparsity": 0.5}, OptionTypeError, r"param_name_patterns"),
    ],
)
@pytest.mark.filterwarnings("ignore:the keys param_name_patterns")
def test_bad_input_raises(options, error, message):
    with pytest.raises(error, match=message):
        sparse.configure({"type": "set", **options})
