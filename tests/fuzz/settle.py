"""What becomes of payloads in the decoder: each is typed or refused with a code and words, exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_eventlog.core.decoding import Decoder
from airflow_provider_eventlog.core.fitting import CODES
from airflow_provider_eventlog.declare import Json
from tests.support.rawtables import raw_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

FIELDS = {"i": "BIGINT", "d": "DECIMAL(12,2)", "f": "DOUBLE", "s": "VARCHAR", "j": "JSON", "l": "BIGINT[]",
          "t": "TIMESTAMPTZ", "b": "BOOLEAN"}  # fmt: skip
TYPED = "typed"


def settle(connection: duckdb.DuckDBPyConnection, payloads: Sequence[bytes]) -> list[str]:
    """For each payload `typed`, or the code it was refused with; AssertionError unless each is one of them once."""
    decoder = Decoder(Json(FIELDS), connection)
    typed = decoder.decode(raw_table(list(payloads))).column("_offset").to_pylist()
    settled = [(offset, TYPED) for offset in typed]
    for found in decoder.undecodable:
        assert all(found.reasons)
        assert set(found.codes) <= set(CODES)
        settled += zip(found.raw.column("offset").to_pylist(), found.codes, strict=True)
    settled.sort()
    assert [offset for offset, _ in settled] == list(range(len(payloads)))
    return [code for _, code in settled]
