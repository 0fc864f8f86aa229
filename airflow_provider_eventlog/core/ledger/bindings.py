"""Runs: what each was bound to."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from airflow_provider_eventlog.core.errors import AccountingError, RunNotPlannedError
from airflow_provider_eventlog.core.ledger import chain
from airflow_provider_eventlog.core.ledger.schema import generation, pipeline, run, run_batch
from airflow_provider_eventlog.core.offsets import OffsetRange, PlannedBatch, RunPlan, SliceRef
from airflow_provider_eventlog.core.protocols import RunBinding
from airflow_provider_eventlog.core.staging.records import canonical

_Taken = tuple[str, int, str]


def find(connection: Connection, run_key: str, name: str) -> RunBinding | None:
    """What a run of a pipeline is bound to."""
    row = _run(connection, run_key, name)
    return None if row is None else _binding(row, _taken(connection, run_key, name))


def newest(connection: Connection, name: str | None, limit: int | None) -> tuple[RunBinding, ...]:
    """The newest `limit` runs of one pipeline or of all, in the order of their first binding."""
    chosen = select(run)
    if name is not None:
        chosen = chosen.where(run.c.pipeline == name)
    # Runs that planners of two streams bind at the same time may have one number.
    chosen = chosen.order_by(run.c.seq.desc(), run.c.run_key.desc(), run.c.pipeline.desc()).limit(limit)
    found = connection.execute(chosen).mappings().all()
    these = chosen.subquery("chosen")
    query = (
        select(run_batch)
        .join_from(
            these, run_batch, (run_batch.c.run_key == these.c.run_key) & (run_batch.c.pipeline == these.c.pipeline)
        )
        .order_by(run_batch.c.ord)
    )
    taken: dict[tuple[str, str], list[_Taken]] = {}
    for key, of, _, batch_id, gen, mode in connection.execute(query):
        taken.setdefault((key, of), []).append((batch_id, gen, mode))
    return tuple(_binding(row, taken.get((row["run_key"], row["pipeline"]), ())) for row in reversed(found))


def keep(connection: Connection, stream: str, number: int, binding: RunBinding) -> None:
    """Bind a run, or replace generations, groups, request and notes of its earlier binding.

    Raises AccountingError where the earlier binding has other batches, or a generation is not allocated.
    """
    key = (run.c.run_key == binding.run_key, run.c.pipeline == binding.pipeline)
    values = {
        "recipe": _recipe(connection, binding),
        "request": canonical(dict(binding.request)),
        "groups": canonical([[list(ref) for ref in group] for group in binding.groups]),
        "notes": canonical(list(binding.notes)),
    }
    earlier = find(connection, binding.run_key, binding.pipeline)
    if earlier is None:
        following = select(func.coalesce(func.max(run.c.seq), 0) + 1).scalar_subquery()
        values |= {"run_key": binding.run_key, "pipeline": binding.pipeline, "mode": binding.mode}
        connection.execute(insert(run).values(**values, stream=stream, epoch=number, seq=following))
    else:
        before, now = ([batch_id for batch_id, _, _ in b.batches] for b in (earlier, binding))
        if before != now:
            raise AccountingError(
                f"Run {binding.run_key!r} of pipeline {binding.pipeline!r} is bound to the batches {_some(before)} "
                f"and cannot be bound to {_some(now)}: what a run takes is decided once. Use another run."
            )
        connection.execute(update(run).where(*key).values(**values))
        connection.execute(
            delete(run_batch).where(run_batch.c.run_key == binding.run_key, run_batch.c.pipeline == binding.pipeline)
        )
    if binding.batches:
        connection.execute(
            insert(run_batch),
            [
                {
                    "run_key": binding.run_key,
                    "pipeline": binding.pipeline,
                    "ord": ord_,
                    "batch_id": batch_id,
                    "gen": gen,
                    "mode": mode,
                }
                for ord_, (batch_id, gen, mode) in enumerate(binding.batches)
            ],
        )


def plan(connection: Connection, run_key: str, name: str) -> RunPlan:
    """A bound run in full; raises RunNotPlannedError.

    A run without batches has no generation that names a recipe: it goes under the pipeline's current one.
    """
    row = _run(connection, run_key, name)
    if row is None:
        raise RunNotPlannedError(
            f"Run {run_key!r} of pipeline {name!r} has no plan in this ledger; run its plan stage first, or clear the "
            f"run from plan."
        )
    binding = _binding(row, _taken(connection, run_key, name))
    by_id = chain.batches_by_id(connection, [batch_id for batch_id, _, _ in binding.batches])
    epoch = next(e for e in chain.epochs(connection, row["stream"]) if e.epoch == row["epoch"])
    recipe = row["recipe"]
    if recipe is None:
        recipe = connection.execute(select(pipeline.c.recipe).where(pipeline.c.name == name)).scalar() or ""
    return RunPlan(
        run_key=run_key,
        pipeline=name,
        stream=row["stream"],
        epoch=row["epoch"],
        identity=epoch.identity,
        recipe=recipe,
        batches=tuple(PlannedBatch(by_id[batch_id][0], gen, mode) for batch_id, gen, mode in binding.batches),
        groups=tuple(
            tuple(SliceRef(batch_id, OffsetRange.parse(text)) for batch_id, text in group) for group in binding.groups
        ),
        notes=binding.notes,
    )


def _run(connection: Connection, run_key: str, name: str) -> RowMapping | None:
    return connection.execute(select(run).where(run.c.run_key == run_key, run.c.pipeline == name)).mappings().first()


def _taken(connection: Connection, run_key: str, name: str) -> Sequence[_Taken]:
    query = (
        select(run_batch.c.batch_id, run_batch.c.gen, run_batch.c.mode)
        .where(run_batch.c.run_key == run_key, run_batch.c.pipeline == name)
        .order_by(run_batch.c.ord)
    )
    return [(batch_id, gen, mode) for batch_id, gen, mode in connection.execute(query)]


def _binding(row: RowMapping, taken: Sequence[_Taken]) -> RunBinding:
    return RunBinding(
        run_key=row["run_key"],
        pipeline=row["pipeline"],
        mode=row["mode"],
        request=json.loads(row["request"]),
        batches=tuple(taken),
        groups=tuple(tuple((batch_id, text) for batch_id, text in group) for group in json.loads(row["groups"])),
        notes=tuple(json.loads(row["notes"])),
    )


def _recipe(connection: Connection, binding: RunBinding) -> str | None:
    """The one recipe of the bound generations."""
    ids = [batch_id for batch_id, _, _ in binding.batches]
    query = select(generation.c.batch_id, generation.c.gen, generation.c.recipe).where(
        generation.c.pipeline == binding.pipeline, generation.c.batch_id.in_(ids)
    )
    known = {(batch_id, gen): recipe for batch_id, gen, recipe in connection.execute(query)}
    missing = [f"{batch_id} generation {gen}" for batch_id, gen, _ in binding.batches if (batch_id, gen) not in known]
    recipes = sorted({known[b, g] for b, g, _ in binding.batches if (b, g) in known})
    if missing or len(recipes) > 1:
        raise AccountingError(
            f"Run {binding.run_key!r} of pipeline {binding.pipeline!r} cannot be bound: "
            + (f"{_some(missing)} not allocated." if missing else f"its generations have {len(recipes)} recipes.")
        )
    return recipes[0] if recipes else None


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
