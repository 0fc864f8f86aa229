"""What is known of one generation of a batch, from ledger and staging alone, as JSON values.

Foreign text in it (payloads, keys, header names, reasons) is cut and made visible; equal state gives an equal report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_provider_eventlog.core import accounting, quarantine
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventLogError, RequestError
from airflow_provider_eventlog.core.naming import printable, visible
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.planning.words import when
from airflow_provider_eventlog.core.protocols import Decision, GenerationRecord, GenerationState, PartRecord
from airflow_provider_eventlog.core.report import flow
from airflow_provider_eventlog.core.staging import paths
from airflow_provider_eventlog.core.verdicts import declared_checks, verdicts

# Of each quarantined record: characters of its value, key and headers, and headers.
_VALUE, _KEY, _HEADERS = 400, 100, 10
_REASON = 400
_FOLDED = ("placed", "late", "outside")


def collect(
    engine: Engine, pipeline: str, batch_id: str, generation: int | None = None, *, first: int = 20
) -> dict[str, Any]:
    """The report of one generation of a batch; of the newest if none is named.

    first  up to so many quarantined rows

    Raises RequestError for a batch or generation that the pipeline does not have, AccountingError. A quarantine whose
    files are gone is told of in `notes`.
    """
    record, newest = _generation(engine, pipeline, batch_id, generation)
    batch, _ = engine.ledger.batch(batch_id)
    declared = _declaration(engine, batch, record)
    parts = engine.ledger.parts(pipeline, batch_id, record.generation)
    slices = engine.ledger.slices(batch_id)
    landing = accounting.total([accounting.landing_counts(s) for s in slices], accounting.LANDING)
    whole = {s.range for s in slices} == set(batch.slices)
    figures = dict(record.accounting or ({"landing": landing} if whole else {}))
    found = outputs(engine, batch, record, declared, figures)
    notes: list[str] = []
    return {
        "pipeline": pipeline,
        "stream": batch.stream,
        "epoch": batch.epoch,
        "topic": _topic(engine, batch),
        "batch": _batch(batch),
        "generation": {
            "generation": record.generation,
            "newest": newest,
            "state": record.state.value,
            "recipe": record.recipe,
            "digest": record.digest,
        },
        "accounting": figures,
        "flow": flow.levels(figures, found) if figures else [],
        "slices": {"landed": len(slices), "planned": len(batch.slices)},
        "lost": [str(r) for s in slices for r in s.losses],
        "checks": verdicts(declared_checks(declared), record.accounting),
        "completeness": figures.get("completeness", {}),
        "gate": _gate(engine, batch, record, declared),
        "quarantine": {
            "codes": dict(figures.get("quarantine", {})),
            "rows": sum(figures.get("quarantine", {}).values()),
            "first": _stopped(engine, parts, first, notes),
        },
        "profile": profile(engine, batch, record),
        "outputs": found,
        "notes": notes,
    }


def _generation(engine: Engine, pipeline: str, batch_id: str, wanted: int | None) -> tuple[GenerationRecord, int]:
    known = engine.ledger.generations(pipeline, batch_id)
    numbers = ", ".join(str(g.generation) for g in known) or "none"
    for record in reversed(known):
        if wanted is None or record.generation == wanted:
            return record, known[-1].generation
    named = f"batch {printable(batch_id, 80)}" + ("" if wanted is None else f", generation {wanted}")
    raise RequestError(
        f"Pipeline {printable(pipeline, 80)} has no {named} (generations of it: {numbers}); `eventlog batches "
        f"--pipeline` shows which there are."
    )


def _declaration(engine: Engine, batch: BatchPlan, record: GenerationRecord) -> dict[str, Any]:
    """What the pipeline declared under the generation's recipe."""
    text = engine.ledger.audit(batch.stream).declarations(record.pipeline).get(record.recipe)
    return dict(json.loads(text)) if text else {}


def _topic(engine: Engine, batch: BatchPlan) -> dict[str, Any]:
    identity = engine.topic(batch)
    return {
        "name": visible(identity.topic, 300),
        "id": identity.topic_id,
        "cluster": visible(identity.cluster_id, 300),
        "weak": identity.weak,
    }


def _batch(batch: BatchPlan) -> dict[str, Any]:
    return {
        "batch_id": batch.batch_id,
        "kind": batch.kind,
        "from": None if batch.from_instant is None else when(batch.from_instant),
        "to": None if batch.to_instant is None else when(batch.to_instant),
        "offsets": batch.length,
        "ranges": [str(r) for r in batch.ranges],
    }


def _gate(engine: Engine, batch: BatchPlan, record: GenerationRecord, declared: Mapping[str, Any]) -> dict[str, Any]:
    figures = record.accounting or {}
    stopped = sum(figures.get("quarantine", {}).values())
    share = stopped / (stopped + figures["transform"]["passed"]) if stopped else 0.0
    allowed = declared.get("max_quarantine_ratio")
    rules = [f"check {name}" for name, told in figures.get("checks", {}).items() if told.get("holds")]
    compared = figures.get("completeness", {})
    for kind in ("counts", "sequences"):
        told = compared.get(kind, {}).items()
        rules += [f"completeness {name}" for name, one in told if one.get("holds") or one.get("pending")]
    if allowed is not None and share > allowed:
        rules.append("max_quarantine_ratio")
    return {
        "held": record.state is GenerationState.HELD,
        "rules": rules,
        "quarantined_share": round(share, 6),
        "max_quarantine_ratio": allowed,
        "decisions": [_decision(d) for d in _decisions(engine, batch, record)],
    }


def _decisions(engine: Engine, batch: BatchPlan, record: GenerationRecord) -> Iterator[Decision]:
    """What people decided about this generation, in order."""
    for decision in engine.ledger.decisions(batch.stream):
        about = (decision.pipeline, decision.batch_id, decision.payload.get("generation", record.generation))
        if about == (record.pipeline, record.batch_id, record.generation):
            yield decision


def _decision(decision: Decision) -> dict[str, Any]:
    told = {"who": visible(decision.who), "why": visible(decision.why, _REASON)}
    return {"kind": decision.kind, "at": when(decision.at), **told}


def outputs(
    engine: Engine,
    batch: BatchPlan,
    record: GenerationRecord,
    declared: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Each declared output with where it goes and what became of the rows that passed; nothing before validation.

    `rows` are parts of what passed: loaded or waiting for outputs of rows; placed, late, outside of all windows,
    earlier (rows that had entered by an earlier generation) or waiting for windows.
    """
    if "transform" not in figures:
        return []
    passed = int(figures["transform"]["passed"])
    loaded = record.state is GenerationState.LOADED
    found = []
    for output in declared.get("outputs", ()):
        ((kind, value),) = output.items()
        entry = {"output": value["name"], "kind": kind, "table": _table(value["target"])}
        if kind == "windows":
            found.append({**entry, **_folded(engine, batch, record, value["name"], passed)})
        else:
            found.append({**entry, "rows": {"loaded" if loaded else "waiting": passed}})
    if declared.get("quarantine") is not None:
        stopped = sum(figures.get("quarantine", {}).values())
        rows = {"loaded" if loaded else "waiting": stopped}
        found.append(
            {"output": quarantine.KIND, "kind": quarantine.KIND, "table": _table(declared["quarantine"]), "rows": rows}
        )
    return found


def _table(target: Mapping[str, Any]) -> str:
    ((kind, value),) = target.items()
    return visible(f"{kind} {value.get('path', '')} {value.get('schema', '')}.{value.get('table', '')}".strip(), 300)


def _folded(engine: Engine, batch: BatchPlan, record: GenerationRecord, output: str, passed: int) -> dict[str, Any]:
    """How a generation entered the windows, in the newest log that it entered."""
    logs = engine.ledger.fold_logs(record.pipeline, output)
    for log in reversed(logs):
        for fold in reversed(engine.ledger.folds_about(record.pipeline, output, log.log, batch.batch_id)):
            if fold.accounting.get("generation") == record.generation:
                rows = {name: int(fold.accounting.get(name, 0)) for name in _FOLDED}
                rest = passed - sum(rows.values())
                counted = {**rows, "earlier": rest} if rest > 0 else rows
                late = int(fold.accounting.get("late_pairs", 0))
                told = {"log": log.log, "fold": fold.n, "cause": fold.cause, "late_pairs": late}
                # A correction counts rows of other batches as well: then only that it entered can be told.
                return {**told, "rows": counted if rest >= 0 else {"placed": passed}}
    return {"log": None, "fold": None, "rows": {"waiting": passed}}


def profile(engine: Engine, batch: BatchPlan, record: GenerationRecord) -> dict[str, Any] | None:
    """The generation's profile, if one was made: with its accounting, or beside its commit record."""
    kept = (record.accounting or {}).get("profile")
    if isinstance(kept, Mapping):
        return dict(kept)
    folder = paths.generation(batch.stream, record.pipeline, batch.batch_id, record.generation)
    try:
        return engine.staging.read_json(f"{folder}/profile.json")
    except EventLogError:
        return None


def _stopped(engine: Engine, parts: Sequence[PartRecord], limit: int, notes: list[str]) -> list[dict[str, Any]]:
    """The first quarantined rows by position."""
    import pyarrow.parquet as pq

    from airflow_provider_eventlog.core.rawfile import reading

    rows: list[dict[str, Any]] = []
    for part in (p for p in parts if p.kind == quarantine.KIND):
        if len(rows) >= limit:
            break
        try:
            path = engine.staging.open(part.file.path, part.file)
            with reading(path):
                file = pq.ParquetFile(path, page_checksum_verification=True)
                for found in file.iter_batches(batch_size=limit):
                    rows += [_row(row) for row in found.slice(0, limit - len(rows)).to_pylist()]
                    if len(rows) >= limit:
                        break
        except EventLogError as error:
            notes.append(f"The quarantine of {part.range.people} cannot be shown: {visible(str(error), _REASON)}")
    return rows


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    value, headers = row["value"], row["headers"] or []
    return {
        "partition": row["_partition"],
        "offset": row["_offset"],
        "row": None if row["_row"] < 0 else row["_row"],
        "timestamp": _stamp(row["timestamp"]),
        "stage": row["stage"],
        "code": row["code"],
        "check": row["check"] or None,
        "reason": visible(row["reason"], _REASON),
        "key": None if row["key"] is None else visible(row["key"], _KEY),
        "value": None if value is None else visible(value, _VALUE),
        "value_bytes": None if value is None else len(value),
        "headers": [
            [visible(h["key"], _KEY), None if h["value"] is None else visible(h["value"], _KEY)]
            for h in headers[:_HEADERS]
        ],
        "header_count": len(headers),
    }


def _stamp(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat(timespec="milliseconds")
