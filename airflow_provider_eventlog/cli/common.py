"""What several commands share: arguments, connections, pipelines, instants."""

from __future__ import annotations

import argparse
import configparser
import getpass
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from airflow_provider_eventlog.core.errors import ConnectionConfigError, DeclarationError, RequestError
from airflow_provider_eventlog.core.home import home
from airflow_provider_eventlog.core.naming import printable


class UsageError(Exception):
    """The command's words are wrong; nothing was done. Ends with exit code 2."""


def add_client(parser: argparse.ArgumentParser) -> None:
    """How to reach Kafka."""
    group = parser.add_argument_group("Kafka")
    group.add_argument("--bootstrap-servers", metavar="HOST:PORT[,...]", help="instead of an Airflow connection")
    group.add_argument(
        "--config",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a client setting; may be given several times",
    )
    group.add_argument("--conn-id", metavar="ID", help="Airflow connection; default: the stream's, or kafka_default")


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Where ledger and staging are."""
    group = parser.add_argument_group("state")
    group.add_argument("--home", metavar="DIR", help="base of relative paths and defaults; default: AIRFLOW_HOME")
    group.add_argument("--staging-root", metavar="DIR", help="default: [eventlog] staging_root, else below the home")
    group.add_argument(
        "--ledger", metavar="FILE|URL", help="an SQLite file or postgresql://...; default: below the home"
    )


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Which pipeline."""
    parser.add_argument("--pipeline", required=True, metavar="FILE.py:VARIABLE", help="where the pipeline is declared")


def add_decision(parser: argparse.ArgumentParser) -> None:
    """Who decides, and why; both are kept with the decision."""
    parser.add_argument("--why", required=True, metavar="TEXT", help="kept with the decision")
    add_who(parser)


def add_who(parser: argparse.ArgumentParser) -> None:
    """Who decides, for the decisions' records."""
    parser.add_argument("--who", metavar="NAME", help="for the decisions' records; default: this process's user")


def who(args: argparse.Namespace) -> str:
    """Who decides."""
    return args.who or getpass.getuser()


def client_settings(args: argparse.Namespace, conn_id: str) -> dict[str, Any]:
    """Client settings from the command line, else from Airflow's connection; secrets are masked in logs.

    Raises UsageError for a malformed --config, ConnectionConfigError for a missing connection.
    """
    given: dict[str, Any] = {}
    for pair in args.config:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--config {printable(pair, 40)} is not KEY=VALUE.")
        given[key.strip()] = value
    if args.bootstrap_servers:
        return {**given, "bootstrap.servers": args.bootstrap_servers}
    if "bootstrap.servers" in given:
        return given
    from airflow_provider_eventlog.hooks.eventlog import EventLogHook

    try:
        settings = EventLogHook(kafka_conn_id=args.conn_id or conn_id).client_settings()
    except ConnectionConfigError:
        raise
    except Exception as error:  # Airflow raises several classes for a connection that cannot be found
        raise ConnectionConfigError(
            f"The Airflow connection {args.conn_id or conn_id!r} cannot be read ({type(error).__name__}: "
            f"{printable(str(error))}); define it, or name the brokers with --bootstrap-servers."
        ) from error
    return {**settings, **given}


def base(args: argparse.Namespace) -> Path:
    """The home directory of this call."""
    return Path(args.home).expanduser().absolute() if args.home else home()


def stores(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `open_engine` for ledger and staging: as given, else as Airflow is configured.

    With --home Airflow's own configuration is left alone.
    """
    ledger = args.ledger
    if ledger is None and _configured(args, "ledger_conn_id"):
        from airflow_provider_eventlog.hooks.config import ledger_url

        ledger = ledger_url()
    root = args.staging_root or _configured(args, "staging_root")
    return {"home": base(args), "staging_root": root, "ledger_url": ledger}


def _configured(args: argparse.Namespace, option: str) -> str | None:
    """An option of `[eventlog]`, from Airflow's variable or its file, without the cost of importing Airflow."""
    if args.home:
        return None
    value = os.environ.get(f"AIRFLOW__EVENTLOG__{option.upper()}")
    if value is None:
        file = configparser.ConfigParser(interpolation=None, strict=False)
        file.read(os.environ.get("AIRFLOW_CONFIG") or home() / "airflow.cfg")
        value = file.get("eventlog", option, fallback="")
    return value.strip() or None


def registered(ledger: Any, name: str) -> dict[str, Any]:
    """The declaration of a registered pipeline; raises UsageError that names the known ones."""
    known = {one: declaration for one, _, _, declaration in ledger.pipelines()}
    if name not in known:
        raise UsageError(f"No pipeline {printable(name)} is registered; known are {', '.join(known) or 'none'}.")
    declaration: dict[str, Any] = json.loads(known[name])
    return declaration


def load_pipeline(reference: str) -> Any:
    """The pipeline that `file.py:variable` names; runs the file, and writes nothing beside it.

    Raises UsageError, DeclarationError.
    """
    from airflow_provider_eventlog.declare import Pipeline

    path, _, variable = reference.rpartition(":")
    file = Path(path)
    if not path or not variable.isidentifier() or file.suffix != ".py":
        raise UsageError(f"--pipeline {printable(reference)} is not FILE.py:VARIABLE.")
    if not file.is_file():
        raise UsageError(f"--pipeline: there is no file {printable(path)}.")
    # A module name of its own for each path, so that two files of one name do not meet in sys.modules.
    name = f"eventlog_pipelines_{sha256(str(file.absolute()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A command that changes nothing leaves no compiled files either.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError) as error:
        raise DeclarationError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = before
    found = vars(module).get(variable)
    if not isinstance(found, Pipeline):
        known = sorted(k for k, v in vars(module).items() if isinstance(v, Pipeline))
        raise UsageError(f"{path} has no pipeline {variable!r}; it declares {', '.join(known) or 'none'}.")
    return found


def instant(text: str) -> int:
    """Milliseconds since 1970 of an ISO time; without a zone it is UTC. Raises RequestError."""
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RequestError(
            f"{printable(text, 60)} is not a time; write ISO 8601, for example 2013-01-01T00:00:00Z."
        ) from None
    return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)


def clean(value: Any) -> Any:
    """Bytes in foreign records made JSON: text where they are UTF-8, else hex behind `0x`."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {k: clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    return value
