"""The prose linter flags each habit, leaves code alone, and says where a problem is."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import prose

HOUSE = prose.rules()["house"]


@pytest.mark.parametrize("rule", HOUSE, ids=[rule["name"] for rule in HOUSE])
def test_each_rule_flags_its_bad_example_only(rule):
    found = [name for _, name, _ in prose.check(rule["bad"])]
    assert f"{rule['name']} ({rule['why']})" in found
    assert list(prose.check(rule["good"])) == []


def test_checks_of_proselint_run_except_the_disabled_ones():
    text = "Masks are very sparse.\n\nSparse masks masks."
    assert [found[1:] for found in prose.check(text)] == [
        ("proselint lexical_illusions", "masks masks"),
        ("proselint weasel_words.very", "very"),
    ]
    assert list(prose.check('The "x" stands for a 3 x 4 matrix...')) == []
    paths = {check.path for check in prose.CHECKS}
    for disabled in prose.rules()["disabled"]:
        assert any(path.startswith(disabled) for path in paths), disabled


def test_long_sentences():
    longest = prose.rules()["longest_sentence"]
    words = " ".join(f"w{index}" for index in range(longest))
    assert list(prose.check(f"{words}. {words}.")) == []
    ((start, rule, shown),) = prose.check(f"Short. {words} more.")
    assert (start, rule) == (6, "long sentence")
    assert shown.startswith(f"{longest + 1} words: w0 w1")


PAGE = """# A page

`hence` is code, and so is [this](hence.md).

```python
hence = "hence"
```

    hence(indented)

<!-- hence -->
Masks change,
hence counts do.
"""

MODULE = '''"""Do one thing.

>>> hence()
'hence'

The mask is ``hence``.
It is made
anew.
"""

hence = "hence"
names = ["hence", f"the mask {hence} is made anew in {hence!r}"]
x = 1  # why the layer is
# made anew
'''


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("page.md", PAGE, [(13, "hence")]),
        ("module.py", MODULE, [(8, "anew"), (12, "anew"), (14, "anew")]),
    ],
)
def test_prose_is_checked_and_code_is_not(name, text, expected, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    found = [(p.line, p.text) for p in prose.check_file(path) if p.rule.startswith("old words")]
    assert found == expected


def test_the_command_prints_problems_and_fails(tmp_path):
    (tmp_path / "page.md").write_text("The mask is made anew.\n")
    command = [sys.executable, str(Path(prose.__file__)), str(tmp_path)]
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stdout.startswith(f"{tmp_path}/page.md:1: old words (use today's words): anew")
    (tmp_path / "page.md").write_text("The mask is recomputed.\n")
    good = subprocess.run(command, capture_output=True, text=True)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
