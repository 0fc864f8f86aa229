"""Tables of windows: where each stands in its fold log and, looked at deeply, whether it holds what that adds up to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from airflow_provider_eventlog.core.auditing.findings import LOAD, Audit, Finding, Fix
from airflow_provider_eventlog.core.auditing.tables import AS_IT_SAYS, FREE, rebuild, replaced
from airflow_provider_eventlog.core.errors import (
    EventLogError,
    ReadCancelledError,
    TargetOwnedError,
    TargetReplacedError,
    TargetSchemaError,
)
from airflow_provider_eventlog.core.holdings import Differing
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.protocols import FoldRecord
from airflow_provider_eventlog.core.rebuilding.windows import Recorded, WindowsWork
from airflow_provider_eventlog.declare.outputs import DuckDB

_AHEAD = "Bring the ledger back from a copy, or make it again (eventlog ledger rebuild)."
_RESUME = "`eventlog fsck --repair`, `eventlog resume` or the next load applies them."
_ANEW = (
    "`eventlog fsck --deep --repair` makes the table anew from its change-sets and keeps this one as {}__replaced_1 or "
    "the next number, as {} does."
)
_NAMED = 5
# A table is read again when loads have moved it on; so often in a row they hardly do.
_TRIES = 5


def audit(
    run: Audit, pipeline: str, windows: str, output: Mapping[str, Any], harmed: Collection[str]
) -> Iterator[Finding]:
    """Findings about the table of an output's windows and that of its late rows; raises ReadCancelledError only.

    output  as the registered declaration has it
    harmed  paths of files that are known to be damaged: a table is not held against those
    """
    for late, declared in ((False, output["target"]), (True, output.get("late"))):
        if declared is None:
            continue
        run.engine.check_cancelled()
        run.checked["tables"] += 1
        found = declared["duckdb"]
        target = DuckDB(found["path"], found["table"], found["schema"])
        work = WindowsWork(run.engine, pipeline, windows, target, late, Recorded(run.stream))
        yield from _Table(run, work, harmed).findings()


class _Table:
    """One table against its fold log."""

    def __init__(self, run: Audit, work: WindowsWork, harmed: Collection[str]) -> None:
        self._run, self._work, self._harmed = run, work, harmed
        self._where = f"{work.declared.path}, table {work.declared.schema}.{work.declared.table}"

    def _wrong(self, code: str, what: str, mend: str, **more: Any) -> Finding:
        return Finding(code, self._where, what, mend, pipeline=self._work.pipeline, **more)

    def findings(self) -> Iterator[Finding]:
        """What is wrong."""
        try:
            # Before the log: a fold stands there before it is in a table, so that no load makes this one look ahead.
            cursor = self._work.target.cursor(self._work.id)
            yield from self._place((0, 0) if cursor is None else cursor)
            if self._run.deep and cursor is not None:
                yield from self._rows(cursor)
        except ReadCancelledError:
            raise
        except TargetReplacedError as error:
            yield self._wrong("table_replaced", str(error), replaced(self._work.name))
        except TargetOwnedError as error:
            yield self._wrong("table_replaced", str(error), AS_IT_SAYS)
        except EventLogError as error:
            yield self._wrong("table_unchecked", str(error), FREE)

    def _place(self, at: tuple[int, int]) -> Iterator[Finding]:
        work, ledger = self._work, self._run.engine.ledger
        log = ledger.fold_logs(work.pipeline, work.windows)[-1].log
        newest = ledger.last_fold(work.pipeline, work.windows, log)
        last = (log, 0 if newest is None else newest.n)
        if at > last:
            what = f"The table stands at change-set {at[1]} of log {at[0]}, the ledger at {last[1]} of log {last[0]}."
            yield self._wrong("windows_ahead", what, _AHEAD)
        elif at < last and not (at == (0, 0) and self._nothing_yet(log)):
            what = f"The table lacks change-sets: it stands at {at[1]} of log {at[0]}, the log {last[0]} at {last[1]}."
            fix = Fix(LOAD, lambda mender: mender.changes(work))
            yield self._wrong("windows_behind", what, _RESUME, damaged=False, fix=fix)

    def _nothing_yet(self, log: int) -> bool:
        """Whether a table that was never made lacks nothing, since no fold has anything for it."""
        kind, folds = self._work.kinds[0], self._run.engine.ledger.folds(self._work.pipeline, self._work.windows, log)
        return all(kind not in fold.files for fold in folds)

    def _rows(self, at: tuple[int, int]) -> Iterator[Finding]:
        """How its rows differ from its change-sets."""
        work, ledger = self._work, self._run.engine.ledger
        for _ in range(_TRIES):
            folds = ledger.folds(work.pipeline, work.windows, at[0])
            if len(folds) < at[1] or self._harm(folds):
                # Told already: of the table, which is ahead, or of the files.
                return
            try:
                found = work.differing(at, _NAMED)
            except TargetSchemaError as error:
                yield self._wrong("windows_columns", str(error), AS_IT_SAYS, fix=self._anew())
                return
            if found is not None:
                self._run.checked["compared tables"] += 1
                if found.keys:
                    mend = _ANEW.format(work.declared.table, rebuild(work.name, " --replace"))
                    yield self._wrong("windows_differ", _told(found, at), mend, fix=self._anew())
                return
            at = work.target.cursor(work.id) or at
        what = f"Loads have moved the table on {_TRIES} times while it was compared with its change-sets."
        yield self._wrong("table_unchecked", what, FREE, damaged=False)

    def _harm(self, folds: tuple[FoldRecord, ...]) -> bool:
        named = (file.path for fold in folds for kind, (file, _) in fold.files.items() if kind in self._work.kinds)
        return any(path in self._harmed for path in named)

    def _anew(self) -> Fix:
        # Readers see the old rows or the new ones, loads go on, and what somebody wrote is kept under another name.
        return Fix(LOAD, lambda mender: mender.anew(self._work))


def _told(found: Differing, at: tuple[int, int]) -> str:
    first = "; ".join(f"{how}: {', '.join(map(_text, values))}" for how, values in found.first)
    more = f"; and {found.keys - len(found.first):,} more" if found.keys > len(found.first) else ""
    return (
        f"The table differs from what change-sets 1 to {at[1]} of log {at[0]} add up to, in {found.keys:,} "
        f"{'key' if found.keys == 1 else 'keys'}. {first}{more}."
    )


def _text(value: str | None) -> str:
    return "NULL" if value is None else printable(value, 60)
