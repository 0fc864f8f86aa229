"""`python -m docs.pictures.draw`: the pictures of docs/windows.md, from what the package makes of small batches.

Every dot is a row that was folded, every band a window with the figures that its table has, every step a watermark of
the fold log; nothing but the events is set by hand.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import duckdb

from airflow_provider_eventlog.core import stages
from airflow_provider_eventlog.core.folding import files
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.declare import DuckDB, Hopping, Json, Pipeline, Session, Stream, Tumbling, Windows
from tests.support.listlog import ListLog, engine_over

HERE = Path(__file__).parent
T0, MINUTE = 1_704_067_200_000, 60_000
FIELDS = {"k": "VARCHAR", "v": "BIGINT", "ts": "TIMESTAMPTZ"}
# Batches of (value, event time in minutes), in the order in which they come.
Batches = Sequence[Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Scene:
    """A picture: what it is called, what it shows, the windows, the batches and the minutes from left to right."""

    name: str
    title: str
    window: Any
    batches: Batches
    span: tuple[int, int]
    options: dict[str, Any]


IN_ORDER: Batches = [[(1, 1), (2, 3), (4, 7)], [(3, 11), (5, 13), (1, 18)], [(2, 21), (6, 26)]]
WITH_LATE: Batches = [[(1, 2), (2, 8), (4, 11)], [(3, 14), (5, 9), (1, 18)], [(7, 6), (2, 23)]]
SCENES = (
    Scene("fixed", "Fixed: every row lies in one window", Tumbling("10 minutes"), IN_ORDER, (0, 30), {}),
    Scene(
        "sliding", "Sliding: every row lies in two windows", Hopping("10 minutes", "5 minutes"), IN_ORDER, (-5, 35), {}
    ),
    Scene(
        "session",
        "Sessions: a window ends where four minutes pass without a row",
        Session("4 minutes", max_duration="1 hour"),
        IN_ORDER,
        (0, 35),
        {},
    ),
    Scene(
        "late",
        "Watermark, lateness, and a row that comes too late",
        Tumbling("10 minutes"),
        WITH_LATE,
        (0, 30),
        {"disorder": "2 minutes", "allowed_lateness": "3 minutes"},
    ),
    Scene(
        "amend",
        'The same with on_late="amend": a new revision',
        Tumbling("10 minutes"),
        WITH_LATE,
        (0, 30),
        {"disorder": "2 minutes", "allowed_lateness": "3 minutes", "on_late": "amend"},
    ),
)


@dataclass(frozen=True)
class Told:
    """What came of a scene: minutes after T0.

    watermarks  behind each batch, None while nothing is known
    windows     (start, end, figures, final) as the table has them
    late        (batch, time) of rows that are late
    """

    watermarks: list[float | None]
    windows: list[tuple[float, float, str, bool]]
    late: set[tuple[int, float]]


def play(scene: Scene) -> Told:
    """Run the batches through all stages, one after another."""
    output = Windows(scene.window, by=["k"], aggregates={"n": "count(*)", "sum": "sum(v)"},
                     target=DuckDB("w.duckdb", table="w"), name="w", **scene.options)  # fmt: skip
    stream = Stream("t", start="earliest", decode=Json(FIELDS), event_time="ts")
    pipeline = Pipeline("p", stream=stream, outputs=[output])
    log, late = ListLog([]), set()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ticks = iter(range(10**9))
        with engine_over(log, home, lambda: T0 + 600 * MINUTE + next(ticks)) as engine:
            for number, batch in enumerate(scene.batches):
                for value, minutes in batch:
                    at = datetime.fromtimestamp(T0 / 1000, UTC) + timedelta(minutes=minutes)
                    log.timestamps[0, len(log.values[0])] = T0 + number * MINUTE
                    log.values[0].append(json.dumps({"k": "a", "v": value, "ts": at.isoformat()}).encode())
                stages.run(engine, pipeline, RunRequest("since_last"), str(number))
            folds = engine.ledger.folds("p", "w", 1)
            for number, fold in enumerate(folds):
                for table in files.read(engine, fold, files.LATE):
                    late |= {(number, _minutes(at.timestamp() * 1000)) for at in table.column("ts").to_pylist()}
        with duckdb.connect(str(home / "w.duckdb"), read_only=True) as connection:
            rows = connection.execute(
                "SELECT epoch_ms(window_start), epoch_ms(window_end), n, sum, _revision, _final FROM w ORDER BY 1"
            ).fetchall()
    marks = [None if fold.watermark is None else _minutes(fold.watermark) for fold in folds]
    windows = [
        (_minutes(start), _minutes(end), f"n {n}  sum {total}  rev {revision}", final)
        for start, end, n, total, revision, final in rows
    ]
    return Told(marks, windows, late)


def _minutes(instant: float) -> float:
    return (instant - T0) / MINUTE


# Measures in pixels.
LEFT, WIDTH, ROW, BAND, TOP = 84, 680, 44, 30, 46
# What the figures of a window take.
_FIGURES = 150
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; } .small { font-size: 11px; fill: #57606a; }
.figures { font-size: 12px; } .title { font-size: 15px; font-weight: 600; }
.axis, .grid { stroke: #8c959f; } .grid { stroke-dasharray: 2 4; }
.row { fill: #0969da; } .late { fill: none; stroke: #cf222e; stroke-width: 2.5; } .latetext { fill: #cf222e; }
.mark { stroke: #8250df; stroke-width: 2.5; fill: none; } .marktext { fill: #8250df; font-size: 11px; }
.final, .open { fill-opacity: 0.15; } .final { fill: #1a7f37; stroke: #1a7f37; }
.open { fill: #9a6700; stroke: #9a6700; stroke-dasharray: 5 3; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .small { fill: #8d96a0; } .row { fill: #4493f8; } .latetext { fill: #f85149; }
.late { stroke: #f85149; } .mark { stroke: #ab7df8; } .marktext { fill: #ab7df8; }
.final { fill: #3fb950; stroke: #3fb950; } .open { fill: #d29922; stroke: #d29922; } }
"""


def draw(scene: Scene) -> str:
    """The picture as SVG text, the same in every run."""
    told = play(scene)
    lanes = _lanes(told.windows, _FIGURES * (scene.span[1] - scene.span[0]) / WIDTH)
    below = TOP + ROW * len(scene.batches)
    height = below + 34 + BAND * (max(lanes, default=0) + 1) + 34

    def x(minutes: float) -> float:
        since, until = scene.span
        return round(LEFT + (minutes - since) / (until - since) * WIDTH, 1)

    body = [f'<text class="title" x="12" y="22">{escape(scene.title)}</text>']
    for minutes in range(scene.span[0], scene.span[1] + 1, 5):
        body.append(f'<line class="grid" x1="{x(minutes)}" y1="{TOP - 8}" x2="{x(minutes)}" y2="{height - 26}"/>')
        label = _clock(minutes)
        body.append(f'<text class="small" text-anchor="middle" x="{x(minutes)}" y="{height - 10}">{label}</text>')
    body += _rows(scene, told, x)
    body += _marks(scene, told, x)
    body.append(f'<text class="small" x="12" y="{below + 24 + BAND * 0.6}">windows</text>')
    for (start, end, figures, final), lane in zip(told.windows, lanes, strict=True):
        top = below + 24 + BAND * lane
        kind = "final" if final else "open"
        wide = round(x(end) - x(start), 1)
        body.append(f'<rect class="{kind}" x="{x(start)}" y="{top}" width="{wide}" height="{BAND - 6}" rx="4"/>')
        words = f"{figures}  {kind}"
        middle = round((x(start) + x(end)) / 2, 1)
        body.append(f'<text class="figures" text-anchor="middle" x="{middle}" y="{top + 16}">{words}</text>')
    size = f'viewBox="0 0 {LEFT + WIDTH + 30} {height}" width="{LEFT + WIDTH + 30}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(scene.title)}</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>", ""])


def _rows(scene: Scene, told: Told, x: Any) -> list[str]:
    """Batches from top to bottom in the order in which they came, their rows by event time."""
    found = []
    for number, batch in enumerate(scene.batches):
        y = TOP + ROW * number + ROW // 2
        found.append(f'<text class="small" x="12" y="{y + 4}">batch {number + 1}</text>')
        found.append(f'<line class="axis" x1="{LEFT}" y1="{y}" x2="{LEFT + WIDTH}" y2="{y}" opacity="0.2"/>')
        for value, minutes in batch:
            late = (number, minutes) in told.late
            found.append(f'<circle class="{"late" if late else "row"}" cx="{x(minutes)}" cy="{y}" r="6"/>')
            words = f"{value} late" if late else str(value)
            kind = "small latetext" if late else "small"
            found.append(f'<text class="{kind}" x="{round(x(minutes) + 10, 1)}" y="{y + 4}">{words}</text>')
    return found


def _marks(scene: Scene, told: Told, x: Any) -> list[str]:
    """The watermark behind each batch, as a line that goes down with the batches and to the right with event time."""
    found, path = [], ""
    for number, mark in enumerate(told.watermarks):
        if mark is None:
            continue
        y = TOP + ROW * (number + 1)
        path += f"{'L' if path else 'M'}{x(mark)} {y} "
        path += f"L{x(mark)} {y + (ROW if number + 1 < len(scene.batches) else 8)} "
        words = f"watermark {_clock(mark)}"
        found.append(f'<text class="marktext" x="{round(x(mark) + 6, 1)}" y="{y + 4}">{words}</text>')
    return [f'<path class="mark" d="{path.strip()}"/>', *found]


def _clock(minutes: float) -> str:
    """A time of day: the scenes begin at noon."""
    return f"{(12 * 60 + int(minutes)) // 60}:{int(minutes) % 60:02d}"


def _lanes(windows: list[tuple[float, float, str, bool]], least: float) -> list[int]:
    """For each window, in order of their beginnings, the first line on which it and its figures overlap none.

    least  how many minutes the figures take
    """
    ends: list[float] = []
    lanes = []
    for start, end, _, _ in windows:
        beyond = max(0.0, (least - (end - start)) / 2)
        lane = next((n for n, last in enumerate(ends) if last <= start - beyond), len(ends))
        ends[lane : lane + 1] = [end + beyond]
        lanes.append(lane)
    return lanes


def main() -> None:
    """Draw all of them into the folder of this file."""
    for scene in SCENES:
        (HERE / f"{scene.name}.svg").write_text(draw(scene))


if __name__ == "__main__":
    main()
