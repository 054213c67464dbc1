"""The house's rules about size and words, read from the source: platform, experiments and tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def too_long_file(source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines; at most {MAX_FILE_LINES}: find the part that should be a file of its own"


def too_long_functions(source: str) -> Iterator[str]:
    """Functions and methods, counted from ``def``: decorators, such as a test's parameters, are not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines; at most {MAX_FUNCTION_LINES}"


def docstrings_that_begin_with_of(source: str) -> Iterator[str]:
    """Docstrings of modules, classes, functions and attributes: every statement that is but a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str) and text.split(maxsplit=1)[:1] == ["Of"]:
                yield f"line {node.lineno}: {text.strip()[:40]!r}; begin with a verb or a noun"


RULES = (too_long_file, too_long_functions, docstrings_that_begin_with_of)


@pytest.mark.parametrize("folder", ["platform", "experiments", "tests"])
def test_files_and_functions_are_short_and_no_docstring_begins_with_of(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    offenders = [
        f"{path.relative_to(ROOT)}: {offence}"
        for path in files
        for rule in RULES
        for offence in rule(path.read_text())
    ]
    assert not offenders, "\n".join(offenders)


def function_of(lines: int) -> str:
    return "class A:\n    @cache\n    def f(self):\n" + "        pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("rule", "good", "bad", "offence"),
    [
        (too_long_file, "x = 1\n" * 350, "x = 1\n" * 351, "351 lines"),
        (too_long_functions, function_of(60), function_of(61), "line 3: f has 61 lines"),
        (docstrings_that_begin_with_of, '"""Offers."""', '"""Of a module."""', "line 1: 'Of a module.'"),
        (docstrings_that_begin_with_of, "x = 'Of'", "x = 1\n'''\nOf x.'''", "line 2: 'Of x.'"),
        (docstrings_that_begin_with_of, "def f(): 'F'", "class A:\n def f(): 'Of f'", "line 2: 'Of f'"),
    ],
)
def test_each_rule_finds_its_offenders(rule, good: str, bad: str, offence: str) -> None:
    assert not list(rule(good))
    (found,) = rule(bad)
    assert found.startswith(offence)
