"""How results are shown: one JSON document, or tables and lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def as_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, sort_keys=False, ensure_ascii=True, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table; foreign text in it is shown escaped, never interpreted."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        shown.add_column(Text(column), overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell(value)) for value in row))
    console = Console()
    # A pipe has no width: a wide one keeps each row on one line there.
    Console(width=None if console.is_terminal else 200).print(shown)


def cell(value: Any) -> str:
    """One value for people, on one line, without control characters."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    return text if text.isprintable() else ascii(text)


def lines(pairs: Mapping[str, Any]) -> None:
    """Print `name  value` lines."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {cell(value)}")


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback: a bar on a terminal, else a line on stderr for each tenth of the work."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            tasks: dict[str, Any] = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done, total=total)

            yield show
        return
    told: dict[str, int] = {}

    def say(what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 10
        if told.get(what) != tenth:
            told[what] = tenth
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr)

    yield say
