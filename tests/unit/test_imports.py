"""Layers, and what importing costs: asserted by cause, in the source's imports and in a fresh process's modules."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_eventlog

PACKAGE = Path(airflow_provider_eventlog.__file__).parent
REPOSITORY = PACKAGE.parent
NAME = "airflow_provider_eventlog"
HEAVY = ("pyarrow", "duckdb", "pandas", "numpy", "confluent_kafka")
# What each room may import of the package, beside itself. Imports point one way.
BELOW = {
    "core": {"declare"},
    "declare": {"core"},
    "hooks": {"declare", "core"},
    "triggers": {"declare", "core", "hooks"},
    "operators": {"declare", "core", "hooks"},
    "sensors": {"declare", "core", "hooks", "triggers", "operators"},
    "plugins": {"declare", "core", "hooks"},
    "cli": {"declare", "core", "hooks", "devkafka"},
    "devkafka": {"core"},
}


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def imports(file: Path, *, top: bool = False) -> Iterator[str]:
    """Modules that a file imports; with `top` only what runs when it is imported."""
    skipped: set[ast.AST] = set()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        hidden = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if hidden and top:
            skipped.update(ast.walk(node))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            yield node.module
            # `from package import room` names the room as an attribute.
            if node.module == NAME:
                yield from (f"{NAME}.{alias.name}" for alias in node.names)


def roots(file: Path, *, top: bool = False) -> set[str]:
    return {name.partition(".")[0] for name in imports(file, top=top)}


def test_declare_and_core_never_import_airflow() -> None:
    """Everything below the hooks works without Airflow."""
    files = modules("declare") + modules("core")
    assert len(files) > 30
    assert [f.name for f in files if "airflow" in roots(f)] == []


def test_only_the_kafka_room_imports_confluent_kafka() -> None:
    """One room knows the Kafka client, and the embedded Kafka's own tools."""
    found = {f.relative_to(PACKAGE).parts[:2] for f in PACKAGE.rglob("*.py") if "confluent_kafka" in roots(f)}
    assert ("core", "kafka") in found
    assert {parts if parts[0] == "core" else (parts[0],) for parts in found} <= {("core", "kafka"), ("devkafka",)}


@pytest.mark.parametrize("room", sorted(BELOW))
def test_imports_point_one_way(room: str) -> None:
    """No room imports one above it."""
    rooms = set(BELOW)
    for file in modules(room):
        used = {name.split(".")[1] for name in imports(file) if name.startswith(f"{NAME}.")} & rooms
        assert used - {room} <= BELOW[room], file


def test_every_room_is_in_the_table() -> None:
    """A new room must say what it may import."""
    assert {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()} == set(BELOW)


def test_pandas_is_nobodys_module_level_import() -> None:
    """Pandas costs a second; only what asks for it loads it."""
    assert [str(f) for f in PACKAGE.rglob("*.py") if "pandas" in roots(f, top=True)] == []


def fresh(code: str, tmp_path: Path, **more: str) -> object:
    """What `code` prints as JSON in a new Python with an Airflow home of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH")]))
    environment |= {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": paths, **more}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


LOADED = """
import json, sys
import airflow_provider_eventlog as package
before = set(sys.modules)
for name in package.__all__:
    getattr(package, name)
new = set(sys.modules)
print(json.dumps([sorted(new), sorted(m for m in before if m.startswith(package.__name__ + "."))]))
"""


def test_public_names_load_nothing_heavy(tmp_path: Path) -> None:
    """All public names load none of the heavy libraries, no stage, no ledger, no Kafka code; the package alone none."""
    answer = fresh(LOADED, tmp_path)
    assert isinstance(answer, list)
    loaded, before = answer
    assert before == []
    assert [m for m in loaded if m.partition(".")[0] in HEAVY] == []
    own = {m.removeprefix(f"{NAME}.") for m in loaded if m.startswith(f"{NAME}.")}
    assert not {m for m in own if m.startswith(("core.kafka", "core.ledger", "core.staging", "core.planning", "cli"))}
    assert {m for m in own if m.startswith("core.")} == {
        "core.errors",
        "core.home",
        "core.naming",
        "core.offsets",
        "core.requests",
        "core.selection",
    }


def test_public_names_are_what_the_list_says() -> None:
    """`dir`, `__all__` and attributes agree; an unknown name is an AttributeError; the version is the installed one."""
    package = airflow_provider_eventlog
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__name__ == name if name != "__version__" else package.__version__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


PARSED = """
import json, socket, sys
from pathlib import Path

def refuse(*given, **more):
    raise AssertionError("the network was used at parse")

socket.socket.connect = refuse
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

bag = DagBag({folder!r}, collect_dags=True)
assert not bag.import_errors, bag.import_errors
dags = {{d: DagSerialization.to_dict(bag.dags[d]) for d in sorted(bag.dags)}}
for text in dags.values():
    text["dag"].pop("fileloc", None)
heavy = sorted({{m.partition(".")[0] for m in sys.modules}} & set({heavy!r}) - {{"numpy"}})
print(json.dumps([dags, heavy, sorted(p.name for p in Path({home!r}).rglob("*eventlog*"))], sort_keys=True))
"""


def test_example_dags_parse_the_same_every_time(tmp_path: Path) -> None:
    """Two processes with different hash seeds store the same DAGs: their version does not change from parse to parse.

    Parsing touches no network, makes no file of ours and loads no heavy library.
    """
    folder = str(REPOSITORY / "dags")
    answers = []
    for seed in ("1", "2"):
        home = tmp_path / seed
        home.mkdir()
        code = PARSED.format(folder=folder, heavy=list(HEAVY), home=str(home))
        answers.append(fresh(code, home, PYTHONHASHSEED=seed, AIRFLOW__CORE__DAGS_FOLDER=folder))
    assert isinstance(answers[0], list)
    dags, heavy, files = answers[0]
    windows = {f"visits_{kind}" for kind in ("fixed", "sliding", "session")}
    assert set(dags) == {"flights", "flights_gate", "orders", "order_means"} | windows
    assert (heavy, files) == ([], [])
    assert json.dumps(answers[0], sort_keys=True) == json.dumps(answers[1], sort_keys=True)
