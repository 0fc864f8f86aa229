"""Fold logs of a lost ledger: their records tell of them, number by number, as far as the batches that they fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.folding import logs
from airflow_provider_eventlog.core.protocols import FoldLog, FoldRecord, Staging

if TYPE_CHECKING:
    from airflow_provider_eventlog.core.rebuilding.writing import Writer

LeftOut = tuple[str, str]
MEND = "Restore the record from a copy and rebuild once more; without it the next loads fold what is missing again."


def read(staging: Staging, path: str) -> FoldLog | FoldRecord:
    """The record of a log or of a fold; raises StagingCorruptError, ManifestVersionError."""
    value = staging.read_json(path)
    assert value is not None
    try:
        return logs.of_json(value) if "n" in value else FoldLog(**value)
    except (KeyError, TypeError, ValueError) as error:
        raise StagingCorruptError(f"{path} is no record of a fold ({error}); restore it from a copy.") from error


def write(staging: Staging, paths: Iterable[str], batches: frozenset[str], writer: Writer) -> tuple[int, list[LeftOut]]:
    """Write the logs and their folds; how many folds, and (path, why) of what had to be left out.

    paths    of all records; a log's number 0 sorts before its folds
    batches  ids of the batches that the ledger has
    """
    known: dict[tuple[str, str, int], int] = {}
    left_out, count = [], 0
    for path in sorted(paths):
        found = read(staging, path)
        if isinstance(found, FoldLog):
            writer.fold_log(found)
            known[_log(found)] = 0
        elif why := _wrong(found, known, batches):
            left_out.append((path, why))
        else:
            writer.fold(found)
            known[_log(found)] = found.n
            count += 1
    return count, left_out


def _log(of: FoldLog | FoldRecord) -> tuple[str, str, int]:
    return of.pipeline, of.output, of.log


def _wrong(fold: FoldRecord, known: Mapping[tuple[str, str, int], int], batches: frozenset[str]) -> str:
    newest: Any = known.get(_log(fold))
    if newest is None:
        return "The fold of a log of which there is no record."
    if fold.n != newest + 1:
        return (
            f"Fold {fold.n} follows number {newest}: those between have no record, so that this one counts for nothing."
        )
    missing = sorted({b for b in (fold.batch_id, fold.about, *(one[0] for one in fold.inputs)) if b} - batches)
    return f"The fold of batch {missing[0]}, which has no manifest." if missing else ""
