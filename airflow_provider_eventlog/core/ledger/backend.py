"""What differs between the databases that a ledger can be in; `sqlite` and `postgres` give one each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, MetaData


@dataclass(frozen=True)
class Database:
    """An opened database. Its engines raise the errors of `core.errors` for locks, lost connections and full disks.

    where     how messages name it; holds no secret
    engine    owns the connections; dispose of it at the end
    reading   its transactions see one state of the database from their first statement on
    writing   its transactions wait for each other where they change the same row, and then see what stands
    tables    the ledger's tables as this database wants them
    creating  a writing transaction that only one process at a time is in
    one_host  whether only the processes of one host may use it
    """

    where: str
    engine: Engine
    reading: Engine
    writing: Engine
    tables: MetaData
    creating: Callable[[], AbstractContextManager[Connection]]
    one_host: bool
