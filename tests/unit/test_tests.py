"""The rules that the tests themselves keep."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{file.relative_to(TESTS)}:{node.name}", node


def test_every_test_states_its_property() -> None:
    """Each test has a docstring that says what holds."""
    found = dict(functions())
    assert len(found) > 100
    assert [name for name, node in found.items() if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("word", ["skip", "skipif", "xfail"])
def test_no_test_is_switched_off(word: str) -> None:
    """No test is skipped or expected to fail to get green."""
    marks = (f"mark.{word}", f"pytest.{word}(")
    here = Path(__file__)
    assert [str(f) for f in TESTS.rglob("*.py") if f != here and any(m in f.read_text() for m in marks)] == []
