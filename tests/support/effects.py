"""Counting side effects, and faults at the n-th one: for child processes only, which end or are thrown away.

Two levels are counted alike. The coarse ones are the calls of the four protocols, found from the protocols
themselves: a method that is not known to read only is an effect the day it is written. The fine ones lie below:
the file operations of a publish, the commits of the ledger, the statements, commit and checkpoint of the target.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
READS = frozenset(
    (
        "allocated",
        "audit",
        "batch",
        "batches",
        "batches_by_id",
        "bound",
        "bounds",
        "chain_from",
        "close",
        "contents",
        "coverage",
        "covered",
        "cursor",
        "cuts",
        "cuts_between",
        "decisions",
        "describe",
        "differing",
        "epochs",
        "exists",
        "first_instant",
        "fold_logs",
        "folds",
        "folds_about",
        "generation",
        "generations",
        "gone",
        "group_offsets",
        "high_watermarks",
        "holes",
        "landed",
        "last_fold",
        "last_read",
        "ledger_id",
        "list",
        "loaded",
        "log_ends",
        "log_starts",
        "losses",
        "mean_bytes",
        "neighbours",
        "newest_cut",
        "newest_offsets",
        "offsets_at",
        "open",
        "owner",
        "owners",
        "parts",
        "pipelines",
        "probe",
        "read_json",
        "retention",
        "run",
        "run_plan",
        "runs",
        "segment_around",
        "segments",
        "slices",
        "standing",
        "stat",
        "state",
        "stored",
        "streams",
        "totals",
        "unlanded",
        "unwritten",
        "waiting_offsets",
    )
)


class Effects:
    """Counts effects; at number `at` it does what `mode` says.

    before  dies in front of the effect            after  dies behind it
    torn    dies with half of it done, if it has   stop   stops in front of it until SIGCONT
    lose    like before, and `lose` is called: what a loss of power would take

    `names` and `torn` say what was counted, and where half an effect exists. `yields` is called at each effect.
    """

    def __init__(self, at: int = 0, mode: str = "", *, last_words: Callable[[str], None] = lambda _: None) -> None:
        self.at, self.mode, self._last_words = at, mode, last_words
        self.names: list[str] = []
        self.torn: list[int] = []
        self.coarse: list[int] = []
        self.lose: Callable[[], None] = lambda: None
        self.yields: Callable[[], None] = lambda: None

    def __call__(
        self, name: str, do: Callable[[], T], torn: Callable[[], object] | None = None, *, coarse: bool = False
    ) -> T:
        """Do an effect, or die of it."""
        self.names.append(name)
        number = len(self.names)
        if torn is not None:
            self.torn.append(number)
        if coarse:
            self.coarse.append(number)
        self.yields()
        if number != self.at:
            return do()
        if self.mode == "stop":
            self._last_words(name)
            os.kill(os.getpid(), signal.SIGSTOP)
            return do()
        if self.mode == "torn" and torn is not None:
            torn()
        elif self.mode == "after":
            do()
        elif self.mode == "lose":
            self.lose()
        return self.die(name)

    def die(self, name: str) -> Any:
        """End at once, with nothing flushed, closed or handled."""
        self._last_words(name)
        os.kill(os.getpid(), signal.SIGKILL)


class Counted:
    """A protocol's implementation whose every call is an effect, but for the known reads."""

    def __init__(self, inner: Any, effects: Effects, tear: Callable[[Callable[[], Any]], None] | None = None) -> None:
        self._inner, self._effects, self._tear = inner, effects, tear

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in READS or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, lambda: found(*args, **kwargs))

        return call

    def _call(self, name: str, do: Callable[[], Any]) -> Any:
        tear = self._tear
        half = (lambda: tear(do)) if tear else None
        return self._effects(f"{type(self._inner).__name__}.{name}", do, half, coarse=True)


class CountedLedger(Counted):
    """The transaction of a plan is one effect, at its end."""

    def planning(self, stream: str, declaration: str) -> CountedPlanning:
        return CountedPlanning(self._inner.planning(stream, declaration), self._effects, self._tear)


class CountedPlanning(Counted):
    """A planning transaction whose end is the effect; what happens in it is kept only then."""

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self._call("commit", lambda: self._inner.__exit__(None, None, None))
        else:
            self._inner.__exit__(*exc)


class CountedStaging(Counted):
    """What a publish writes is an effect of its own, and can be half."""

    def publish(self, path: str, write: Callable[[Path], Any]) -> Any:
        def writing(temporary: Path) -> Any:
            return self._effects("write", lambda: write(temporary), lambda: (write(temporary), halve(temporary)))

        return self._effects("LocalStaging.publish", lambda: self._inner.publish(path, writing), coarse=True)


class CountedSource(Counted):
    """A read is an effect that can end in the middle of its batches."""

    def read(self, wanted: Any, *, record_loss: bool = False) -> Iterator[Any]:
        batches = list(self._inner.read(wanted, record_loss=record_loss))

        def all_of_them() -> Iterator[Any]:
            yield from batches

        def half_of_them() -> Iterator[Any]:
            yield from batches[: len(batches) // 2]
            self._effects.die("read")

        if self._effects.at == len(self._effects.names) + 1 and self._effects.mode == "torn":
            self._effects.names.append("read")
            return half_of_them()
        return self._effects("read", all_of_them, lambda: None, coarse=True)


def halve(file: Path) -> None:
    """Leave the first half of a file's bytes."""
    os.truncate(file, file.stat().st_size // 2)


def tear_log(log: Path, do: Callable[[], Any]) -> None:
    """Do what writes to a write-ahead log, then undo the second half of what was written."""
    before = log.read_bytes() if log.exists() else b""
    do()
    after = log.read_bytes() if log.exists() else b""
    changed = [i for i in range(len(after)) if before[i : i + 1] != after[i : i + 1]]
    if changed:
        middle = (changed[0] + changed[-1]) // 2
        with log.open("r+b") as handle:
            handle.seek(middle)
            handle.write(before[middle:])
            handle.truncate(max(middle, len(before)))


class Disk:
    """Which folder entries and file contents below `home` would outlive a loss of power.

    An entry is safe once its folder was synced, a file's content once the file was. The two databases sync their
    own files, but not the way to them: the entry of a target's file is this package's matter.
    """

    def __init__(self, home: Path, kept: dict[str, list[Any]] | None = None) -> None:
        self._home = home
        self._entries: set[str] = set(kept["entries"]) if kept else set()
        self._contents: set[int] = set(kept["contents"]) if kept else set()

    def kept(self) -> dict[str, list[Any]]:
        """What the next process must know."""
        return {"entries": sorted(self._entries), "contents": sorted(self._contents)}

    def synced(self, descriptor: int) -> None:
        """A descriptor was synced."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self._entries.update(str(child) for child in path.iterdir())
        else:
            self._contents.add(os.fstat(descriptor).st_ino)

    def lose(self) -> None:
        """Take what is not safe: the power is gone."""
        self._lose(self._home)

    def _lose(self, folder: Path) -> None:
        for child in sorted(folder.iterdir()):
            own = child.name.startswith("ledger.sqlite") or child.name.endswith(".duckdb.wal")
            if str(child) not in self._entries and not own:
                remove(child)
            elif child.is_dir():
                self._lose(child)
            elif child.suffix in (".parquet", ".json") and child.stat().st_ino not in self._contents:
                child.write_bytes(b"")


def remove(path: Path) -> None:
    """Remove a file, a database with its log, or a folder with all in it."""
    if path.is_dir():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
        return
    path.unlink()
    if path.suffix == ".duckdb":
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}.wal").unlink()


class CountedConnection:
    """A DuckDB connection whose changes, commit and checkpoint are effects."""

    def __init__(self, inner: Any, file: Path, effects: Effects) -> None:
        self._inner, self._log, self._effects = inner, file.with_name(file.name + ".wal"), effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def execute(self, statement: str, *values: Any) -> Any:
        verb = statement.split(maxsplit=1)[0].upper() if statement.strip() else ""
        if verb in ("INSERT", "DELETE", "CREATE", "COMMENT"):
            return self._effects(f"target {verb}", lambda: self._inner.execute(statement, *values))
        return self._inner.execute(statement, *values)

    def commit(self) -> Any:
        return self._effects("target commit", self._inner.commit, lambda: tear_log(self._log, self._inner.commit))

    def close(self) -> Any:
        return self._effects("target checkpoint", self._inner.close)


class SharedSession:
    """A connection of an in-memory engine that all sessions of the process share: starting one takes most of a run."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def execute(self, statement: str, *values: Any) -> Any:
        # A locked engine could not be prepared a second time.
        return self._inner.execute("SELECT 1" if "lock_configuration" in statement else statement, *values)


def patch(effects: Effects, disk: Disk, home: Path) -> None:
    """Count the fine effects below `home` in this process from now on."""
    import duckdb
    import sqlalchemy

    plain = {name: getattr(os, name) for name in ("mkdir", "link", "unlink", "rename", "fsync")}
    connect, write_bytes = duckdb.connect, Path.write_bytes

    def inside(path: Any) -> bool:
        return Path(path).is_relative_to(home)

    def wrapped(name: str) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            def do() -> Any:
                return plain[name](path, *args, **kwargs)

            return effects(name, do) if inside(path) and not (name == "mkdir" and os.path.isdir(path)) else do()

        return call

    def fsync(descriptor: int) -> None:
        if not inside(os.readlink(f"/proc/self/fd/{descriptor}")):
            return plain["fsync"](descriptor)
        effects("fsync", lambda: plain["fsync"](descriptor))
        disk.synced(descriptor)
        return None

    def writing(self: Path, data: bytes) -> int:
        if not inside(self):
            return write_bytes(self, data)
        return effects("write", lambda: write_bytes(self, data), lambda: write_bytes(self, data[: len(data) // 2]))

    shared: list[Any] = []

    def connecting(file: str = ":memory:", *args: Any, **kwargs: Any) -> Any:
        if file == ":memory:":
            shared[:] = shared or [connect(**kwargs)]
            return SharedSession(shared[0].cursor())
        if kwargs.get("read_only"):
            return connect(file, *args, **kwargs)
        return CountedConnection(connect(file, *args, **kwargs), Path(file), effects)

    for name in ("mkdir", "link", "unlink", "rename"):
        setattr(os, name, wrapped(name))
    os.fsync = fsync  # type: ignore[assignment]
    Path.write_bytes = writing  # type: ignore[assignment,method-assign]
    duckdb.connect = connecting
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lambda _: effects("ledger commit", lambda: None))
