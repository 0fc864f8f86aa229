"""What Airflow discovers about the package is valid and leads somewhere."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_provider_eventlog
from airflow_provider_eventlog.provider_info import get_provider_info

INFO = get_provider_info()


def _dotted(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _dotted(part)
    elif isinstance(value, list):
        for part in value:
            yield from _dotted(part)
    elif isinstance(value, str) and value.startswith(airflow_provider_eventlog.__name__ + "."):
        yield value


def _python(home: Path, code: str) -> Any:
    """What `code` prints as JSON, in a fresh Python with an Airflow of its own."""
    program = "import json, sys\n" + textwrap.dedent(code)
    env = {**os.environ, "AIRFLOW_HOME": str(home)}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_it_satisfies_airflows_schema() -> None:
    """The dict is valid: an invalid one would break every `airflow` command."""
    spec = find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def test_it_is_what_airflow_finds() -> None:
    """The distribution of this name declares it as Airflow's entry point, under its own name and version."""
    found = distribution(INFO["package-name"])
    points = [p for p in found.entry_points if p.group == "apache_airflow_provider"]
    assert [p.load() for p in points] == [get_provider_info]
    assert INFO["versions"][0] == found.version


def test_airflow_takes_it(tmp_path: Path) -> None:
    """Airflow's own discovery loads the provider: its decorator, its configuration and its command."""
    found = _python(
        tmp_path,
        """
        from airflow.cli.cli_parser import get_parser
        from airflow.configuration import conf
        from airflow.providers_manager import ProvidersManager
        manager = ProvidersManager()
        decorator = manager.taskflow_decorators["eventlog"]
        arguments = ["eventlog", "run", "--output", "json", "--help"]
        print(json.dumps({
            "provider": "airflow-provider-eventlog" in manager.providers,
            "decorator": f"{decorator.__module__}.{decorator.__name__}",
            "config": sorted(dict(manager.provider_configs)["airflow-provider-eventlog"]["eventlog"]["options"]),
            "arguments": get_parser().parse_args(arguments).arguments,
            "help": get_parser().parse_args(["eventlog", "--help"]).arguments,
        }))
        """,
    )
    assert found == {
        "provider": True,
        "decorator": INFO["task-decorators"][0]["class-name"],
        "config": sorted(INFO["config"]["eventlog"]["options"]),
        "arguments": ["run", "--output", "json", "--help"],
        "help": ["--help"],
    }


def test_the_command_costs_other_commands_nothing(tmp_path: Path) -> None:
    """What every `airflow` command imports of the package imports nothing that Airflow has not imported already."""
    extra = _python(
        tmp_path,
        """
        import airflow.cli.cli_config
        before = {name for name in sys.modules if not name.startswith("airflow_provider_eventlog")}
        import airflow_provider_eventlog.cli.airflow_command, airflow_provider_eventlog.provider_info
        print(json.dumps(sorted(set(sys.modules) - before)))
        """,
    )
    package = "airflow_provider_eventlog"
    assert set(extra) == {package, f"{package}.cli", f"{package}.cli.airflow_command", f"{package}.provider_info"}


def test_the_options_are_the_ones_that_are_read() -> None:
    """Each option that the package reads is described, and each that is described is read."""
    source = Path(str(files(airflow_provider_eventlog))) / "hooks" / "config.py"
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    gets = [c for c in calls if ast.unparse(c.func) in ("conf.get", "conf.getboolean", "conf.getint")]
    assert {ast.unparse(c.args[0]) for c in gets} == {"SECTION"}
    assert {ast.literal_eval(c.args[1]) for c in gets} == set(INFO["config"]["eventlog"]["options"])


def test_no_option_has_a_hidden_default() -> None:
    """Every option is empty by default, and says where its default lies."""
    for option in INFO["config"]["eventlog"]["options"].values():
        assert option["default"] == ""
        assert "AIRFLOW_HOME" in option["description"]


@pytest.mark.parametrize("path", sorted(set(_dotted(INFO))))
def test_every_path_resolves(path: str) -> None:
    """Each dotted path in the dict is a module, or a name in one."""
    module, _, name = path.rpartition(".")
    if not hasattr(import_module(module), name):
        import_module(path)
