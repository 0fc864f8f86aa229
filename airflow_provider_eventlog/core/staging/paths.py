"""Where each kind of file stands below the staging root."""

from __future__ import annotations

from airflow_provider_eventlog.core.naming import segment
from airflow_provider_eventlog.core.offsets import OffsetRange, Slice


def _epoch(stream: str, epoch: int) -> str:
    return f"{segment(stream)}/epoch={epoch}"


def _file(wanted: OffsetRange) -> str:
    # 19 digits hold every offset, so that names sort as offsets do.
    return f"{wanted.start:019d}-{wanted.end:019d}.parquet"


def raw_slice(piece: Slice) -> str:
    """The raw file of a slice."""
    return f"{_epoch(piece.stream, piece.epoch)}/raw/partition={piece.partition}/{_file(piece.range)}"


def manifest(stream: str, epoch: int, batch_id: str) -> str:
    """The landing's commit record of a batch."""
    return f"{_epoch(stream, epoch)}/manifests/{segment(batch_id)}.json"


def generation(stream: str, pipeline: str, batch_id: str, number: int) -> str:
    """The folder of a generation."""
    return f"{segment(stream)}/pipeline={segment(pipeline)}/batch={segment(batch_id)}/gen={number}"


def part(stream: str, pipeline: str, batch_id: str, number: int, kind: str, wanted: OffsetRange) -> str:
    """A derived file of one slice."""
    folder = generation(stream, pipeline, batch_id, number)
    return f"{folder}/{segment(kind)}/partition={wanted.partition}/{_file(wanted)}"


def commit(stream: str, pipeline: str, batch_id: str, number: int) -> str:
    """A generation's commit record."""
    return f"{generation(stream, pipeline, batch_id, number)}/commit.json"


def report(stream: str, pipeline: str, batch_id: str, number: int, state: str, digest: str) -> str:
    """The page about a generation in a state; its name tells its bytes, since later decisions are told of too."""
    return f"{generation(stream, pipeline, batch_id, number)}/report-{segment(state)}-{digest[:16]}.html"


def decision(stream: str, kind: str, decision_id: str) -> str:
    """The record of a decision about a stream."""
    return f"{segment(stream)}/decisions/{segment(kind)}/{segment(decision_id)}.json"


def recipe(stream: str, pipeline: str, digest: str) -> str:
    """The declaration of a pipeline under one of its recipes."""
    return f"{segment(stream)}/pipeline={segment(pipeline)}/recipes/{segment(digest)}.json"


def fold_log(stream: str, pipeline: str, output: str, log: int) -> str:
    """The folder of a fold log."""
    return f"{segment(stream)}/pipeline={segment(pipeline)}/folds/{segment(output)}/log={log}"


def fold_file(stream: str, pipeline: str, output: str, log: int, n: int, kind: str, digest: str) -> str:
    """A file of fold n; its name tells its rows, since several attempts may make a fold of other inputs at once."""
    return f"{fold_log(stream, pipeline, output, log)}/{n:012d}-{kind}-{digest[:16]}.parquet"


def fold_record(stream: str, pipeline: str, output: str, log: int, n: int) -> str:
    """The record of fold n, written once it stands; number 0 is the log's own."""
    return f"{fold_log(stream, pipeline, output, log)}/{n:012d}.json"


def tally(stream: str, pipeline: str, batch_id: str, digest: str, wanted: OffsetRange) -> str:
    """What a slice delivers, counted by the rules of a digest."""
    return f"{_completeness(stream, pipeline, batch_id, digest)}/partition={wanted.partition}/{_file(wanted)}"


def sequences(stream: str, pipeline: str, batch_id: str, digest: str) -> str:
    """Which numbers the chain has delivered up to a batch, by the rules of a digest."""
    return f"{_completeness(stream, pipeline, batch_id, digest)}/sequences.parquet"


def _completeness(stream: str, pipeline: str, batch_id: str, digest: str) -> str:
    return f"{segment(stream)}/pipeline={segment(pipeline)}/batch={segment(batch_id)}/completeness={digest[:24]}"


def completeness(stream: str, pipeline: str, batch_id: str, number: int, digest: str) -> str:
    """The verdict on a generation by the rules of a digest."""
    return f"{generation(stream, pipeline, batch_id, number)}/completeness-{digest[:24]}.json"
