"""The ledger's tables. Offsets and instants are 64-bit integers; mappings and ranges are canonical JSON text."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

# Raised with every change of the tables below; RELEASE is the first release that knows this version.
VERSION = 2
RELEASE = "0.1.0"

metadata = MetaData()


def _few(name: str, *columns: str, where: str) -> Index:
    """An index of the few rows of a growing table for which a condition holds."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


# schema, release, ledger_id, staging_root, staging_id, machine, boot.
meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

# `revision` is updated first in each planning transaction: where rows are locked one by one, that is the lock.
stream = Table(
    "stream",
    metadata,
    Column("name", String, primary_key=True),
    Column("declaration", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

# A topic_id of NULL is a weak identity: it may come again as another epoch, hence no value stands in for it.
epoch = Table(
    "epoch",
    metadata,
    Column("stream", String, ForeignKey("stream.name"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("cluster_id", String, nullable=False),
    Column("topic", String, nullable=False),
    Column("topic_id", String),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("stream", "epoch"),
    UniqueConstraint("stream", "cluster_id", "topic_id"),
)

# `begins` is the chain batch that begins at the cut: NULL marks holes and the newest cut, which an index has.
cut = Table(
    "cut",
    metadata,
    Column("cut_id", Integer, primary_key=True),
    Column("stream", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("instant", BigInteger, nullable=False),
    Column("begins", String),
    ForeignKeyConstraint(["stream", "epoch"], ["epoch.stream", "epoch.epoch"]),
    UniqueConstraint("stream", "epoch", "instant"),
    _few("cut_open", "stream", "epoch", "instant", where="begins IS NULL"),
)

cut_offset = Table(
    "cut_offset",
    metadata,
    Column("cut_id", Integer, ForeignKey("cut.cut_id"), nullable=False),
    Column("partition", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("found_by", String, nullable=False),
    PrimaryKeyConstraint("cut_id", "partition"),
)

# `plan` holds ranges and slices as frozen, `length` how many offsets they are; NULL cuts mark an off-chain batch.
# `gone` is the decision that let the raw files go, NULL while they stand.
batch = Table(
    "batch",
    metadata,
    Column("batch_id", String, primary_key=True),
    Column("stream", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("from_cut", Integer, ForeignKey("cut.cut_id"), unique=True),
    Column("to_cut", Integer, ForeignKey("cut.cut_id"), unique=True),
    Column("plan", Text, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("manifest_digest", String),
    Column("gone", String),
    ForeignKeyConstraint(["stream", "epoch"], ["epoch.stream", "epoch.epoch"]),
    Index("batch_by_epoch", "stream", "epoch"),
    _few("batch_gone", "stream", "epoch", where="gone IS NOT NULL"),
)

# A row stands from the plan on, which makes it coverage; the columns from `path` on are NULL until it is landed.
slices = Table(
    "slice",
    metadata,
    Column("stream", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("partition", BigInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("batch_id", String, ForeignKey("batch.batch_id"), nullable=False),
    Column("path", Text),
    Column("file_bytes", BigInteger),
    Column("sha256", String),
    Column("digest", String),
    Column("rows", BigInteger),
    Column("invisible", BigInteger),
    Column("aborted", BigInteger),
    Column("lost", BigInteger),
    Column("gaps", Text),
    Column("losses", Text),
    Column("payload_bytes", BigInteger),
    PrimaryKeyConstraint("stream", "epoch", "partition", "start"),
    UniqueConstraint("batch_id", "partition", "start"),
    _few("slice_unlanded", "stream", "epoch", "batch_id", where="digest IS NULL"),
    _few("slice_lost", "stream", "epoch", where="lost > 0"),
)

pipeline = Table(
    "pipeline",
    metadata,
    Column("name", String, primary_key=True),
    Column("stream", String, nullable=False),
    Column("recipe", String, nullable=False),
)

recipe = Table(
    "recipe",
    metadata,
    Column("pipeline", String, nullable=False),
    Column("recipe", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("declaration", Text, nullable=False),
    PrimaryKeyConstraint("pipeline", "recipe"),
)

generation = Table(
    "generation",
    metadata,
    Column("pipeline", String, nullable=False),
    Column("batch_id", String, ForeignKey("batch.batch_id"), nullable=False),
    Column("gen", Integer, nullable=False),
    Column("recipe", String, nullable=False),
    Column("inputs", String, nullable=False),
    Column("state", String, nullable=False),
    Column("accounting", Text),
    Column("digest", String),
    PrimaryKeyConstraint("pipeline", "batch_id", "gen"),
    UniqueConstraint("pipeline", "batch_id", "inputs"),
)

# Chain batches that begin before `instant` wait for the pipeline no more: it has a generation of each whose raw files
# stand. What makes an earlier one wait again lowers it, or deletes the row, under the lock of the stream.
reached = Table(
    "reached",
    metadata,
    Column("stream", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("pipeline", String, nullable=False),
    Column("instant", BigInteger, nullable=False),
    ForeignKeyConstraint(["stream", "epoch"], ["epoch.stream", "epoch.epoch"]),
    PrimaryKeyConstraint("stream", "epoch", "pipeline"),
)

part = Table(
    "part",
    metadata,
    Column("pipeline", String, nullable=False),
    Column("batch_id", String, nullable=False),
    Column("gen", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("partition", BigInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("file_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("recipe", String, nullable=False),
    Column("counts", Text, nullable=False),
    Column("failures", Text, nullable=False),
    ForeignKeyConstraint(
        ["pipeline", "batch_id", "gen"], ["generation.pipeline", "generation.batch_id", "generation.gen"]
    ),
    PrimaryKeyConstraint("pipeline", "batch_id", "gen", "kind", "partition", "start"),
)

fold_log = Table(
    "fold_log",
    metadata,
    Column("pipeline", String, nullable=False),
    Column("output", String, nullable=False),
    Column("log", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("origin", BigInteger, nullable=False),
    Column("recipe", String, nullable=False),
    Column("cause", Text, nullable=False),
    PrimaryKeyConstraint("pipeline", "output", "log"),
)

fold = Table(
    "fold",
    metadata,
    Column("pipeline", String, nullable=False),
    Column("output", String, nullable=False),
    Column("log", Integer, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("cause", String, nullable=False),
    Column("batch_id", String, ForeignKey("batch.batch_id")),
    Column("about", String, ForeignKey("batch.batch_id")),
    Column("inputs", Text, nullable=False),
    Column("files", Text, nullable=False),
    Column("watermark", BigInteger),
    Column("accounting", Text, nullable=False),
    ForeignKeyConstraint(["pipeline", "output", "log"], ["fold_log.pipeline", "fold_log.output", "fold_log.log"]),
    PrimaryKeyConstraint("pipeline", "output", "log", "n"),
    UniqueConstraint("pipeline", "output", "log", "batch_id"),
    Index("fold_about", "pipeline", "output", "log", "about"),
)

# `id` is the digest of the row. `written` is NULL until its record is known to stand in staging.
decision = Table(
    "decision",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("stream", String, nullable=False),
    Column("epoch", Integer),
    Column("pipeline", String),
    Column("batch_id", String),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("payload", Text, nullable=False),
    Column("written", Integer),
    Index("decision_by_stream", "stream", "kind", "at"),
    _few("decision_unwritten", "stream", where="written IS NULL"),
)

# `seq` orders runs by when they were first bound.
run = Table(
    "run",
    metadata,
    Column("run_key", String, nullable=False),
    Column("pipeline", String, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("stream", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("recipe", String),
    Column("mode", String, nullable=False),
    Column("request", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("notes", Text, nullable=False),
    ForeignKeyConstraint(["stream", "epoch"], ["epoch.stream", "epoch.epoch"]),
    PrimaryKeyConstraint("run_key", "pipeline"),
    Index("run_by_seq", "seq"),
    Index("run_by_pipeline", "pipeline", "seq"),
)

run_batch = Table(
    "run_batch",
    metadata,
    Column("run_key", String, nullable=False),
    Column("pipeline", String, nullable=False),
    Column("ord", Integer, nullable=False),
    Column("batch_id", String, nullable=False),
    Column("gen", Integer, nullable=False),
    Column("mode", String, nullable=False),
    ForeignKeyConstraint(["run_key", "pipeline"], ["run.run_key", "run.pipeline"]),
    ForeignKeyConstraint(
        ["pipeline", "batch_id", "gen"], ["generation.pipeline", "generation.batch_id", "generation.gen"]
    ),
    PrimaryKeyConstraint("run_key", "pipeline", "ord"),
)
