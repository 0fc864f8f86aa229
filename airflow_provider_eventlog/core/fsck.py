"""`eventlog fsck`: prove that ledger, staging and targets hold what was promised, say what differs, mend only that.

Looking changes nothing and needs neither Kafka nor the pipelines' code. It may run beside everything else: what is
looked at is asked for in an order in which work under way shows as unfinished, not as damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from airflow_provider_eventlog.core import retention
from airflow_provider_eventlog.core.auditing import chain, derived, folds, landed, tables, written
from airflow_provider_eventlog.core.auditing.files import Verifier
from airflow_provider_eventlog.core.auditing.findings import Audit, Finding
from airflow_provider_eventlog.core.auditing.mending import Mender
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventLogError, ReadCancelledError, RequestError
from airflow_provider_eventlog.declare.pipeline import Pipeline
from airflow_provider_eventlog.declare.stream import Stream

_LET_GO = ("raw_expired", "part_expired")
# No damage, since the next load mends them, and yet mended with the rest.
_NOT_YET = ("windows_behind",)


def fsck(
    engine: Engine,
    stream: str,
    *,
    deep: bool = False,
    repair: bool = False,
    dry_run: bool = False,
    pipelines: Sequence[Pipeline] = (),
    restore: Sequence[str] = (),
    who: str = "eventlog fsck",
) -> dict[str, Any]:
    """Audit one registered stream with all pipelines over it; mend what differs if asked.

    deep       recompute the logical digest of every file's rows, beside size and SHA-256, and hold the rows of windows
               against their change-sets
    repair     mend what is damaged and can be made again
    dry_run    with repair or restore: say what would be done, and change nothing
    pipelines  the code of those whose parts may have to be derived again
    restore    batches whose files retention let go, to be brought back: raw files from Kafka, and the parts of the
               newest loaded generation for those of `pipelines`
    who        for the decisions' records

    Returns JSON values: `findings`, each with code, place, what differs, how to mend it, and what was done; `damaged`
    and `failed`, how many of them are still so; `checked`, `bytes` and `states`, what was looked at. Raises
    RequestError (no such stream; a batch to restore that retention did not let go), ReadCancelledError and the errors
    of a ledger or store that cannot be reached.
    """
    declaration = dict(engine.ledger.streams()).get(stream)
    if declaration is None:
        raise RequestError(f"No stream {stream!r} is registered in this ledger.")
    run = Audit(engine, stream, deep, frozenset(restore), engine.ledger.decisions(stream))
    _refuse_unexpired(run)
    audited = _Stream(run)
    findings = audited.still(audited.findings())
    done: dict[int, tuple[str, bool]] = {}
    if repair or restore:
        mender = Mender(engine, stream_of(declaration), pipelines, who=who, dry_run=dry_run)
        done = _mend_all(run, mender, findings, repair, {p.name for p in pipelines})
    mended = {number for number, (_, well) in done.items() if well and not dry_run}
    said = {number: text for number, (text, _) in done.items()}
    return {
        "stream": stream,
        "checked": dict(run.checked),
        "bytes": audited.bytes,
        "states": audited.states,
        "dry_run": dry_run,
        "findings": [{**f.to_json(), "mended": n in mended, "result": said.get(n)} for n, f in enumerate(findings)],
        "damaged": sum(f.damaged for n, f in enumerate(findings) if n not in mended),
        "failed": sum(not well for _, well in done.values()),
        "mended": len(mended),
    }


def _mend_all(
    run: Audit, mender: Mender, findings: Sequence[Finding], repair: bool, pipelines: set[str]
) -> dict[int, tuple[str, bool]]:
    """Mend what is wanted, in order; per finding what was done and whether it went well."""
    chosen = [n for n, finding in enumerate(findings) if _wanted(finding, repair, pipelines)]
    done: dict[int, tuple[str, bool]] = {}
    for at, number in enumerate(sorted(chosen, key=lambda n: _rank(findings[n])), 1):
        run.engine.check_cancelled()
        done[number] = _mend(findings[number], mender)
        run.engine.progress("mended findings", at, len(chosen))
    lacking = [f for n, f in enumerate(findings) if not done.get(n, ("", False))[1]]
    _write_restored(run, mender, lacking, pipelines)
    return done


def stream_of(declaration: str) -> Stream:
    """A registered stream, as far as it takes to reach its topic and its files."""
    declared = json.loads(declaration)
    return Stream(
        declared["topic"],
        name=declared["name"],
        kafka_conn_id=declared["kafka_conn_id"],
        staging=declared["staging"],
    )


class _Stream:
    """The whole audit of one stream; `bytes` and `states` are complete when its findings are exhausted."""

    def __init__(self, run: Audit) -> None:
        self._run = run
        self._pipelines = run.ledger.pipelines()
        self._verifier = Verifier(run.engine, run.ledger.raw_bytes() + sum(map(run.ledger.part_bytes, self._pipelines)))
        self.states: dict[str, dict[str, int]] = {}

    @property
    def bytes(self) -> int:
        """Bytes of the files that were verified."""
        return self._verifier.done

    def findings(self) -> Iterator[Finding]:
        """Chain, then landing, then each pipeline with its tables, then the records in staging."""
        run, engine = self._run, self._run.engine
        yield from chain.audit(run)
        yield from landed.audit(run, self._verifier)
        declared = {name: text for name, of, _, text in engine.ledger.pipelines() if of == run.stream}
        for name in self._pipelines:
            made = derived.Derived(name)
            yield from derived.audit(run, self._verifier, made)
            taken = sum(made.states.values())
            self.states[name] = {**made.states, "not taken": max(0, run.checked["batches"] - taken)}
            if name in declared:
                yield from tables.audit(run, made, declared[name])
            yield from folds.audit(run, self._verifier, name, declared.get(name))
        yield from written.audit(run)

    def still(self, findings: Iterable[Finding]) -> list[Finding]:
        """All findings, but for files that retention has let go while the audit was under way."""
        found = list(findings)
        decisions = self._run.engine.ledger.decisions(self._run.stream)
        if decisions == self._run.decisions:
            return found
        raw = retention.expired_raw(decisions)
        parts = {name: retention.expired_parts(decisions, name) for name in self._pipelines}

        def let_go(f: Finding) -> bool:
            if f.code == "raw_missing":
                return f.batch_id in raw
            if f.code != "part_missing" or f.pipeline is None or f.batch_id is None or f.generation is None:
                return False
            return f.generation <= parts[f.pipeline].get(f.batch_id, (0,))[0]

        return [f for f in found if not let_go(f)]


def _wanted(finding: Finding, repair: bool, pipelines: set[str]) -> bool:
    if finding.fix is None:
        return False
    if finding.code in _LET_GO:
        return finding.pipeline is None or finding.pipeline in pipelines
    return repair and (finding.damaged or finding.code in _NOT_YET)


def _rank(finding: Finding) -> int:
    assert finding.fix is not None
    return finding.fix.rank


def _mend(finding: Finding, mender: Mender) -> tuple[str, bool]:
    assert finding.fix is not None
    try:
        return finding.fix.act(mender), True
    except ReadCancelledError:
        raise
    except EventLogError as error:
        return f"{type(error).__name__}: {error}", False


def _refuse_unexpired(run: Audit) -> None:
    raw = retention.expired_raw(run.decisions)
    parts = [retention.expired_parts(run.decisions, name) for name in run.ledger.pipelines()]
    for batch_id in run.restore:
        if batch_id not in raw and not any(batch_id in of for of in parts):
            raise RequestError(f"Retention has let no files go of a batch {batch_id!r} of stream {run.stream!r}.")


def _write_restored(run: Audit, mender: Mender, open_findings: Sequence[Finding], pipelines: Iterable[str]) -> None:
    """Decide that batches are back of which nothing is missing any more."""
    raw = retention.expired_raw(run.decisions)
    lacking = {(f.pipeline, f.batch_id) for f in open_findings if f.code.startswith(("raw_", "part_"))}
    for batch_id in sorted(run.restore):
        if batch_id in raw and (None, batch_id) not in lacking:
            mender.restored(None, {"what": retention.RAW, "batches": [batch_id]})
        for name in pipelines:
            through = retention.expired_parts(run.decisions, name).get(batch_id)
            newest = run.ledger.standings(name).get(batch_id)
            if through and newest and newest[0] <= through[0] and (name, batch_id) not in lacking:
                mender.restored(name, {"what": retention.PARTS, "through": {batch_id: newest[0]}})
