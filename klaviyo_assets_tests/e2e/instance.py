"""Dagster's own instance in a DAGSTER_HOME: its real classes and its real files, opened thriftily.

Dagster 1.13 opens SQLite anew for every event, about eighty times a run, compiles each statement
for each of these engines, validates `dagster.yaml` and reads all of its migrations from the disk
five times a run: together most of what a small run costs. Here a file stays open as long as the
instance does, statements are compiled and a configuration is validated once for all instances,
migrations are read once, and the database of a run begins as a copy of an empty one. Nor does
SQLite wait for the disk: that guards against a loss of power, which no test brings about, and not
against a kill. And what a run prints lies in its files alone: Dagster would start four processes a
run to repeat it.
"""

import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import dagster as dg
from alembic.script import ScriptDirectory
from dagster._core.execution import compute_logs
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.sql import get_alembic_config
from dagster._serdes import deserialize_value, serialize_value
from sqlalchemy import Dialect, Engine, QueuePool, create_engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)

MIGRATIONS = ScriptDirectory.from_config(get_alembic_config(sqlite_run_storage.__file__))
# Read now, so that processes forked from this one have them.
MIGRATIONS.get_heads()


def read_empty_event_log() -> bytes:
    """Return the database that Dagster makes for a run: a tenth of what a small run costs."""
    with TemporaryDirectory() as folder:
        sqlite_event_log.SqliteEventLogStorage(folder)
        return Path(folder, "index.db").read_bytes()


EMPTY_EVENT_LOG = read_empty_event_log()


def connect_once() -> Dialect:
    """Return SQLite's dialect as it is after its first connection."""
    engine = create_engine("sqlite://")
    engine.connect().close()
    engine.dispose()
    return engine.dialect


DIALECT = connect_once()
COMPILED_STATEMENTS: dict[object, object] = {}
"""Of all engines: a statement is known by its dialect, so they have the same."""


def open_ref(folder: Path) -> InstanceRef:
    """Return what the `dagster.yaml` of a folder says."""
    if not re.fullmatch(r"[\w/.-]+", str(folder)):
        # YAML would quote such a path.
        return InstanceRef.from_dir(str(folder))
    ref, place = read_config((folder / "dagster.yaml").read_text())
    return deserialize_value(ref.replace(place, str(folder)), InstanceRef)


@cache
def read_config(config: str) -> tuple[str, str]:
    """Return the reference, as JSON, of an instance with this `dagster.yaml`, and its folder."""
    with TemporaryDirectory() as folder:
        Path(folder, "dagster.yaml").write_text(config)
        return serialize_value(InstanceRef.from_dir(folder)), folder


@contextmanager
def open_instance(folder: Path) -> Generator[dg.DagsterInstance]:
    """Open a DAGSTER_HOME for the length of the block."""
    with keep_files_open(), dg.DagsterInstance.from_ref(open_ref(folder)) as instance:
        yield instance


@contextmanager
def keep_files_open() -> Generator[None]:
    """Let whatever opens an instance in the block do so thriftily."""
    engines: dict[str, Engine] = {}

    def cached_engine(url: str, **_: object) -> Engine:
        if url not in engines:
            create_event_log(Path(url.removeprefix("sqlite:///")))
            engines[url] = create_persistent_engine(url)
        return engines[url]

    with ExitStack() as stack:
        stack.enter_context(patch.object(ScriptDirectory, "from_config", return_value=MIGRATIONS))
        stack.enter_context(patch.object(compute_logs, "tail_to_stream", skip_output_capture))
        for storage in STORAGES:
            stack.enter_context(patch.object(storage, "create_engine", cached_engine))
        stack.callback(lambda: [engine.pool.dispose() for engine in engines.values()])
        yield


def create_event_log(path: Path) -> None:
    """Begin the event log of a run; leave alone what is there, and databases of other kinds."""
    if path.parent.name == "runs" and not path.exists():
        path.write_bytes(EMPTY_EVENT_LOG)


def skip_output_capture(*_: object) -> nullcontext[tuple[None, None]]:
    """Repeat nothing of what a step prints; give no processes that would."""
    return nullcontext((None, None))


def create_persistent_engine(url: str) -> Engine:
    """Return an engine that outlives being disposed of, as Dagster does after every event."""
    path = url.removeprefix("sqlite:///")

    def connect() -> DBAPIConnection:
        connection = DIALECT.connect(path, timeout=30, check_same_thread=False)
        cursor = connection.cursor()
        # A commit ends before its bytes are safe from a loss of power.
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.close()
        return connection

    options = {"compiled_cache": COMPILED_STATEMENTS}
    pool = QueuePool(connect, dialect=DIALECT)
    engine = Engine(pool, DIALECT, make_url(url), execution_options=options)
    engine.dispose = keep_connections
    return engine


def keep_connections(close: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature is SQLAlchemy's
    """Keep the connections."""
