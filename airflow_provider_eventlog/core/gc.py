"""Collecting garbage: what killed attempts left behind, and what retention lets go. Nothing that is needed is removed.

Left behind are temporary files, which no name was ever given, and files at names for which nothing stands: no planned
slice and no generation in the ledger, no manifest and no commit in staging. A name is planned before a file is
published under it, so that no attempt, however long it slept, can still rely on a file that is removed here; one whose
temporary file was removed fails to publish, with a retriable error. Only names that this package gives are looked at,
below the streams that the ledger knows; links are not followed. Manifests, commits and decisions are never removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_eventlog.core import expiring
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventLogError, RequestError
from airflow_provider_eventlog.core.expiring import Pile, Staged
from airflow_provider_eventlog.core.folding import listing
from airflow_provider_eventlog.core.holdings import StoredFile
from airflow_provider_eventlog.core.naming import segment
from airflow_provider_eventlog.core.offsets import OffsetRange
from airflow_provider_eventlog.core.protocols import GenerationState
from airflow_provider_eventlog.core.staging.names import ASIDE, TEMPORARY, StagedName, parse

# Longer than any attempt runs; an attempt writes to its temporary file all the time.
GRACE_MS = 86_400_000


def collect(
    engine: Engine,
    *,
    streams: Sequence[str] | None = None,
    grace_ms: int = GRACE_MS,
    dry_run: bool = False,
    who: str = "eventlog gc",
) -> dict[str, Any]:
    """Remove temporary files and orphans older than `grace_ms`, and what the declared retentions let go.

    streams  names of registered streams; None for all
    who      for the decisions' records

    Returns JSON values: files and bytes by kind, and per stream what was let go on which decision. With dry_run the
    same is found and nothing changed. Killed at any point, the next call goes on. Raises RequestError for a stream that
    is not registered, and the ledger and staging errors of `core.errors`.
    """
    known = dict(engine.ledger.streams())
    chosen = list(known) if streams is None else list(streams)
    missing = [name for name in chosen if name not in known]
    if missing:
        raise RequestError(f"No stream {missing[0]!r} is registered; known are {', '.join(known) or 'none'}.")
    now = engine.clock()
    old = [
        f
        for f in engine.staging.stored(TEMPORARY)
        if (name := parse(f.path)) and name.form == "temporary" and now - f.changed > grace_ms
    ]
    return {
        "dry_run": dry_run,
        "temporary": _removed(engine, old, dry_run=dry_run),
        "streams": [_stream(engine, name, known[name], now, grace_ms, who, dry_run=dry_run) for name in chosen],
        "aside": Pile.of(engine.staging.stored(ASIDE)).to_json(),
    }


def _stream(
    engine: Engine, stream: str, declaration: str, now: int, grace_ms: int, who: str, *, dry_run: bool
) -> dict[str, Any]:
    staged = Staged()
    suspects: list[tuple[StoredFile, StagedName]] = []
    known = Known(engine, stream)
    for file in engine.staging.stored(segment(stream)):
        engine.check_cancelled()
        name = parse(file.path)
        if name is not None and name.form == "fold" and now - file.changed > grace_ms:
            suspects.append((file, name))
        if name is None or name.form not in ("raw", "part"):
            continue
        owner = known.owner(name)
        if owner is not None:
            staged.add(name, owner, file)
        elif now - file.changed > grace_ms:
            suspects.append((file, name))
    # What was planned while the files were listed is known now.
    fresh = Known(engine, stream)
    folds = Folds(engine, stream)
    orphans = [f for f, name in suspects if (folds.orphan(f, name) if name.form == "fold" else fresh.orphan(name))]
    return {
        "stream": stream,
        "orphans": {**_removed(engine, orphans, dry_run=dry_run), "paths": [f.path for f in orphans[:100]]},
        "left_alone": sum(f not in orphans for f, name in suspects if name.form != "fold"),
        **expiring.expire(engine, stream, declaration, staged, now, who, dry_run=dry_run),
    }


def _removed(engine: Engine, files: Iterable[StoredFile], *, dry_run: bool) -> dict[str, int]:
    pile = Pile()
    for file in files:
        engine.check_cancelled()
        if dry_run or engine.staging.remove(file.path):
            pile.add(file)
    return pile.to_json()


@dataclass
class Folds:
    """Which files the folds of a stream's pipelines name: asked of the ledger once for each log."""

    engine: Engine
    stream: str
    _outputs: Mapping[tuple[str, str], tuple[str, str]] = field(init=False)
    _named: dict[tuple[str, str, int], Mapping[int, frozenset[str]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        audit, found = self.engine.ledger.audit(self.stream), {}
        for pipeline in audit.pipelines():
            for text in audit.declarations(pipeline).values():
                for output in listing.outputs_of(json.loads(text)):
                    found[segment(pipeline), segment(output)] = (pipeline, output)
        self._outputs = found

    def orphan(self, file: StoredFile, name: StagedName) -> bool:
        """Whether the fold of this number stands and names other files: one of an attempt that was overtaken."""
        output = self._outputs.get((str(name.pipeline), str(name.output)))
        if output is None or name.log is None or name.n is None:
            return False
        named = self._of_log((*output, name.log)).get(name.n)
        return named is not None and file.path not in named

    def known(self, name: StagedName) -> bool:
        """Whether the ledger has the log (number 0) or the fold of a record; asked again before it says no."""
        output = self._outputs.get((str(name.pipeline), str(name.output)))
        if output is None or name.log is None or name.n is None:
            return False
        ledger, key = self.engine.ledger, (*output, name.log)
        if name.n == 0:
            return any(log.log == name.log for log in ledger.fold_logs(*output))
        return name.n in self._of_log(key) or any(fold.n == name.n for fold in ledger.folds(*key, name.n - 1))

    def _of_log(self, key: tuple[str, str, int]) -> Mapping[int, frozenset[str]]:
        if key not in self._named:
            folds = self.engine.ledger.folds(*key)
            self._named[key] = {f.n: frozenset(one.path for one, _ in f.files.values()) for f in folds}
        return self._named[key]


@dataclass
class Known:
    """Which names below a stream's folder something stands for: asked of the ledger when needed, a part at a time."""

    engine: Engine
    stream: str
    _epochs: frozenset[int] = field(init=False)
    _pipelines: Mapping[str, str] = field(init=False)
    _planned: tuple[tuple[int, int], Mapping[OffsetRange, str]] = field(init=False, default=((-1, -1), {}))
    _standings: dict[str, Mapping[str, tuple[int, GenerationState]]] = field(init=False, default_factory=dict)
    _foreign: dict[int, frozenset[str] | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        ledger = self.engine.ledger
        self._epochs = frozenset(e.epoch for e in ledger.epochs(self.stream))
        self._pipelines = {segment(name): name for name in ledger.audit(self.stream).pipelines()}

    def owner(self, name: StagedName) -> tuple[str | None, str] | None:
        """(pipeline, batch id) of a raw file or part that the ledger stands for; the pipeline of a raw file is None."""
        if name.form == "raw":
            batch_id = self._slices(name).get(name.range) if name.range is not None else None
            return None if batch_id is None else (None, batch_id)
        return (self._pipelines[str(name.pipeline)], str(name.batch)) if self.generation(name) else None

    def batch(self, batch_id: str) -> bool:
        """Whether the ledger has a batch."""
        try:
            self.engine.ledger.batch(batch_id)
        except KeyError:
            return False
        return True

    def generation(self, name: StagedName) -> bool:
        """Whether the ledger has the generation of a part or commit; numbers below one that it has count as known."""
        pipeline = self._pipelines.get(str(name.pipeline))
        if pipeline is None or name.generation is None:
            return False
        if pipeline not in self._standings:
            self._standings[pipeline] = self.engine.ledger.audit(self.stream).standings(pipeline)
        newest = self._standings[pipeline].get(str(name.batch), (0,))[0]
        if name.generation > newest:
            found = self.engine.ledger.generations(pipeline, str(name.batch))
            newest = max((g.generation for g in found), default=0)
        return name.generation <= newest

    def orphan(self, name: StagedName) -> bool:
        """Whether nothing stands for a raw file or part, of an epoch or pipeline that the ledger knows."""
        if self.owner(name) is not None:
            return False
        if name.form == "raw":
            if name.epoch not in self._epochs:
                return False
            named = self._named_elsewhere(name.epoch)
            return named is not None and str(name.range) not in named
        commit = f"{name.stream}/pipeline={name.pipeline}/batch={name.batch}/gen={name.generation}/commit.json"
        return name.pipeline in self._pipelines and not self.engine.staging.exists(commit)

    def _slices(self, name: StagedName) -> Mapping[OffsetRange, str]:
        assert name.epoch is not None
        assert name.range is not None
        key = (name.epoch, name.range.partition)
        if self._planned[0] != key:
            self._planned = (key, self.engine.ledger.audit(self.stream).planned(*key))
        return self._planned[1]

    def _named_elsewhere(self, epoch: int) -> frozenset[str] | None:
        """Ranges of the manifests that the ledger has lost; None if one of them cannot be read."""
        if epoch not in self._foreign:
            self._foreign[epoch] = self._read_foreign(epoch)
        return self._foreign[epoch]

    def _read_foreign(self, epoch: int) -> frozenset[str] | None:
        named: set[str] = set()
        for file in self.engine.staging.stored(f"{segment(self.stream)}/epoch={epoch}/manifests"):
            name = parse(file.path)
            if name is None or self.batch(str(name.batch)):
                continue
            try:
                record = self.engine.staging.read_json(file.path)
                named.update(str(piece["range"]) for piece in (record or {})["slices"])
            except (EventLogError, KeyError, TypeError):
                return None
        return frozenset(named)
