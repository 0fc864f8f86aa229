"""What earlier folds have left behind them: typed rows, late rows, final windows; read only where a fold asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_eventlog.core import arrow, partfile
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import RecipeChangedError
from airflow_provider_eventlog.core.folding import files
from airflow_provider_eventlog.core.folding.head import current
from airflow_provider_eventlog.core.folding.partials import kind_of, with_times
from airflow_provider_eventlog.core.naming import printable
from airflow_provider_eventlog.core.protocols import FoldRecord, PartRecord
from airflow_provider_eventlog.core.windows import frames, lookups, state
from airflow_provider_eventlog.core.windows.corrected import KEY, Held, last_final
from airflow_provider_eventlog.core.windows.fold import Past
from airflow_provider_eventlog.core.windows.plan import WindowPlan

if TYPE_CHECKING:
    import duckdb

# (batch id, generation)
Made = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads generations and folds of one output; all times of spans are milliseconds, `greatest` rounded down."""

    engine: Engine
    pipeline: str
    output: str
    plan: WindowPlan
    connection: duckdb.DuckDBPyConnection

    def parts(self, made: Made) -> dict[str, list[PartRecord]]:
        """The partial and typed parts of a generation by kind, in slice order."""
        found: dict[str, list[PartRecord]] = {kind_of(self.output): [], TYPED: []}
        for part in self.engine.ledger.parts(self.pipeline, *made):
            if part.kind in found:
                found[part.kind].append(part)
        return found

    def partials(self, made: Made, span: tuple[int, int] | None = None) -> list[pa.Table]:
        """The partial results of a generation in slice order; those that reach into a span, if one is given."""
        parts = self.parts(made)[kind_of(self.output)]
        chosen = [p for p in parts if p.counts["rows"] and (span is None or meets(p.counts, span))]
        return [self._table(part) for part in chosen]

    def rows(self, generations: Iterable[Made], wanted: pa.Table) -> pa.Table:
        """Typed rows of generations, stamped, in their order; of slices that no time of `wanted` lies in none."""
        span = _span(wanted)
        tables = []
        for made in generations:
            parts = self.parts(made)
            typed = {part.range: part for part in parts[TYPED]}
            for part in parts[kind_of(self.output)]:
                if span is not None and part.counts["rows"] and meets(part.counts, span):
                    rows = self._fit(typed[part.range], made)
                    tables.append(with_times(self.plan, rows, part.counts.get("stamp")))
        if not tables:
            empty = frames.concat([], self.plan.rows)
            return empty if self.plan.time is not None else frames.stamp(empty, 0)
        return pa.concat_tables(tables)

    def past(self, folds: Callable[[], Sequence[FoldRecord]]) -> Past:
        """What the folds have left; they are looked up only if that is asked for."""

        def rows(wanted: pa.Table) -> pa.Table:
            span = _span(wanted)
            chosen = [
                (batch_id, int(fold.accounting["generation"]))
                for batch_id, fold in current(folds()).items()
                if span is not None and meets(fold.accounting["times"], span)
            ]
            return self.in_time(self.rows(chosen, wanted), folds())

        def closed(wanted: pa.Table) -> pa.Table:
            tables = [table for fold in folds() for table in files.read(self.engine, fold, files.CLOSED)]
            return state.newest_closed(self.connection, self.plan, tables)

        return Past(rows, closed)

    def late(self, folds: Sequence[FoldRecord], batch_id: str) -> pa.Table:
        """What of a batch is in the late output behind these folds (`plan.late`)."""
        about = [fold for fold in folds if fold.about == batch_id]
        return newest_late(self.engine, self.connection, self.plan, about)

    def last_final(self, folds: Sequence[FoldRecord]) -> pa.Table:
        """The last final session of each key, as rows of a state (`corrected.last_final`)."""
        return last_final(self.connection, self.plan, self._published(folds))

    def held(self, folds: Sequence[FoldRecord], batch_id: str) -> list[Held]:
        """What final windows hold of a batch behind these folds, by the generations that entered one after another."""
        about = [fold for fold in folds if fold.about == batch_id and fold.accounting.get("generation") is not None]
        behind = {fold.n: fold.watermark for fold in folds}
        last = folds[-1].n + 1
        found = []
        for number, fold in enumerate(about):
            following = about[number + 1].n if number + 1 < len(about) else last
            since, until = behind.get(fold.n - 1), behind[following - 1]
            # A correction may leave sessions that are final although the watermark has not moved.
            if until is None or (since == until and self.plan.grid is not None):
                continue
            made = (batch_id, int(fold.accounting["generation"]))
            rows, sessions = self.rows([made], before_ms(until)), None
            if self.plan.grid is None:
                published = self._published([one for one in folds if fold.n <= one.n < following])
                sessions = published.filter(arrow.flags(frames.truth(published, "_final")))
                late = newest_late(self.engine, self.connection, self.plan, about[: number + 1])
                rows = lookups.without_late(self.connection, rows, late)
            found.append(Held(rows, None if since is None else since * 1000, until * 1000, sessions))
        return found

    def _published(self, folds: Sequence[FoldRecord]) -> pa.Table:
        columns = [*self.plan.by, "window_start", "window_end", "_final"]
        found = [t.select(columns) for fold in folds for t in files.read(self.engine, fold, files.UPSERTS)]
        return frames.concat(found, pa.schema([self.plan.result.field(name) for name in columns]))

    def in_time(self, rows: pa.Table, folds: Sequence[FoldRecord]) -> pa.Table:
        """Rows without those that are in the late output, where sessions must not see them again."""
        if self.plan.grid is not None or not rows.num_rows:
            return rows
        late = newest_late(self.engine, self.connection, self.plan, folds)
        return lookups.without_late(self.connection, rows, late)

    def _fit(self, part: PartRecord, made: Made) -> pa.Table:
        """The typed rows of a part, with the columns of now; raises RecipeChangedError where they lack one."""
        rows = self._table(part)
        missing = [name for name in self.plan.rows.names if name not in rows.column_names]
        if missing:
            raise RecipeChangedError(
                f"Windows {self.output!r} need the rows of batch {made[0]}, generation {made[1]}, which was derived "
                f"under an earlier recipe without the column {printable(missing[0])}. Decide on the recipe once more: "
                f"eventlog upgrade --reopen-open-windows or --rebuild, under a new version= of the pipeline."
            )
        return frames.fit(rows, self.plan.rows)

    def _table(self, part: PartRecord) -> pa.Table:
        return partfile.read_table(self.engine.staging.open(part.file.path, part.file))


def newest_late(
    engine: Engine, connection: duckdb.DuckDBPyConnection, plan: WindowPlan, folds: Sequence[FoldRecord]
) -> pa.Table:
    """The late rows that folds leave together, by position and window: corrections take some of them back."""
    late, gone = (files.numbered(engine, folds, kind) for kind in (files.LATE, files.LATE_GONE))
    if late is None:
        return frames.concat([], plan.late)
    frames.show(connection, "_every_late", late, dict(plan.columns))
    if gone is not None:
        frames.show(connection, "_late_gone", gone)
    query = frames.newest("_every_late", KEY, None if gone is None else "_late_gone")
    key = frames.listed(KEY).removesuffix(", ")
    return frames.fetch(connection, f"SELECT * EXCLUDE (_n) FROM ({query}) ORDER BY {key}", plan.late)  # noqa: S608


def before_ms(instant: int) -> pa.Table:
    """What to ask for all rows before an instant (ms) by."""
    return frames.numbers_table(_from=np.array([-(2**62)]), _until=np.array([instant * 1000]))


def _span(wanted: pa.Table) -> tuple[int, int] | None:
    if not wanted.num_rows:
        return None
    since, until = frames.number(wanted, "_from"), frames.number(wanted, "_until")
    return int(since.min()) // 1000, int(until.max()) // 1000


def meets(times: Mapping[str, int], span: tuple[int, int]) -> bool:
    """Whether rows of these times (`oldest`, `greatest`, none for no rows) may lie in a span."""
    return "oldest" in times and times["oldest"] <= span[1] and times["greatest"] >= span[0]
