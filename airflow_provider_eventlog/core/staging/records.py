"""The form of JSON records in staging: canonical text, a format number, and a hash of the record itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from airflow_provider_eventlog.core.errors import ManifestVersionError, StagingCorruptError

FORMAT = 1


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical text."""
    return sha256(canonical(value).encode("ascii")).hexdigest()


def dump(record: Mapping[str, Any], number: int = FORMAT) -> bytes:
    """The bytes of a record; `number` is the format of what is in it."""
    return (canonical({"format": number, "record": record, "sha256": digest(record)}) + "\n").encode("ascii")


def load(path: str, data: bytes, newest: int = FORMAT) -> dict[str, Any]:
    """Read a record's bytes, of any format up to `newest`; `path` is for messages.

    Raises StagingCorruptError (not JSON, or the hash does not fit: cut off or edited by hand) and
    ManifestVersionError (written by a newer release).
    """
    try:
        document = json.loads(data)
        number = document["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StagingCorruptError(
            f"{path} is not a record of this package ({error}). `eventlog fsck --repair` makes it again where that is "
            f"possible; or restore it."
        ) from error
    if not isinstance(number, int) or number > newest:
        raise ManifestVersionError(
            f"{path} has format {number}, this release reads up to {newest}; use the release that wrote it."
        )
    record = document.get("record")
    if number < 1 or not isinstance(record, dict) or document.get("sha256") != digest(record):
        raise StagingCorruptError(
            f"{path} does not match its own hash: it was cut off or edited. `eventlog fsck --repair` makes it again "
            f"where that is possible; or restore it."
        )
    return record
