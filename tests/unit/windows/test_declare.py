"""Declarations of windows: refused with the field named, equal where they say the same, light to import."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_eventlog.core.errors import DeclarationError
from airflow_provider_eventlog.declare.outputs import DuckDB
from airflow_provider_eventlog.declare.windows import Hopping, Session, Tumbling, Windows

ROOT = Path(__file__).parents[3]


def windows(**changes: Any) -> Windows:
    """An output with some arguments changed."""
    options = {
        "window": Tumbling("1 minute"),
        "by": ["country"],
        "aggregates": {"n": "count(*)"},
        "target": DuckDB("x.duckdb", table="per_minute"),
        **changes,
    }
    return Windows(options.pop("window"), **options)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: Tumbling("0 s"), "Tumbling: size='0 s'"),
    (lambda: Tumbling("-1 minute"), "Tumbling: size='-1 minute'"),
    (lambda: Tumbling("1 fortnight"), "Tumbling: size='1 fortnight'"),
    (lambda: Tumbling("0 months"), "Tumbling: size='0 months'"),
    (lambda: Tumbling(True), "Tumbling: size=True"),
    (lambda: Tumbling("1 day", timezone="Mars/Olympus"), "timezone='Mars/Olympus'"),
    (lambda: Tumbling("1 day", timezone="../etc/passwd"), "timezone="),
    (lambda: Tumbling("1 day", timezone=None), "timezone=None"),  # type: ignore[arg-type]
    (lambda: Tumbling("1 hour", offset="1 hour"), "offset='1 hour'"),
    (lambda: Tumbling("1 hour", offset="-5 minutes"), "offset='-5 minutes'"),
    (lambda: Tumbling("1 month", offset="28 days"), "offset='28 days'"),
    (lambda: Hopping("1 minute", "2 minutes"), "every='2 minutes' is longer"),
    (lambda: Hopping("1 minute", "0 s"), "every='0 s'"),
    (lambda: Hopping("1 month", "1 day"), "must be of one kind"),
    (lambda: Hopping("1 day", "1 hour", timezone="Europe/Berlin"), "must be of one kind"),
    (lambda: Session(), "gap is missing"),
    (lambda: Session("30 minutes"), "max_duration is missing"),
    (lambda: Session("-30 minutes", "1 day"), "gap='-30 minutes'"),
    (lambda: Session(0, "1 day"), "gap=0"),
    (lambda: Session("2 hours", "1 hour"), "max_duration must not be shorter"),
    (lambda: Session("30 minutes", "1 day", start="a", end="b"), "gap has no meaning"),
    (lambda: Session(start="kind = 'login'"), "end=None"),
    (lambda: Session(start="  ", end="x"), "start='  '"),
    (lambda: Session(start="a", end="b", max_duration="soon"), "max_duration='soon'"),
    (lambda: windows(window="1 minute"), "Windows 'per_minute': window='1 minute'"),
    (lambda: windows(target="x"), "target='x'"),
    (lambda: windows(by="country"), "by='country'"),
    (lambda: windows(by=["country", "Country"]), "'Country' is there twice"),
    (lambda: windows(by=["_key"]), "starts with '_'"),
    (lambda: windows(by=[""]), "column name ''"),
    (lambda: windows(aggregates={}), "aggregates must be"),
    (lambda: windows(aggregates=["count(*)"]), "aggregates must be"),
    (lambda: windows(aggregates={"n": ""}), r"aggregates\['n'\]"),
    (lambda: windows(aggregates={"_n": "count(*)"}), "starts with '_'"),
    (lambda: windows(aggregates={"Country": "count(*)"}), "'Country' is there twice"),
    (lambda: windows(aggregates={"window_end": "count(*)"}), "'window_end' is there twice"),
    (lambda: windows(time="wall"), "time='wall' is not one of event, ingest, processing"),
    (lambda: windows(on_late="drop"), "on_late='drop' is not one of late, amend"),
    (lambda: windows(disorder="-1 s"), "disorder='-1 s'"),
    (lambda: windows(allowed_lateness="a bit"), "allowed_lateness='a bit'"),
    (lambda: windows(fill="nothing"), "fill='nothing'"),
    (lambda: windows(window=Session("1 hour", "1 day"), fill="null"), "fill has no meaning for sessions"),
    (lambda: windows(name="not good"), "output name"),
]


@pytest.mark.parametrize(("make", "said"), BAD)
def test_wrong_declarations_are_refused_with_the_field_named(make: Callable[[], Any], said: str) -> None:
    """Whatever is malformed is refused when the DAG is parsed, in words that name the field and the value."""
    with pytest.raises(DeclarationError, match=said):
        make()


def test_what_says_the_same_is_the_same() -> None:
    """A size may be text, timedelta or seconds; a day of UTC is 24 hours; equal sizes have equal text."""
    texts = {
        json.dumps(window.canonical())
        for window in (Tumbling("1 day"), Tumbling("24 hours"), Tumbling(dt.timedelta(days=1)), Tumbling(86_400))
    }
    assert len(texts) == 1
    assert Tumbling("1 year").canonical()["tumbling"] == Tumbling("12 months").canonical()["tumbling"]
    assert Hopping("1 day", "1 hour").canonical()["hopping"]["every"] == 3_600_000
    assert Tumbling("1 day", timezone="Europe/Berlin").canonical() != Tumbling("24 hours").canonical()
    assert windows() == windows()
    assert len({windows(), windows(), windows(fill="null")}) == 2


def test_the_canonical_form_holds_every_knob() -> None:
    """Each argument that can change a result changes the recipe's text; the text is JSON."""
    changes: list[dict[str, Any]] = [
        {"window": Hopping("1 minute", "30 s")},
        {"window": Tumbling("1 minute", offset="10 s")},
        {"window": Session("1 minute", "1 hour")},
        {"window": Session("1 minute", "2 hours")},
        {"window": Session(start="a", end="b")},
        {"by": ["city"]},
        {"by": []},
        {"aggregates": {"n": "count(x)"}},
        {"time": "processing"},
        {"disorder": "1 s"},
        {"allowed_lateness": "1 s"},
        {"on_late": "amend"},
        {"fill": "zero"},
        {"name": "other"},
        {"target": DuckDB("y.duckdb", table="per_minute")},
    ]
    texts = {json.dumps(windows(**change).canonical(), sort_keys=True) for change in [{}, *changes]}
    assert len(texts) == len(changes) + 1


def test_the_name_is_the_tables_unless_given() -> None:
    """An output is named after its table."""
    assert windows().name == "per_minute"
    assert windows(name="w").name == "w"


def test_declarations_cost_next_to_nothing_to_import() -> None:
    """Neither declaring windows nor checking a time zone loads a heavy library."""
    code = (
        "import sys\n"
        "from airflow_provider_eventlog.declare.windows import Tumbling\n"
        "Tumbling('1 day', timezone='Europe/Berlin')\n"
        "heavy = {'pyarrow', 'duckdb', 'pandas', 'numpy', 'pytz', 'airflow'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
