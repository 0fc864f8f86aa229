"""Reports in staging: pages beside the records of the generation that they are about, named by state and content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from airflow_provider_eventlog.core.engine import Engine
from airflow_provider_eventlog.core.errors import StagingCorruptError
from airflow_provider_eventlog.core.protocols import GenerationState, Ledger, Staging
from airflow_provider_eventlog.core.report.collect import collect
from airflow_provider_eventlog.core.report.html import page
from airflow_provider_eventlog.core.staging import paths

_NAME = re.compile(r"report-(planned|held|validated|loaded)-([0-9a-f]{16})\.html")
_ORDER = [state.value for state in GenerationState]


@dataclass(frozen=True, slots=True)
class Published:
    """A page of a run: `name` is that of its file, which tells the state and the beginning of the SHA-256."""

    batch_id: str
    generation: int
    state: str
    name: str
    path: str


def publish(engine: Engine, pipeline: str, batch_id: str, generation: int) -> str:
    """Publish the page of a generation as it is now; its path. The same state again changes nothing.

    Raises the staging errors and those of `collect`.
    """
    document = collect(engine, pipeline, batch_id, generation)
    data = page(document).encode()
    state, digest = document["generation"]["state"], sha256(data).hexdigest()
    path = paths.report(document["stream"], pipeline, batch_id, generation, state, digest)

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    engine.staging.publish(path, write)
    return path


def of_run(ledger: Ledger, staging: Staging, run_key: str, pipeline: str) -> Iterator[Published]:
    """The pages of the generations that a run is bound to, in its order, then by state; none for an unknown run."""
    bound = ledger.run(run_key, pipeline)
    stream = {name: stream for name, stream, _, _ in ledger.pipelines()}.get(pipeline)
    if bound is None or stream is None:
        return
    for batch_id, generation, _ in bound.batches:
        folder = paths.generation(stream, pipeline, batch_id, generation)
        found = []
        for file in staging.stored(folder):
            name = file.path.removeprefix(f"{folder}/")
            if match := _NAME.fullmatch(name):
                found.append(Published(batch_id, generation, match[1], name, file.path))
        yield from sorted(found, key=lambda one: (_ORDER.index(one.state), one.name))


def read(staging: Staging, wanted: Published) -> bytes:
    """The bytes of a page, verified by its name; raises StagingMissingError, StagingCorruptError."""
    data = staging.open(wanted.path).read_bytes()
    if not wanted.name.endswith(f"-{sha256(data).hexdigest()[:16]}.html"):
        raise StagingCorruptError(
            f"The report {wanted.path} is not the one that was published; nothing of it is shown."
        )
    return data
