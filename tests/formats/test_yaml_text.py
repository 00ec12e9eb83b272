"""Messages of the strict YAML reader; `tests/reliability` has more hostile files."""

import pytest

from sparsewright.formats.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2", r"^line 2, column 1: key 'a' is given twice$"),
        (b"a: &a [*a]", r"^line 1, column 4: aliases expand to more than 100,000 values$"),
        (b"[" + b"1," * 150_000 + b"]", r"column 200000: more than 100,000 values$"),
        (b"[" * 100_000, r"^nested too deeply$"),
        (b"a: \0", r"^not a YAML file: unacceptable character"),
        (b"a: 2024-13-45", r"^cannot read a value: month must be in 1..12"),
        (b"a: b: c", r"^line 1, column 5: mapping values are not allowed here$"),
    ],
)
def test_messages_name_the_problem_and_its_place(content, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(content)
