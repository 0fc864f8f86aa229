"""What the targets tell of the ledger that loaded them: its id, and which generations they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from airflow_provider_eventlog.core.auditing.tables import TableOf, declared, windows_tables
from airflow_provider_eventlog.core.errors import RequestError, TargetOwnedError, TargetReplacedError
from airflow_provider_eventlog.core.protocols import LoadedBatch, OutputId, Target
from airflow_provider_eventlog.core.rebuilding.evidence import Problem
from airflow_provider_eventlog.core.rebuilding.reading import Declared
from airflow_provider_eventlog.declare.outputs import Rows

_NAMED = 5
_OpenTarget = Callable[[Rows], Target]


@dataclass
class Loads:
    """What the tables of all pipelines hold.

    ledger_id  of the ledger that loaded them; None if none was loaded
    tables     by pipeline, the tables that each of its recipes declares
    held       by pipeline and table, what is loaded of each batch; without tables that are gone or not ours
    """

    ledger_id: str | None = None
    tables: dict[str, dict[str, tuple[TableOf, ...]]] = field(default_factory=dict)
    held: dict[tuple[str, TableOf], Mapping[str, LoadedBatch]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def look(recipes: Mapping[str, Iterable[Declared]], open_target: _OpenTarget, ledger_id: str | None) -> Loads:
    """Open every table that any recipe declares.

    ledger_id  which ledger's tables count, where they are of several

    Raises RequestError if the tables are of several ledgers and none was chosen, or all are of others than the chosen
    one, and what opening a target raises.
    """
    found = Loads()
    for name, of in recipes.items():
        found.tables[name] = {}
        for one in of:
            found.tables[name][one.recipe], others = declared(_text(one))
            for text in others:
                what = f"An output of pipeline {name!r} is of a kind that is not rebuilt: {text[:200]}"
                found.problems.append(Problem(f"recipe {one.recipe[:12]}", what, "Run its pipeline once more."))
    wanted = dict.fromkeys((name, t) for name, by in found.tables.items() for of in by.values() for t in of)
    # Windows tell only whose they are: what they hold follows from their fold log.
    folded = dict.fromkeys((n, t) for n, of in recipes.items() for one in of for t in windows_tables(_text(one)))
    targets = {key: open_target(Rows(key[1].target, name=key[1].output)) for key in (*wanted, *folded)}
    owners: dict[str, list[str]] = {}
    for (name, table), target in targets.items():
        owner = target.owner()
        if owner is not None and (owner.pipeline, owner.output) == (name, table.output):
            owners.setdefault(owner.ledger_id, []).append(_label(table))
    found.ledger_id = _chosen(owners, ledger_id)
    for key, target in ((key, targets[key]) for key in wanted):
        found.held[key] = _held(found, key[0], key[1], target)
    return found


def _text(one: Declared) -> str:
    return json.dumps(one.declaration)


def _chosen(owners: Mapping[str, list[str]], asked: str | None) -> str | None:
    if asked is not None:
        if owners and asked not in owners:
            raise RequestError(f"No table was loaded by a ledger {asked!r}; the tables are of {', '.join(owners)}.")
        return asked
    if len(owners) > 1:
        said = "; ".join(f"{ledger} ({', '.join(labels[:_NAMED])})" for ledger, labels in owners.items())
        raise RequestError(
            f"The tables were loaded by several ledgers: {said}. Nothing was made; say with --ledger-id which one is "
            f"rebuilt. The others' tables are then refused, as before."
        )
    return next(iter(owners), None)


def _held(found: Loads, pipeline: str, table: TableOf, target: Target) -> Mapping[str, LoadedBatch]:
    if found.ledger_id is None:
        return {}
    try:
        return dict(target.contents(OutputId(found.ledger_id, pipeline, table.output)).loads)
    except (TargetReplacedError, TargetOwnedError) as error:
        what = f"What pipeline {pipeline!r} has loaded cannot be told: {error}"
        mend = f"Its generations count as not loaded. As it says; then `eventlog rebuild --output {table.output}`."
        found.problems.append(Problem(_label(table), what, mend))
        return {}


def _label(table: TableOf) -> str:
    return f"{table.target.path}, table {table.target.schema}.{table.target.table}"
