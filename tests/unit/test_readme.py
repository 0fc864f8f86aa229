"""What the README prints works as printed."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_provider_eventlog import Pipeline
from airflow_provider_eventlog.core import stages

README = Path(__file__).parents[2] / "README.md"


def test_the_declaration_in_the_readme_is_a_dag() -> None:
    """The README's Python is a DAG file: it parses, and its pipeline is valid down to its SQL."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    pipeline = names["paid"]
    assert isinstance(pipeline, Pipeline)
    assert stages.check(pipeline) == {
        "id": "BIGINT",
        "amount": "DECIMAL(12,2)",
        "country": "VARCHAR",
        "ts": "TIMESTAMPTZ",
    }
