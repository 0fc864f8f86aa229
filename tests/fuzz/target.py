"""`make fuzz`: payloads that reach new branches of the decoder, as long as FUZZ_SECONDS says (default 60).

Needs the extra `fuzz` (atheris). Starts from the corpus and keeps what reaches further in .work/fuzz; an input that
breaks the decoder is written there too, and belongs into the corpus with its mending.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["airflow_provider_eventlog.core"]):
    from airflow_provider_eventlog.core.session import session
    from tests.fuzz.settle import TYPED, settle

HERE = Path(__file__).parent
FOUND = HERE.parent.parent / ".work" / "fuzz"
GOOD = (HERE / "corpus" / "good.bin").read_bytes()


def main() -> None:
    """Fuzz until the time is over; ends with an error at the first input that breaks a promise."""
    FOUND.mkdir(parents=True, exist_ok=True)
    words = [sys.argv[0], f"-max_total_time={os.environ.get('FUZZ_SECONDS', '60')}", "-timeout=60"]
    words += [f"-artifact_prefix={FOUND}/broken-", str(FOUND), str(HERE / "corpus")]
    with session(threads=1) as connection:

        def one(data: bytes) -> None:
            became = settle(connection, [GOOD, data, GOOD])
            assert (became[0], became[2]) == (TYPED, TYPED), became

        atheris.Setup(words, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
