"""What is known of a pipeline's completeness: each interval's newest verdict, sequences over the chain, windows.

Reads ledger and staging only, and runs nothing of the pipeline's own code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_eventlog.core.completeness import counts, sequences, tally
from airflow_provider_eventlog.core.completeness.judging import FIGURES
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import GenerationRecord
from airflow_provider_eventlog.core.session import session
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.declare.completeness import Sequence as Numbering

# Worse ones first: what a window is called that several intervals reach into.
_WORST = (counts.MISSING, counts.SHORT, counts.DIFFERS, counts.UNPROVED, counts.SURPLUS, counts.COMPLETE)


def batches(
    engine: Engine, pipeline: str, stream: str, batch_id: str | None = None
) -> list[tuple[BatchPlan, GenerationRecord]]:
    """The batches of a pipeline that were judged, in chain order, each with its newest judged generation.

    Raises RequestError for a batch that the pipeline does not have.
    """
    newest: dict[str, GenerationRecord] = {}
    known = engine.ledger.generations(pipeline, batch_id)
    if batch_id is not None and not known:
        raise RequestError(
            f"Pipeline {printable(pipeline, 80)} has no batch {printable(batch_id, 80)}; `eventlog batches --pipeline` "
            f"shows which there are."
        )
    for record in known:
        if FIGURES in (record.accounting or {}):
            newest[record.batch_id] = record
    return [(plan, newest[plan.batch_id]) for plan, _ in engine.ledger.batches(stream) if plan.batch_id in newest]


def intervals(engine: Engine, judged: Iterable[tuple[BatchPlan, GenerationRecord]]) -> list[dict[str, Any]]:
    """Each rule's intervals by producer with the newest verdict of these batches, oldest interval first."""
    newest: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for plan, record in judged:
        for rule, entries in _entries(engine, plan, record).items():
            for entry in entries:
                told = {"rule": rule, "batch_id": plan.batch_id, "generation": record.generation, **entry}
                newest[entry["start"], rule, entry["producer"]] = told
    return [newest[key] for key in sorted(newest, key=lambda k: (k[0], k[1], k[2] or ""))]


def _entries(engine: Engine, plan: BatchPlan, record: GenerationRecord) -> Mapping[str, list[dict[str, Any]]]:
    figures = dict(record.accounting or {})[FIGURES]
    path = paths.completeness(plan.stream, record.pipeline, plan.batch_id, record.generation, figures["rules"])
    standing = engine.staging.read_json(path)
    if standing is not None:
        found: Mapping[str, list[dict[str, Any]]] = standing["entries"]
        return found
    # A batch that waits for counts: what it waits for is all that is kept.
    return {name: one["first"] for name, one in figures.get("counts", {}).items()}


def numbered(judged: Iterable[tuple[BatchPlan, GenerationRecord]]) -> list[dict[str, Any]]:
    """What each batch adds to each sequence."""
    return [
        {"sequence": name, "batch_id": plan.batch_id, "generation": record.generation, **one}
        for plan, record in judged
        for name, one in dict(record.accounting or {})[FIGURES].get("sequences", {}).items()
    ]


def standing(
    engine: Engine, pipeline: str, declaration: Mapping[str, Any], judged: Sequence[tuple[BatchPlan, GenerationRecord]]
) -> list[dict[str, Any]]:
    """Each declared sequence over all batches of the newest epoch, those outside of the chain included.

    A function of what was landed alone: neither of the order in which batches were judged, nor of how they were cut.
    """
    rules = [Numbering(**one["sequence"]) for one in declaration.get("completeness", ()) if "sequence" in one]
    epoch = max((plan.epoch for plan, _ in judged), default=0)
    mine = [(plan, record) for plan, record in judged if plan.epoch == epoch]
    digests = {dict(r.accounting or {})[FIGURES]["counted"] for _, r in mine[-1:]}
    if not rules or not digests:
        return []
    (digest,) = digests
    rows = [*_ends(engine, pipeline, digest, [p for p, _ in mine if p.kind == "chain"])]
    for plan, _ in mine:
        if plan.kind != "chain":
            named = (paths.tally(plan.stream, pipeline, plan.batch_id, digest, one) for one in plan.slices)
            rows += [tally.read(engine, path) for path in named if engine.staging.exists(path)]
    if not rows:
        return []
    whole = sequences.compose(*rows)
    with session(threads=1) as connection:
        return [{"sequence": rule.name, **sequences.standing(connection, rule, whole)} for rule in rules]


def _ends(engine: Engine, pipeline: str, digest: str, chain: Sequence[BatchPlan]) -> Iterable[Any]:
    """The states that together hold all of the chain: the newest, and where it was broken the one before."""
    limit: int | None = None
    for plan in reversed(chain):
        if limit is not None and (plan.to_instant is None or plan.to_instant > limit):
            continue
        path = paths.sequences(plan.stream, pipeline, plan.batch_id, digest)
        if not engine.staging.exists(path):
            continue
        found = sequences.read(engine, path)
        yield found.rows
        if found.since is None:
            return
        limit = found.since


def of_windows(windows: Iterable[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Windows as the listing of windows has them, each with the counts of all intervals that reach into it.

    An interval longer than a window counts for every window that it reaches into: the figure is that of the intervals.
    """
    spans = [(_ms(one["start"]), _ms(one["end"]), one) for one in known]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for window in windows:
        key = (window["window_start"], window["window_end"])
        if key in found:
            continue
        low, high = _ms(key[0]), _ms(key[1])
        touching = [one for start, end, one in spans if start < high and low < end]
        counted = [one for one in touching if one["expected"] is not None]
        expected, landed = (sum(int(one[name]) for one in counted) for name in ("expected", "found"))
        verdicts = {one["verdict"] for one in touching}
        found[key] = {
            "window_start": key[0],
            "window_end": key[1],
            "final": window["_final"],
            "intervals": len(touching),
            "expected": expected if counted else None,
            "found": landed if counted else None,
            "share": counts.share(expected, landed) if counted else None,
            "verdict": next((v for v in _WORST if v in verdicts), None),
        }
    return [found[key] for key in sorted(found)]


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
