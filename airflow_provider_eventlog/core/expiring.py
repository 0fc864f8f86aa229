"""Retention at work: which staged files the declared retentions let go, decided first and removed afterwards.

Raw files go when every pipeline over the stream has loaded their batch, as its newest generation, and the youngest of
them is older than `raw_retention`; parts when a generation at or above theirs is loaded and they are older than
`derived_retention`. Planned, held and validated generations, and pipelines that have not taken a batch, keep what they
need, and quarantines are kept. A decision is made while planning waits, so that no plan can count on what it lets go.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_eventlog.core import deciding, retention
from airflow_provider_eventlog.core.deriving import TYPED
from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import EventLogError
from airflow_provider_eventlog.core.holdings import StoredFile
from airflow_provider_eventlog.core.protocols import BatchState, Decision, GenerationState
from airflow_provider_eventlog.core.staging import paths, records
from airflow_provider_eventlog.core.staging.names import StagedName


@dataclass
class Pile:
    """Some files: how many, their bytes, and when the youngest changed (milliseconds since 1970)."""

    files: int = 0
    bytes: int = 0
    youngest: int = 0

    def add(self, file: StoredFile) -> None:
        """Count a file."""
        self.files, self.bytes = self.files + 1, self.bytes + file.bytes
        self.youngest = max(self.youngest, file.changed)

    @classmethod
    def of(cls, files: Iterable[StoredFile]) -> Pile:
        """A pile of all of them."""
        pile = cls()
        for file in files:
            pile.add(file)
        return pile

    def to_json(self) -> dict[str, int]:
        """Files and bytes."""
        return {"files": self.files, "bytes": self.bytes}


@dataclass
class Staged:
    """What stands in staging of one stream: raw files by batch, typed parts by pipeline, batch and generation."""

    raw: dict[str, Pile] = field(default_factory=dict)
    parts: dict[str, dict[str, dict[int, Pile]]] = field(default_factory=dict)

    def add(self, name: StagedName, owner: tuple[str | None, str], file: StoredFile) -> None:
        """Count a file of the batch, and pipeline, that it belongs to."""
        pipeline, batch_id = owner
        if pipeline is None:
            self.raw.setdefault(batch_id, Pile()).add(file)
        elif name.kind == TYPED:
            assert name.generation is not None
            of_batch = self.parts.setdefault(pipeline, {}).setdefault(batch_id, {})
            of_batch.setdefault(name.generation, Pile()).add(file)


def expire(
    engine: Engine, stream: str, declaration: str, staged: Staged, now: int, who: str, *, dry_run: bool
) -> dict[str, Any]:
    """Let go what the retentions of a stream and its pipelines say; what was let go and what was kept, as JSON."""
    if not dry_run:
        # A call that was killed may have decided without writing it down; nothing goes before that.
        deciding.write_down(engine, stream)
    policy = _Policy(engine, stream, staged, now, who, dry_run=dry_run)
    parts = [policy.parts(name, text) for name, of, _, text in engine.ledger.pipelines() if of == stream]
    return {"raw": policy.raw(json.loads(declaration).get("raw_retention_ms")), "parts": parts}


class _Policy:
    """The retentions of one stream, applied to what is staged."""

    def __init__(self, engine: Engine, stream: str, staged: Staged, now: int, who: str, *, dry_run: bool) -> None:
        self._engine, self._stream, self._staged, self._now = engine, stream, staged, now
        self._who, self._dry = who, dry_run
        self._audit = engine.ledger.audit(stream)

    def raw(self, retention_ms: int | None) -> dict[str, Any]:
        """Raw files. What an earlier call had decided on and not removed goes too, as long as it is old."""
        staged, ledger = self._staged.raw, self._engine.ledger
        decided = retention.expired_raw(ledger.decisions(self._stream))
        chosen = [b for b, d in decided.items() if b in staged and self._aged(staged[b], d.payload["retention_ms"])]
        kept: Counter[str] = Counter()
        decision = None
        if retention_ms is not None:
            aged = [b for b, pile in staged.items() if b not in decided and self._aged(pile, retention_ms)]
            whole = [b for b in self._loaded(aged, kept) if self._whole(b, kept)]

            def choose() -> Decision | None:
                still = self._loaded(whole)
                pile = _sum(staged[b] for b in still)
                payload = retention.raw_payload(still, pile.files, pile.bytes, retention_ms)
                return self._decision(None, payload, f"raw_retention of stream {self._stream!r}") if still else None

            decision = self._decide(choose) if whole else None
            chosen += decision.payload["batches"] if decision else ()
        self._remove(r.file.path for batch_id in chosen for r in ledger.slices(batch_id))
        return _report(retention_ms, decision, len(chosen), _sum(staged[b] for b in chosen), kept)

    def parts(self, pipeline: str, declaration: str) -> dict[str, Any]:
        """The parts of one pipeline; the same holds."""
        declared, staged = json.loads(declaration), self._staged.parts.get(pipeline, {})
        retention_ms, ledger = declared.get("derived_retention_ms"), self._engine.ledger
        decided = retention.expired_parts(ledger.decisions(self._stream), pipeline)
        chosen: dict[str, list[int]] = {}
        for batch_id, (through, earlier) in decided.items():
            piles = staged.get(batch_id, {}) if earlier.kind == retention.EXPIRED else {}
            old = [g for g, p in piles.items() if g <= through and self._aged(p, earlier.payload["retention_ms"])]
            if old:
                chosen[batch_id] = old
        kept: Counter[str] = Counter()
        decision = None
        if retention_ms is not None and not all("rows" in output for output in declared["outputs"]):
            kept["outputs other than rows read parts again"] = len(staged)
        elif retention_ms is not None and self._through(pipeline, decided, retention_ms, kept):

            def choose() -> Decision | None:
                through = self._through(pipeline, decided, retention_ms)
                pile = _sum(p for b, n in through.items() for g, p in staged[b].items() if g <= n)
                payload = retention.parts_payload(through, pile.files, pile.bytes, retention_ms)
                why = f"derived_retention of pipeline {pipeline!r}"
                return self._decision(pipeline, payload, why) if through else None

            decision = self._decide(choose)
        for batch_id, number in (decision.payload["through"] if decision else {}).items():
            chosen[batch_id] = [g for g in staged[batch_id] if g <= number]
        self._remove(
            p.file.path
            for b, numbers in chosen.items()
            for g in numbers
            for p in ledger.parts(pipeline, b, g)
            if p.kind == TYPED
        )
        pile = _sum(staged[b][g] for b, numbers in chosen.items() for g in numbers)
        return {"pipeline": pipeline, **_report(retention_ms, decision, len(chosen), pile, kept)}

    def _through(
        self,
        pipeline: str,
        decided: Mapping[str, tuple[int, Decision]],
        retention_ms: int,
        kept: Counter[str] | None = None,
    ) -> dict[str, int]:
        """Up to which generation each batch's parts go: from the lowest on as far as they are old, if one is loaded."""
        standings = self._audit.standings(pipeline)
        through: dict[str, int] = {}
        for batch_id, piles in self._staged.parts.get(pipeline, {}).items():
            newest, state = standings.get(batch_id, (0, GenerationState.PLANNED))
            old = 0
            for number in sorted(piles):
                if number > newest or not self._aged(piles[number], retention_ms):
                    break
                old = number
            if old and state is not GenerationState.LOADED:
                if kept is not None:
                    kept[f"the newest generation is {state.value}"] += 1
            elif old > decided.get(batch_id, (0,))[0]:
                through[batch_id] = old
        return through

    def _loaded(self, batch_ids: Iterable[str], kept: Counter[str] | None = None) -> list[str]:
        """Those of the batches whose newest generation is loaded, for every pipeline that the stream has or had."""
        # A pipeline that has gone over to another stream needs nothing of this one any more.
        elsewhere = {name for name, of, _, _ in self._engine.ledger.pipelines() if of != self._stream}
        readers = [name for name in self._audit.pipelines() if name not in elsewhere]
        standings = {name: self._audit.standings(name) for name in readers}
        chosen = []
        for batch_id in batch_ids:
            missing = [p for p, of in standings.items() if of.get(batch_id, (0, None))[1] is not GenerationState.LOADED]
            if standings and not missing:
                chosen.append(batch_id)
            elif kept is not None:
                for name in missing or ("none",):
                    kept[f"pipeline {name} has not loaded it" if missing else "no pipeline reads the stream"] += 1
        return chosen

    def _whole(self, batch_id: str, kept: Counter[str]) -> bool:
        """Whether the accounting of a batch outlives its files: sealed, its manifest as it was, all files there."""
        ledger = self._engine.ledger
        plan, state = ledger.batch(batch_id)
        if state is not BatchState.LANDED:
            kept["it is not landed"] += 1
            return False
        path = paths.manifest(plan.stream, plan.epoch, batch_id)
        try:
            record = self._engine.staging.read_json(path)
        except EventLogError:
            record = None
        files = len(ledger.slices(batch_id))
        sealed = record is not None and records.digest(record) == self._audit.manifest_digest(batch_id)
        if not sealed or files != self._staged.raw[batch_id].files:
            kept["it is damaged: see eventlog fsck"] += 1
            return False
        return True

    def _decide(self, choose: Callable[[], Decision | None]) -> Decision | None:
        """Choose while no plan is made, and keep the decision in ledger and staging."""
        if self._dry:
            return choose()
        with self._engine.ledger.planning(self._stream, None) as tx:
            decision = choose()
            if decision is not None:
                tx.decide(decision)
        deciding.write_down(self._engine, self._stream)
        return decision

    def _decision(self, pipeline: str | None, payload: Mapping[str, Any], why: str) -> Decision:
        return Decision(retention.EXPIRED, self._stream, None, pipeline, None, self._who, why, self._now, payload)

    def _remove(self, found: Iterable[str]) -> None:
        if self._dry:
            return
        for path in found:
            self._engine.check_cancelled()
            self._engine.staging.remove(path)

    def _aged(self, pile: Pile, retention_ms: int) -> bool:
        return self._now - pile.youngest > retention_ms


def _sum(piles: Iterable[Pile]) -> Pile:
    total = Pile()
    for pile in piles:
        total.files, total.bytes = total.files + pile.files, total.bytes + pile.bytes
    return total


def _report(
    retention_ms: int | None, decision: Decision | None, batches: int, pile: Pile, kept: Counter[str]
) -> dict[str, Any]:
    return {
        "retention_ms": retention_ms,
        "decision": decision.id if decision else None,
        "batches": batches,
        **pile.to_json(),
        "kept": dict(sorted(kept.items())),
    }
