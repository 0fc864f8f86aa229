"""What staging tells of the ledger that wrote it: found in one pass over the names, every record read once.

Only a bounded part is kept: records of batches and generations are read again, one by one, when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Event

from airflow_provider_eventlog.core import partfile
from airflow_provider_eventlog.core.engine import no_progress
from airflow_provider_eventlog.core.errors import (
    EventLogError,
    ManifestVersionError,
    ReadCancelledError,
    StagingCorruptError,
)
from airflow_provider_eventlog.core.naming import segment
from airflow_provider_eventlog.core.offsets import TopicIdentity
from airflow_provider_eventlog.core.protocols import Decision, PartRecord, Staging
from airflow_provider_eventlog.core.rebuilding import folded, reading
from airflow_provider_eventlog.core.rebuilding.reading import Declared
from airflow_provider_eventlog.core.staging.names import StagedName, parse

_NAMED = 10
_EVERY = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the rebuilt ledger cannot hold as it was: where, what, and what to do."""

    where: str
    what: str
    mend: str


@dataclass
class Evidence:
    """What was found.

    manifests    paths of manifests, with the batch of each
    commits      paths of commit records, by (pipeline, batch)
    uncommitted  parts of generations without a commit record, by (pipeline, batch, generation)
    streams      the stream of each landed batch
    epochs       identities by (stream, epoch)
    declared     by pipeline, in order of their numbers
    decisions    by time
    folds        paths of the records of fold logs (number 0) and of folds
    raw          raw files that no manifest names
    problems     what had to be left out
    """

    manifests: dict[str, str] = field(default_factory=dict)
    commits: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict)
    uncommitted: dict[tuple[str, str, int], tuple[PartRecord, ...]] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=dict)
    epochs: dict[tuple[str, int], TopicIdentity] = field(default_factory=dict)
    declared: dict[str, list[Declared]] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    folds: list[str] = field(default_factory=list)
    raw: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def gather(staging: Staging, cancel: Event, progress: Callable[[str, int, int], None] = no_progress) -> Evidence:
    """Read every record below the staging root.

    Raises StagingCorruptError naming all records that are damaged or contradict each other, ManifestVersionError for
    ones of a newer release: a ledger without them would plan their offsets once more.
    """
    return _Gathering(staging, cancel, progress).all()


class _Gathering:
    def __init__(self, staging: Staging, cancel: Event, progress: Callable[[str, int, int], None]) -> None:
        self._staging, self._cancel, self._progress = staging, cancel, progress
        self._found = Evidence()
        self._damaged: list[EventLogError] = []
        self._pipelines: dict[str, str] = {}

    def all(self) -> Evidence:
        """Names first; then recipes and manifests, by which the other names are understood."""
        found = self._found
        names: dict[str, list[tuple[str, StagedName]]] = {form: [] for form in _READ}
        committed: set[tuple[str | None, str | None, int | None]] = set()
        for file in self._staging.stored():
            self._check()
            name = parse(file.path)
            if name is None:
                continue
            if name.form == "raw":
                found.raw.add(file.path)
            generation = (name.pipeline, name.batch, name.generation)
            if name.form == "commit":
                committed.add(generation)
            # By far most names are of parts that a commit record tells of.
            if name.form in names and not (name.form == "part" and generation in committed):
                names[name.form].append((file.path, name))
        total, done = sum(len(names[form]) for form in _READ[:-1]), 0
        for form, read in zip(_READ, self._readers(), strict=False):
            for path, name in sorted(names[form], key=lambda one: one[0]):
                self._check()
                self._try(read, path, name)
                done += 1
                if done % _EVERY == 0 or done == total:
                    self._progress("read records", done, total)
        self._parts(names["part"])
        self._refuse_damaged()
        for of in found.declared.values():
            of.sort(key=lambda one: (one.number, one.recipe))
        found.decisions.sort(key=lambda one: (one.at, one.id))
        return found

    def _readers(self) -> tuple[Callable[[str, StagedName], None], ...]:
        """What reads the records of each form of `_READ` but the last."""
        return self._recipe, self._manifest, self._commit, self._decision, self._fold

    def _check(self) -> None:
        if self._cancel.is_set():
            raise ReadCancelledError("Told to stop; nothing was changed.")

    def _try(self, read: Callable[[str, StagedName], None], path: str, name: StagedName) -> None:
        try:
            read(path, name)
        except (StagingCorruptError, ManifestVersionError) as error:
            self._damaged.append(error)

    def _refuse_damaged(self) -> None:
        if not self._damaged:
            return
        first, count = self._damaged[0], len(self._damaged)
        said = "; ".join(str(error) for error in self._damaged[:_NAMED])
        more = f"; and {count - _NAMED} more" if count > _NAMED else ""
        raise type(first)(
            f"{count} records in staging cannot be relied on: {said}{more}. Nothing was made: what they tell of would "
            f"be planned once more. Restore them from a copy; or move one away to go on as if it had never been."
        )

    def _recipe(self, path: str, _name: StagedName) -> None:
        found = reading.declared(self._staging, path)
        self._found.declared.setdefault(found.pipeline, []).append(found)
        self._pipelines[segment(found.pipeline)] = found.pipeline

    def _manifest(self, path: str, _name: StagedName) -> None:
        found = reading.landed(self._staging, path)
        plan, key = found.plan, (found.plan.stream, found.plan.epoch)
        if self._found.epochs.setdefault(key, found.identity) != found.identity:
            raise StagingCorruptError(
                f"{path} is of {found.identity}, another manifest of epoch {plan.epoch} of {self._found.epochs[key]}."
            )
        self._found.raw.difference_update(piece.file.path for piece in found.slices)
        self._found.manifests[path] = plan.batch_id
        self._found.streams[plan.batch_id] = plan.stream

    def _commit(self, path: str, name: StagedName) -> None:
        batch_id, number = str(name.batch), int(name.generation or 0)
        stream = self._found.streams.get(batch_id)
        if stream is None:
            self._left_out(path, "The generation of a batch that has no manifest.")
            return
        found = reading.committed(self._staging, path, stream)
        self._pipelines[segment(found.pipeline)] = found.pipeline
        self._found.commits.setdefault((found.pipeline, batch_id), {})[number] = path

    def _decision(self, path: str, _name: StagedName) -> None:
        self._found.decisions.append(reading.decision(self._staging, path))

    def _fold(self, path: str, _name: StagedName) -> None:
        folded.read(self._staging, path)
        self._found.folds.append(path)

    def _left_out(self, where: str, what: str) -> None:
        mend = "Restore what is missing from a copy and rebuild once more; without it this counts as never made."
        self._found.problems.append(Problem(where, what, mend))

    def _parts(self, names: Iterable[tuple[str, StagedName]]) -> None:
        """Parts of generations without a commit record, by their footers."""
        waiting: dict[tuple[str, str, int], list[str]] = {}
        for path, name in names:
            pipeline, number = self._pipelines.get(str(name.pipeline)), int(name.generation or 0)
            key = (pipeline or str(name.pipeline), str(name.batch), number)
            if pipeline is None or number not in self._found.commits.get(key[:2], {}):
                waiting.setdefault(key, []).append(path)
        for key, of in waiting.items():
            self._check()
            folder = of[0].split("/gen=")[0]
            if key[1] not in self._found.streams:
                self._left_out(folder, f"{len(of)} parts of a batch that has no manifest.")
            elif key[0] not in self._found.declared:
                self._left_out(folder, f"{len(of)} parts of a pipeline of which no recipe is written down.")
            else:
                self._found.uncommitted[key] = tuple(p for path in of if (p := self._part(path)) is not None)

    def _part(self, path: str) -> PartRecord | None:
        try:
            file = self._staging.stat(path)
            return None if file is None else partfile.read_part(self._staging.open(path), file)
        except (StagingCorruptError, ManifestVersionError) as error:
            what = f"The part of a generation that was never validated cannot be read: {error}"
            self._found.problems.append(Problem(path, what, "Clear its run from plan: that derives the batch again."))
            return None


_READ = ("recipe", "manifest", "commit", "decision", "fold_record", "part")
