"""Where every offset of a batch went: the accounting as levels, each taken apart without a rest.

The first part of a level is what goes on to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_eventlog.core.errors import AccountingError

# Of a picture, in its own units.
WIDTH, BAR, GAP, LEFT, TOP = 900, 30, 62, 10, 24
# What is there must be seen, however small its share.
_LEAST = 2


def levels(figures: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The levels that the accounting tells of: planned, landed, typed, and what passed for each output.

    figures  a generation's accounting, or only its landing before validation
    outputs  as `collect.outputs` has them

    Raises AccountingError where the parts of a level are not its total.
    """
    landing, found = figures["landing"], []
    found.append(_level("planned", "offsets", landing["length"], landing, ("landed", "invisible", "lost")))
    if "transform" in figures:
        rows = figures["transform"]
        found.append(_level("landed", "records", landing["landed"], rows, ("typed", "tombstones", "undecodable")))
        copies = rows["typed"] + rows["exploded"]
        found.append(_level("typed", "rows", copies, rows, ("passed", "filtered", "rejected")))
        for output in outputs:
            if output["kind"] == "quarantine":
                continue
            taken = output["rows"]
            found.append(_level(f"passed, for {output['output']}", "rows", rows["passed"], taken, tuple(taken)))
    return found


def _level(name: str, unit: str, total: int, counts: Mapping[str, int], parts: tuple[str, ...]) -> dict[str, Any]:
    taken = {part: int(counts[part]) for part in parts}
    if sum(taken.values()) != total:
        told = " + ".join(f"{count} {part}" for part, count in taken.items())
        raise AccountingError(
            f"The report does not balance: {total} {unit} are {name}, but {told}. This is a defect, report it."
        )
    listed = [{"name": part, "count": count} for part, count in taken.items()]
    return {"name": name, "unit": unit, "total": total, "parts": listed}


def picture(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Levels as bars under one another: where each part is drawn, and the bands from what goes on to the next level.

    Levels of outputs all hang from the level before them.
    """
    most = max((level["total"] for level in found), default=0)
    scale = WIDTH / most if most else 0.0
    bars: list[dict[str, Any]] = []
    for index, level in enumerate(found):
        y, x = TOP + index * (BAR + GAP), float(LEFT)
        segments = []
        for part in level["parts"]:
            width = max(part["count"] * scale, _LEAST) if part["count"] else 0.0
            segments.append({**part, "x": round(x, 2), "width": round(width, 2)})
            x += width
        shared = f"{level['total']:,} {level['unit']} {level['name']}"
        bars.append({**level, "title": shared, "y": y, "segments": segments, "band": _band(bars, level, y, x)})
    return {
        "width": WIDTH + 2 * LEFT + _LEAST * 4,
        "height": TOP + len(bars) * (BAR + GAP),
        "bar": BAR,
        "left": LEFT,
        "bars": bars,
    }


def _band(bars: Sequence[Mapping[str, Any]], level: Mapping[str, Any], y: int, right: float) -> str | None:
    """The corners of the band from the part that goes on down to this level; none between two outputs."""
    if not bars or (level["name"].startswith("passed") and bars[-1]["name"].startswith("passed")):
        return None
    above = bars[-1]
    first = above["segments"][0]
    low, high = above["y"] + BAR, y
    corners = [(LEFT, low), (LEFT + first["width"], low), (round(right, 2), high), (LEFT, high)]
    return " ".join(f"{x:g},{height:g}" for x, height in corners)
