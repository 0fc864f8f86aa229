"""What the docs point at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_eventlog.cli.main import parser
from airflow_provider_eventlog.core import errors
from airflow_provider_eventlog.core.kafka.config import ALLOWED
from airflow_provider_eventlog.operators.request import FROM, OFFSETS, TO, WHAT

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    """Every path, link and test name in a page is there."""
    text = page.read_text()
    for path in re.findall(r"`((?:tests|docs|core|dags|demo|bench)/[\w./-]+)`", text):
        places = [ROOT / path, ROOT / "airflow_provider_eventlog" / path]
        assert any(place.exists() for place in places), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name


def test_the_reference_names_every_command() -> None:
    """Each command of the command line stands in the reference."""
    text = (ROOT / "docs" / "reference.md").read_text()
    commands = next(a for a in parser()._actions if a.choices and "run" in a.choices).choices
    assert commands is not None
    assert [name for name in commands if not re.search(rf"`{name}[ `]", text)] == []


def test_the_reference_names_every_param() -> None:
    """Each Dag param stands in the reference."""
    text = (ROOT / "docs" / "reference.md").read_text()
    assert [name for name in (WHAT, OFFSETS, FROM, TO) if f"`{name}`" not in text] == []


def test_the_reference_covers_every_client_setting() -> None:
    """Each allowed client setting stands in the reference, by name or by its family."""
    text = (ROOT / "docs" / "reference.md").read_text()
    named = re.findall(r"`([\w.]+(?:\.\*)?)`", text)
    families = tuple(n.removesuffix("*") for n in named if n.endswith(".*"))
    assert [key for key in sorted(ALLOWED) if key not in named and not key.startswith(families)] == []


def test_the_runbook_has_every_error() -> None:
    """Each error class has its entry, with the word retriable where it is, and no entry is of a class that is gone."""
    text = (ROOT / "docs" / "operations.md").read_text()
    entries = dict(re.findall(r"^### (\w+Error)\n\n(.+?)(?=\n#|\Z)", text, re.MULTILINE | re.DOTALL))
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EventLogError) and kind is not errors.EventLogError
    }
    assert sorted(entries) == sorted(classes)
    assert {n for n, text in entries.items() if text.startswith("Retriable.")} == {
        n for n, kind in classes.items() if kind.retriable
    }
