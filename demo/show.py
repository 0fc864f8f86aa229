"""How the demo tells what it does: named steps, with rich on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

CONSOLE = Console()
_numbers = iter(range(1, 100))


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, and say how long it took."""
    began = time.monotonic()
    say(f"\n[{next(_numbers)}] {title}", style="bold cyan")
    yield
    say(f"    done in {time.monotonic() - began:.1f} s", style="dim")


def say(text: str, style: str = "") -> None:
    """One line; foreign text in it is not interpreted."""
    if CONSOLE.is_terminal:
        CONSOLE.print(text, style=style, markup=False, highlight=False)
    else:
        print(text, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on a terminal, tab-separated lines otherwise."""
    if not CONSOLE.is_terminal:
        say(f"    {title}")
        for row in [columns, *rows]:
            say("    " + "\t".join("-" if v is None else str(v) for v in row))
        return
    shown = Table(title=title, title_justify="left")
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*("-" if v is None else str(v) for v in row))
    CONSOLE.print(shown)
