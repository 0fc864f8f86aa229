"""The demo, whole, as `make demo DEMO_EXIT=1` runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.demo
@pytest.mark.timeout(600)
def test_the_demo_runs_and_its_figures_are_equal(tmp_path: Path) -> None:
    """Two scheduled intervals and a back-fill load every flight once, and the figures equal the data set's."""
    environment = {**os.environ, "DEMO_EXIT": "1", "DEMO_DIR": str(tmp_path / "demo")}
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    steps = re.findall(r"^\[\d\] (.*)$", done.stdout, re.MULTILINE)
    assert len(steps) == 9
    assert "rows: 336,776 loaded, 336,776 different offsets, 336,776 in the data set" in done.stdout
    windows = re.search(r"windows: (\d+) of carrier and month \((\d+) final, (\d+) open\), (\d+) in", done.stdout)
    assert windows is not None
    every, final, still_open, wanted = map(int, windows.groups())
    assert every == final + still_open == wanted
    # The chain ends with February; what was filled by hand lies outside of it and moves no watermark.
    assert 0 < final < still_open
    assert "DIFFERS" not in done.stdout
    assert re.search(r"^ +equal\.$", done.stdout, re.MULTILINE)
    assert "rows: 51,801 loaded, 51,801 different offsets, 51,801 in the data set" in done.stdout
    assert re.search(r"^ +equal; 1,\d{3} rows were stopped and run again\.$", done.stdout, re.MULTILINE)


def test_the_demo_fails_when_a_figure_differs() -> None:
    """A mean that differs in its last printed digits, a count or a bound that differs by one, is not equal."""
    from demo.job import equal, equal_month

    row = ("AA", 10, -5, 90, 8.125)
    assert equal(row, row)
    assert not equal(row, ("AA", 11, -5, 90, 8.125))
    assert not equal(row, ("AA", 10, -5, 91, 8.125))
    assert not equal(row, ("AA", 10, -5, 90, 8.125001))
    month = ("AA", "2013-01", 10, -5, 90, 8.125, True)
    assert equal_month(month, month[:6])
    assert not equal_month(month, ("AA", "2013-02", 10, -5, 90, 8.125))
    assert not equal_month(month, ("AA", "2013-01", 10, -5, 90, None))
