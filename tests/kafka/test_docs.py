"""What the docs print works as printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_test_in_the_docs_passes(
    eventlog_kafka: Any, eventlog_topic: Callable[..., str], tmp_path: Path
) -> None:
    """The test that docs/testing-your-dags.md shows is a test that passes."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "testing-your-dags.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "testing-your-dags.md", "exec"), names)
    tests = [name for name in names if name.startswith("test_")]
    assert tests == ["test_paid_orders_are_loaded"]
    names[tests[0]](eventlog_kafka, eventlog_topic, tmp_path)
