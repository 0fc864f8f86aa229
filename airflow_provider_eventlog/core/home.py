"""Where state lives by default: below AIRFLOW_HOME, never below a worker's current directory."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """AIRFLOW_HOME as Airflow itself resolves it: the variable, else `airflow` in the user's home."""
    return Path(os.environ.get("AIRFLOW_HOME") or "~/airflow").expanduser().absolute()


def below(base: Path, path: str) -> Path:
    """`path` if absolute, else below `base`; `file://` URLs and `~` are understood."""
    return base / Path(path.removeprefix("file://")).expanduser()
