"""Mistakes in a first call, and their error messages."""

from __future__ import annotations

import pytest

import sparsewright as sparse
from sparsewright.algorithms import ALL
from sparsewright.configure import configure, read_routes
from sparsewright.errors import MissingOptionError, OptionError, UnknownOptionError
from sparsewright.session.representation import constructor_options


class Own(sparse.SET):
    """An algorithm with its own option `strength`, and one option that it pops from the rest."""

    def __init__(self, strength: float = 1.0, **options) -> None:
        self.taken_out = options.pop("taken_out", None)
        super().__init__(**options)
        self.strength = strength


MISSING = {
    "RigL(0.9)": (
        lambda: sparse.RigL(0.9),
        "The first argument is drop_fraction; pass sparsity=0.9 by name.",
    ),
    "SET(0.8)": (
        lambda: sparse.SET(0.8),
        "The first argument is drop_fraction; pass sparsity=0.8 by name.",
    ),
    "RigL(0.3)": (lambda: sparse.RigL(0.3), "For example, pass sparsity=0.9."),
    "RigL()": (lambda: sparse.RigL(), "For example, pass sparsity=0.9."),
    "SET(update=3)": (lambda: sparse.SET(update=3), "For example, pass sparsity=0.9."),
    "GMP()": (lambda: sparse.GMP(), "For example, pass sparsity=0.9."),
    "Static()": (lambda: sparse.Static(), "For example, pass sparsity=0.9."),
    "STE()": (lambda: sparse.STE(), "For example, pass sparsity=0.9."),
    "Own(2)": (lambda: Own(2), "For example, pass sparsity=0.9."),
    "groups": (lambda: sparse.RigL(0.9, 2), "drop_fraction; pass sparsity=0.9 by name."),
}


@pytest.mark.parametrize("call", MISSING)
def test_a_call_without_a_level_is_told_how_to_give_one(call: str) -> None:
    make, example = MISSING[call]
    name = call.partition("(")[0] if "(" in call else "RigL"
    with pytest.raises(MissingOptionError) as caught:
        make()
    assert str(caught.value).startswith(
        f"{name} needs the option 'sparsity': a number from 0 to 1, "
    )
    assert str(caught.value).endswith(example)
    assert isinstance(caught.value, ValueError)


def test_a_structure_with_one_level_needs_none() -> None:
    for make in (sparse.RigL, sparse.SET):
        assert repr(make(0.9, structure="2:4")) == (
            f"{make.__name__}(sparsity=0.5, drop_fraction=0.9, structure=NM(2, 4))"
        )


@pytest.mark.parametrize("make", [*ALL, Own], ids=lambda cls: cls.__name__)
def test_a_keyword_with_a_letter_less_gets_the_one_that_is_meant(
    make: type[sparse.SparsityAlgorithm],
) -> None:
    for option in constructor_options(make):
        wrong = option[:-1]
        with pytest.raises(UnknownOptionError) as caught:
            make(**{wrong: 1})
        assert str(caught.value).startswith(
            f"{make.__name__} has no option {wrong!r}; did you mean {option!r}? Its options: "
        )
        assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("make", ALL, ids=lambda cls: cls.__name__)
def test_configure_says_the_same(make: type[sparse.SparsityAlgorithm]) -> None:
    message = rf"^{make.__name__} has no option 'sparsiti'; did you mean 'sparsity'\? Its options: "
    with pytest.raises(OptionError, match=message):
        configure({"algorithm": make.name, "sparsiti": 0.9})
    with pytest.raises(OptionError, match=message):
        make(sparsiti=0.9)


def test_an_option_that_an_algorithm_fixes_is_unknown() -> None:
    with pytest.raises(
        UnknownOptionError, match=r"^STE has no option 'init_method'; its options: "
    ):
        sparse.STE(sparsity=0.5, init_method="random")


def test_options_that_a_class_takes_out_are_its_own() -> None:
    algorithm = Own(2.0, sparsity=0.5, taken_out="x")
    assert (algorithm.taken_out, algorithm.strength) == ("x", 2.0)


def mistakes(config: object) -> list[str]:
    found: list[str] = []
    list(read_routes(config, lambda place, error: found.append(str(error))))
    return found


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        *(("magnitude", "gmp"), ("Magnitude Pruning", "gmp"), ("prune", "gmp"), ("gpm", "gmp")),
        *(("lottery-ticket", "static"), ("rigel", "rigl"), ("RigLL", "rigl"), ("sr-ste", "ste")),
        ("random", "static"),
    ],
)
def test_an_algorithm_under_another_name(asked: str, meant: str) -> None:
    (found,) = mistakes({"algorithm": asked, "sparsity": 0.9})
    assert found.startswith(
        f"unknown algorithm {asked!r}; did you mean {meant!r}? Choose from static, gmp, "
    )


OTHERS: dict[str, tuple[dict[str, object], list[str]]] = {
    "a level": ({"sparsity": 1.5}, ["sparsity must be between 0 and 1; got 1.5."]),
    "no level": ({}, ["needs the option 'sparsity'"]),
    "an update": (
        {"sparsity": 0.5, "update": "often"},
        ["update must be None, an integer, a dict (freq, start, stop or steps) or"],
    ),
    "a key": ({"sparsity": 0.5, "updat": 3}, ["sparsity has no option 'updat'; did you mean"]),
    "a schedule": (
        {"sparsity": {"type": "cubik"}},
        ["unknown sparsity type 'cubik'; did you mean 'cubic'?"],
    ),
    "a structure": ({"sparsity": 0.5, "structure": "2:4:6"}, ["unknown structure '2:4:6'"]),
    "of one method": (
        {"sparsity": 0.5, "drop_fraction": 3},
        ["drop_fraction must be between 0 and 1; got 3.0."],
    ),
    "several": (
        {"sparsity": 1.5, "drop_fraction": 3, "update": "often", "x": 1},
        ["has no option 'x'", "got 'often'", "got 1.5", "got 3.0"],
    ),
    "none": ({"sparsity": 0.5, "update": 3, "drop_fraction": 0.1}, []),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("algorithm", [{"algorithm": "magnitude"}, {"algorithm": 3}, {}], ids=str)
def test_an_unknown_algorithm_still_has_its_other_mistakes_listed(
    case: str, algorithm: dict[str, object]
) -> None:
    options, expected = OTHERS[case]
    first, *others = mistakes({**algorithm, **options})
    missing = "sparsity needs the option 'algo"
    assert first.startswith(("unknown algorithm", "algorithm must be", missing))
    assert len(others) == len(expected), others
    for part in expected:
        assert any(part in text for text in others), (part, others)


@pytest.mark.parametrize("drop", [0.1, 0.6])
def test_a_missing_level_is_one_mistake(drop: float) -> None:
    (found,) = mistakes({"algorithm": "rigl", "drop_fraction": drop})
    assert found.startswith("RigL needs the option 'sparsity': a number from 0 to 1, ")


def test_the_content_of_a_section_is_wanted() -> None:
    with pytest.raises(OptionError, match=r"Pass only the content of its key 'sparsity'\.$"):
        configure({"sparsity": {"algorithm": "rigl", "sparsity": 0.9}})
