"""What must hold after every step, read from the stores themselves: the promises that can be checked at any time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from airflow_provider_eventlog.core import rawfile
from airflow_provider_eventlog.core.ledger.rows import batch_of, ranges_of
from airflow_provider_eventlog.core.offsets import BatchPlan, OffsetRange, TopicIdentity, merged, subtract
from airflow_provider_eventlog.core.staging.names import ASIDE, TEMPORARY, parse
from tests.property.world import declared, reference
from tests.property.world.log import Topic
from tests.property.world.world import World


@dataclass
class Promises:
    """Looks at a world after every step; keeps what it has seen of published files."""

    world: World
    seen: dict[str, str] = field(default_factory=dict)
    stats: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    losses: dict[str, tuple[OffsetRange, ...]] = field(default_factory=dict)
    checked: set[tuple[Any, ...]] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)
    recipes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        over = declared.stream(self.world.start, self.world.on_data_loss)
        self.recipes = {declared.rows(over, n).recipe: n for n in range(len(declared.RECIPES))}

    def check(self) -> None:
        """All of them."""
        self.immutable()
        self.tiled()
        self.named_files_stand()
        self.rows_are_right()
        self.windows_are_right()

    # Staging.

    def immutable(self) -> None:
        """immutable, deterministic: a name has one content for good, whatever was killed, removed and made again."""
        now: dict[str, tuple[int, int, int]] = {}
        for path in sorted(self.world.root.rglob("*")):
            name = str(path.relative_to(self.world.root))
            if name.startswith(ASIDE) and path.is_file() and name not in self.aside:
                # What an earlier topic left below a name gives it free.
                self.aside.add(name)
                self.seen.pop(str(path.parent.relative_to(self.world.root / ASIDE)), None)
            if name.startswith((TEMPORARY, ASIDE)) or not path.is_file():
                continue
            stat = path.stat()
            now[name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if self.stats.get(name) != now[name]:
                self._appeared(name, path)
        self.stats = now

    def _appeared(self, name: str, path: Path) -> None:
        digest = sha256(path.read_bytes()).hexdigest()
        known = self.seen.get(name)
        of = parse(name)
        if of is not None and of.form == "raw":
            lost = self._raw_is_true(name, path)
            # One that was removed as nobody's and is read again later may have lost more by then.
            if known is not None and name not in self.stats and self.losses.get(name, ()) != lost:
                known = None
            self.losses[name] = lost
        assert known in (None, digest), f"{name} was another file before"
        self.seen[name] = digest

    def _raw_is_true(self, name: str, path: Path) -> tuple[OffsetRange, ...]:
        """no_loss, no_phantom, identified, loud_loss: a slice holds the committed records of its epoch's topic."""
        info, of = rawfile.read_info(path), parse(name)
        assert of is not None
        topic = self.topic(info.piece.epoch)
        if topic is None:
            # A ledger that was lost knows nothing of an epoch of which nothing was landed whole.
            return info.losses
        wanted = info.piece.range
        found = {r["offset"]: r for r in pq.read_table(path).to_pylist()}
        expected = reference.landed(topic, wanted, info.losses)
        assert sorted(found) == sorted(expected), f"{name}: {sorted(found)} instead of {sorted(expected)}"
        for offset, record in expected.items():
            assert (found[offset]["key"], found[offset]["value"]) == (record.key, record.value), name
        assert info.invisible == len(wanted) - info.rows - info.lost, name
        assert not info.losses or self.world.on_data_loss == "record", f"{name}: a loss was not to be recorded"
        assert all(r.end <= topic.starts[wanted.partition] for r in info.losses), f"{name}: lost and still there"
        return info.losses

    def topic(self, epoch: int) -> Topic | None:
        """The incarnation that an epoch is pinned to."""
        found = self.world.asked("SELECT cluster_id, topic, topic_id FROM epoch WHERE epoch = ?", epoch)
        return self.world.log.of(TopicIdentity(*found[0])) if found else None

    def named_files(self) -> list[str]:
        """Raw files and parts that the ledger names."""
        found = self.world.asked("SELECT path FROM slice WHERE path IS NOT NULL UNION SELECT path FROM part ORDER BY 1")
        return [path for (path,) in found]

    def named_files_stand(self) -> None:
        """verified, and no gc of what is needed: every file that the ledger names stands with its digest."""
        named = self.world.asked(
            "SELECT path, sha256 FROM slice WHERE path IS NOT NULL UNION ALL SELECT path, sha256 FROM part"
        )
        for (text,) in self.world.asked("SELECT files FROM fold"):
            named += [(f[0], f[2]) for f in json.loads(text).values()]
        for path, digest in named:
            assert self.seen.get(path) == digest, f"{path} is not what the ledger has of it"
            assert path in self.stats, f"{path} is gone"

    # The ledger.

    def batches(self) -> list[tuple[BatchPlan, str]]:
        """All batches with their states."""
        names = ("batch_id", "stream", "epoch", "kind", "plan", "state", "from_instant", "to_instant")
        found = self.world.asked("SELECT batch_id, stream, epoch, kind, plan, state, (SELECT instant FROM cut WHERE "
                                 "cut_id = from_cut), (SELECT instant FROM cut WHERE cut_id = to_cut) FROM batch "
                                 "ORDER BY epoch, 7, batch_id")  # fmt: skip
        rows: list[Any] = [dict(zip(names, row, strict=True)) for row in found]
        return [(batch_of(row), row["state"]) for row in rows]

    def cuts(self, epoch: int) -> list[tuple[int, dict[int, int]]]:
        """(instant, offsets) of an epoch's cuts in order."""
        found: dict[int, dict[int, int]] = {}
        for instant, partition, offset in self.world.asked(
            'SELECT instant, "partition", "offset" FROM cut JOIN cut_offset USING (cut_id) WHERE epoch = ? ORDER BY 1',
            epoch,
        ):
            found.setdefault(instant, {})[partition] = offset
        return sorted(found.items())

    def gaps(self, epoch: int) -> tuple[OffsetRange, ...]:
        """What lies in segments of chain batches and belongs to no batch."""
        batches, cuts = [b for b, _ in self.batches() if b.epoch == epoch], dict(self.cuts(epoch))
        whole = []
        for batch in batches:
            if batch.from_instant is not None and batch.to_instant is not None:
                low, high = cuts[batch.from_instant], cuts[batch.to_instant]
                whole += [OffsetRange(p, low.get(p, 0), end) for p, end in high.items() if low.get(p, 0) < end]
        return subtract(whole, [r for b in batches for r in b.ranges])

    def hole(self, epoch: int, instant: int) -> bool:
        """Whether no chain batch begins at a cut."""
        return not self.world.asked(
            "SELECT 1 FROM batch JOIN cut ON cut_id = from_cut WHERE cut.epoch = ? AND instant = ?", epoch, instant
        )

    def tiled(self) -> None:
        """tiled, no_duplicate: no offset is planned twice, segments are whole, cuts never run backwards."""
        of_epoch: dict[int, list[BatchPlan]] = {}
        for batch, _ in self.batches():
            of_epoch.setdefault(batch.epoch, []).append(batch)
        for epoch, batches in of_epoch.items():
            topic = self.topic(epoch)
            ranges = sorted(r for b in batches for r in b.ranges)
            for left, right in pairwise(ranges):
                assert left.partition != right.partition or left.end <= right.start, f"{left} and {right} overlap"
            assert topic is not None
            # A plan that looked while the topic was replaced may have offsets of both; landing refuses them.
            whole_log = topic is not self.world.log.topic or all(r.end <= topic.end(r.partition) for r in ranges)
            assert whole_log, "planned beyond the last stable offset"
            cuts = dict(self.cuts(epoch))
            for (_, low), (_, high) in pairwise(sorted(cuts.items())):
                assert all(low[p] <= high[p] for p in low if p in high), "a cut runs backwards"
            for batch in batches:
                assert merged(batch.slices) == merged(batch.ranges)
                if batch.kind == "chain":
                    assert batch.from_instant is not None
                    assert batch.to_instant is not None
                    low, high = cuts[batch.from_instant], cuts[batch.to_instant]
                    whole = [OffsetRange(p, low.get(p, 0), end) for p, end in high.items() if low.get(p, 0) < end]
                    gaps = subtract(whole, ranges)
                    assert not gaps or self.world.rebuilt, f"{batch.batch_id} does not tile its segment"
                    assert not subtract(gaps, self.world.told), f"nobody was told that {gaps} are in no batch"

    # The target.

    def losses_of(self, batch_id: str) -> tuple[OffsetRange, ...]:
        """The offsets of a batch that are recorded as lost."""
        found = self.world.asked("SELECT losses FROM slice WHERE batch_id = ? AND path IS NOT NULL", batch_id)
        return tuple(r for (text,) in found for r in ranges_of(json.loads(text)))

    def recipe(self, pipeline: str, batch_id: str, generation: int) -> int:
        """Which of the declared recipes a generation has."""
        found = self.world.asked(
            "SELECT recipe FROM generation WHERE pipeline = ? AND batch_id = ? AND gen = ?",
            pipeline,
            batch_id,
            generation,
        )
        assert found, f"{pipeline} holds generation {generation} of {batch_id}, which the ledger does not know"
        if pipeline == "windows":
            return 0
        return self.recipes[found[0][0]]

    def expected(self, batch: BatchPlan, recipe: int) -> list[reference.Row]:
        """What a recipe makes of a landed batch."""
        topic = self.topic(batch.epoch)
        assert topic is not None
        return reference.rows(topic, batch.ranges, self.losses_of(batch.batch_id), recipe)

    def rows_are_right(self) -> None:
        """atomic, no_duplicate, one_effect: each batch in the table is exactly one generation, wholly, once."""
        table = self.world.database.get("t")
        if table is None:
            return
        plans = {b.batch_id: (b, state) for b, state in self.batches()}
        assert set(table.rows) == set(table.loads)
        for batch_id, load in table.loads.items():
            assert batch_id in plans, f"the table holds batch {batch_id}, which the ledger does not know"
            batch, state = plans[batch_id]
            key = ("t", batch_id, load.generation, load.digest)
            if key in self.checked:
                continue
            assert state == "landed"
            recipe = self.recipe("rows", batch_id, load.generation)
            expected = self.expected(batch, recipe)
            assert reference.of_table(table.rows[batch_id]) == expected
            if reference.held(expected, recipe):
                assert self.released("rows", batch_id, load.generation), f"{batch_id} was held and is loaded"
            self.checked.add(key)

    def released(self, pipeline: str, batch_id: str, generation: int) -> bool:
        """Whether somebody let a generation pass."""
        found = self.world.asked(
            "SELECT payload FROM decision WHERE kind = 'release' AND pipeline = ? AND batch_id = ?", pipeline, batch_id
        )
        return any(json.loads(text)["generation"] == generation for (text,) in found)

    def entered(self) -> tuple[list[reference.Row], bool]:
        """The rows of all batches that the table of windows has taken, and whether any was late."""
        table = self.world.database["w"]
        assert table.cursor is not None
        plans = {b.batch_id: b for b, _ in self.batches()}
        found, late = [], False
        stood: set[str] = set()
        for about, accounting in self.world.asked(
            "SELECT about, accounting FROM fold WHERE log = ? AND n <= ? ORDER BY n", *table.cursor[:2]
        ):
            told = json.loads(accounting)
            late = late or bool(told.get("late"))
            if "generation" in told:
                stood.add(about)
        for batch_id in sorted(stood):
            found += self.expected(plans[batch_id], 0)
        return found, late

    def windows_are_right(self) -> None:
        """conserved, deterministic: a table of windows is what brute force makes of what has entered."""
        table = self.world.database.get("w")
        if table is None or table.cursor is None or ("w", *table.cursor) in self.checked:
            return
        newest = self.world.asked("SELECT max(n) FROM fold WHERE log = ?", table.cursor[0])
        assert newest[0][0] is not None
        assert table.cursor[1] <= newest[0][0], "the table is ahead of its log"
        entered, late = self.entered()
        shown = {(r["k"], r["window_start"]): (r["n"], int(r["s"])) for r in table.windows.values()}
        if self.world.on_late == "amend" or not late:
            assert shown == dict(reference.windows(entered))
        else:
            assert sum(n for n, _ in shown.values()) <= len(entered)
        self.checked.add(("w", *table.cursor))


def everything(batches: list[tuple[BatchPlan, str]], epoch: int) -> tuple[OffsetRange, ...]:
    """The landed ranges of an epoch, merged."""
    return merged(r for b, state in batches if b.epoch == epoch and state == "landed" for r in b.ranges)
