"""Reading back the names that `paths` gives: what a file below the staging root is, by its name alone.

Only a name that `paths` could have given is understood; every other one is somebody else's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_eventlog.core.offsets import MAX_OFFSET, OffsetRange

ROOT_ID = ".eventlog-root.json"
TEMPORARY = ".tmp"
# Where repair keeps the files that it has replaced; nothing removes them.
ASIDE = ".aside"

# What `naming.segment` gives: whole, or shortened and ending in a digest.
_SEGMENT = r"(?![.-])(?:[a-z0-9_.-]|%[0-9A-F]{2})+(?:(?:%[0-9A-F])?~[0-9a-f]{32})?"
_NUMBER = r"0|[1-9][0-9]{0,18}"
_FILE = rf"partition=(?P<partition>{_NUMBER})/(?P<start>[0-9]{{19}})-(?P<end>[0-9]{{19}})\.parquet"
_EPOCH = rf"(?P<stream>{_SEGMENT})/epoch=(?P<epoch>{_NUMBER})"
_PIPELINE = rf"(?P<stream>{_SEGMENT})/pipeline=(?P<pipeline>{_SEGMENT})"
_GENERATION = rf"{_PIPELINE}/batch=(?P<batch>{_SEGMENT})/gen=(?P<generation>{_NUMBER})"
_COMPLETENESS = rf"{_PIPELINE}/batch=(?P<batch>{_SEGMENT})/completeness=[0-9a-f]{{24}}"
_FOLDS = rf"{_PIPELINE}/folds/(?P<output>{_SEGMENT})/log=(?P<log>{_NUMBER})"
_FORMS = {
    "temporary": re.compile(rf"{re.escape(TEMPORARY)}/[0-9a-f]{{32}}"),
    "raw": re.compile(rf"{_EPOCH}/raw/{_FILE}"),
    "manifest": re.compile(rf"{_EPOCH}/manifests/(?P<batch>{_SEGMENT})\.json"),
    "part": re.compile(rf"{_GENERATION}/(?P<kind>{_SEGMENT})/{_FILE}"),
    "commit": re.compile(rf"{_GENERATION}/commit\.json"),
    "tally": re.compile(rf"{_COMPLETENESS}/{_FILE}"),
    "sequences": re.compile(rf"{_COMPLETENESS}/sequences\.parquet"),
    "verdict": re.compile(rf"{_GENERATION}/completeness-[0-9a-f]{{24}}\.json"),
    "report": re.compile(rf"{_GENERATION}/report-(?P<state>[a-z]+)-(?P<digest>[0-9a-f]{{16}})\.html"),
    "fold": re.compile(rf"{_FOLDS}/(?P<n>[0-9]{{12}})-[a-z]+-(?P<digest>[0-9a-f]{{16}})\.parquet"),
    "fold_record": re.compile(rf"{_FOLDS}/(?P<n>[0-9]{{12}})\.json"),
    "decision": re.compile(rf"(?P<stream>{_SEGMENT})/decisions/(?P<kind>{_SEGMENT})/(?P<decision>{_SEGMENT})\.json"),
    "recipe": re.compile(rf"{_PIPELINE}/recipes/(?P<recipe>{_SEGMENT})\.json"),
}


@dataclass(frozen=True, slots=True)
class StagedName:
    """What a name says; `form` is a key of `_FORMS`.

    Names of streams, pipelines, batches, kinds and decisions are the path segments of `naming.segment`; what a form
    does not have is None.
    """

    form: str
    stream: str | None = None
    epoch: int | None = None
    pipeline: str | None = None
    batch: str | None = None
    generation: int | None = None
    kind: str | None = None
    range: OffsetRange | None = None
    decision: str | None = None
    output: str | None = None
    log: int | None = None
    n: int | None = None


def parse(path: str) -> StagedName | None:
    """What a path relative to the root is; None for one that this package never gives."""
    for form, pattern in _FORMS.items():
        if match := pattern.fullmatch(path):
            found = match.groupdict()
            numbers = {name: int(found[name]) for name in ("epoch", "generation", "log", "n") if found.get(name)}
            texts = {name: found.get(name) for name in ("stream", "pipeline", "batch", "kind", "decision", "output")}
            if "start" not in found:
                return StagedName(form, **texts, **numbers)  # type: ignore[arg-type]
            partition, start, end = (int(found[name]) for name in ("partition", "start", "end"))
            if start > end or end > MAX_OFFSET:
                return None
            return StagedName(form, **texts, **numbers, range=OffsetRange(partition, start, end))  # type: ignore[arg-type]
    return None
