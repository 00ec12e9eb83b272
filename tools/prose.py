"""Lint the English of pages, docstrings, comments and messages with proselint and our own rules.

    python tools/prose.py [PATH ...]

It prints `path:line: rule: text` for each problem, and exits with status 1 if it found one.
`prose.yaml` holds the rules with their reasons. Code is skipped.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from proselint.checks import __register__ as CHECKS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs"]
CODE = ["src", "benchmarks", "examples", "tools"]
# Code in Markdown: fenced and indented blocks, comments, inline code, targets of links, HTML tags.
_MARKDOWN_CODE = re.compile(
    r"^```.*?^```$|<!--.*?-->|^(?: {4}|\t)\S.*?$|`[^`\n]+(?:\n[^`\n]+)?`|\]\([^)]*\)|<[^>\n]+>|https?://\S+",
    re.MULTILINE | re.DOTALL,
)
# Code in a docstring or a comment: doctests with their output, inline code, links.
_PYTHON_CODE = re.compile(
    r"^ *>>>.*?(?=^\s*$|\Z)|(?<=::\n)(?:\n| +.*\n)+|``?[^`]+``?|https?://\S+|\{[^{}]*\}",
    re.MULTILINE | re.DOTALL,
)
# The end of a sentence: punctuation, a blank line, a list item, a table cell, a line of `Args:`.
_SENTENCE_END = re.compile(r"[.!?:;](?=\s|$)|\n\s*\n|\n\s*(?:[-*|#]|\d+\.)\s?|\||\n\s+\w+: ")


class Problem(NamedTuple):
    """One problem in a file."""

    path: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        """Format as `path:line: rule: text`."""
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{path}:{self.line}: {self.rule}: {self.text}"


@cache
def rules() -> dict[str, Any]:
    """Read `prose.yaml`."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def check(text: str) -> Iterator[tuple[int, str, str]]:
    """Check prose; yield the offset, the rule and the words of each problem."""
    off = tuple(rules()["disabled"])
    # One line for proselint, with a full stop where a paragraph ends.
    line = re.sub(r"\s", " ", re.sub(r"\n(?=\s*\n)", ".", text))
    for proselint_check in CHECKS:
        if not proselint_check.path.startswith(off):
            for found in proselint_check.check_with_flags(line):
                words = line[slice(*found.span)].strip()
                if "_" not in words:  # which stands for code
                    yield found.span[0], f"proselint {found.check_path}", words
    for rule in rules()["house"]:
        for match in re.finditer(rule["pattern"].replace(" ", r"\s+"), text, re.MULTILINE):
            yield match.start(), f"{rule['name']} ({rule['why']})", " ".join(match[0].split())
    start = 0
    for end in [match.end() for match in _SENTENCE_END.finditer(text)] + [len(text)]:
        words = re.findall(r"\w[\w'-]*", text[start:end])
        if len(words) > rules()["longest_sentence"]:
            yield start, "long sentence", f"{len(words)} words: {' '.join(words[:8])} ..."
        start = end


def _blank(match: re.Match[str]) -> str:
    """Replace code by underscores, so that it counts as one word and lines keep their place."""
    return re.sub(r"[^\n]", "_", match[0])


def prose_of_page(text: str) -> Iterator[tuple[int, str]]:
    """Yield the prose of a Markdown page, with the number of its first line."""
    yield 1, _MARKDOWN_CODE.sub(_blank, text)


def prose_of_module(text: str) -> Iterator[tuple[int, str]]:
    """Yield each docstring, comment and message of a Python file, with its first line."""
    block: list[str] = []
    first = last = kind = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            if token.type not in (tokenize.NL, tokenize.NEWLINE):
                kind = 0  # what follows does not continue the block
            continue
        if token.type != kind or token.start[0] > last + 1:
            yield first, "".join(block)
            block, first = [], token.start[0]
        block.append("\n" * (token.start[0] - first - "".join(block).count("\n")))
        block.append(_words(token))
        kind, last = token.type, token.end[0]
    yield first, "".join(block)


def _words(token: tokenize.TokenInfo) -> str:
    """Return a comment or string without its marks, code blanked; "" if it is no sentence."""
    if token.type == tokenize.COMMENT:
        return _PYTHON_CODE.sub(_blank, token.string.lstrip("#!"))
    inner = re.sub(r"^\w*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$", "", token.string)
    return _PYTHON_CODE.sub(_blank, inner) if inner.count(" ") >= 2 else "_"


def check_file(path: Path) -> Iterator[Problem]:
    """Check a Markdown or Python file."""
    parts = prose_of_page if path.suffix == ".md" else prose_of_module
    for line, prose in parts(path.read_text("utf-8")):
        for start, rule, words in check(prose):
            yield Problem(path, line + prose.count("\n", 0, start), rule, words)


def files(paths: list[Path]) -> Iterator[Path]:
    """Yield the Markdown and Python files at and below some paths."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix in (".md", ".py"))
        else:
            yield path


def main(arguments: list[str] | None = None) -> int:
    """Check files, print the problems and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[ROOT / path for path in PAGES + CODE]
    )
    problems = [p for path in files(parser.parse_args(arguments).paths) for p in check_file(path)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
