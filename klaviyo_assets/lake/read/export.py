"""Exports tables to one DuckDB file that contains the rows themselves, for use elsewhere.

Unlike klaviyo.duckdb, whose views read the lake's files, an export needs no other file.
"""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from klaviyo_assets.errors import LakeError, MissingTableError, SettingError, StorageError
from klaviyo_assets.lake.disk import acquire_lock, fsync_file, map_storage_errors
from klaviyo_assets.lake.layout import DATABASE_FILE, EXPORTS_FILE
from klaviyo_assets.lake.read.database import remove_wal_files
from klaviyo_assets.lake.read.duckdb import (
    DUCKDB_STORAGE_VERSION,
    open_connection,
    quote_identifier,
    quote_literal,
)
from klaviyo_assets.lake.read.views import (
    Relation,
    add_plain_relations,
    build_create_statements,
    load_current_tables,
    optional_tables,
)
from klaviyo_assets.lake.response_cache import write_file_atomically

if TYPE_CHECKING:
    import duckdb

EXPORT_CATALOG = "exported"
DUCKDB_MAGIC = b"DUCK"
DUCKDB_MAGIC_OFFSET = 8
"""Where the magic bytes of a DuckDB file are: behind the checksum of its first block."""

EXPORT_MEMORY_LIMIT = "512MB"
EXPORT_ROW_GROUP_ROWS = 10_240
"""Rows that DuckDB collects before it compresses them; a multiple of 2,048."""

EXPORT_PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """The progress of one table: `share` from 0 to 1, and `rows` once it is complete."""

    name: str
    share: float
    rows: int | None = None


ReportExportProgress = Callable[[ExportProgress], None]


def build_export_statements(
    root: Path, relations: Sequence[Relation], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the statements that create each table; without `names`, those of every stored table.

    Raises:
        SettingError: there is no relation of a name; the message has similar ones.
        MissingTableError: no sync wrote one of the named tables, or any.
        LakeError: a requested table cannot be read.
    """
    found, problems = load_current_tables(root)
    tables = {name: one.files for name, one in found.items()}
    known = {each.name: each for each in add_plain_relations(found, relations)}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise SettingError(f"there is no table {name!r}: {hint}")
    if not found and not problems:
        raise LakeError(f"no lake in {root} (KLAVIYO_DATA_DIR): there is nothing to export")
    wanted = list(dict.fromkeys(names)) or list(known)
    needed = {
        table
        for name in wanted
        for table in (name, *known[name].required_tables, *optional_tables(known[name]))
    }
    for problem in problems:
        if problem.stream in needed or not names:
            raise problem
    made = {
        name: build_create_statements(known[name], tables, catalog=EXPORT_CATALOG, kind="TABLE")
        for name in wanted
    }
    for name in names:
        if made[name] is None:
            raise MissingTableError("was never read; materialize its asset first", stream=name)
    return {name: statements for name, statements in made.items() if statements is not None}


def refuse_export_target(root: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse a target where an export would destroy something else.

    Raises:
        SettingError: the message says what is there, and what to do.
    """
    own = (root / DATABASE_FILE).resolve()
    if target.resolve() == own or (root / "lake").resolve() in target.resolve().parents:
        raise SettingError(f"{target} is the lake's own: give the export a place outside of it")
    if not target.parent.is_dir():
        raise SettingError(f"{target.parent} is no folder: make it first, or give another place")
    if target.is_dir():
        raise SettingError(f"{target} is a folder: give the export a file's name")
    if not target.exists():
        return
    with target.open("rb") as file:
        is_database = (
            file.read(DUCKDB_MAGIC_OFFSET + len(DUCKDB_MAGIC))[DUCKDB_MAGIC_OFFSET:] == DUCKDB_MAGIC
        )
    if not is_database:
        raise SettingError(f"{target} is there and no DuckDB database; it stays as it is")
    if not overwrite:
        raise SettingError(f"{target} is there already: --force replaces it")


def record_export(root: Path, target: Path, *, exported_at: datetime) -> None:
    """Record the path of an export, so that a later erasure searches that file.

    A user who may only read the lake can export, but not record it.
    """
    known = {str(path): when for path, when in read_exports(root).items()}
    content = json.dumps(known | {str(target): exported_at.isoformat()}, indent=2).encode()
    with suppress(OSError):
        write_file_atomically(
            root / "lake" / EXPORTS_FILE, content, modified_at=exported_at.timestamp()
        )


def read_exports(root: Path) -> dict[Path, str]:
    """Return the paths of a lake's exports, and when each was last written (ISO 8601)."""
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads((root / "lake" / EXPORTS_FILE).read_bytes())
        return {Path(path): str(when) for path, when in known.items()}
    return {}


def partial_export_path(target: Path) -> Path:
    """Return the path of an unfinished export, which a killed one leaves behind."""
    return target.with_name(f".{target.name}.part")


def export_tables(
    target: Path, tables: Mapping[str, Sequence[str]], *, report_progress: ReportExportProgress
) -> list[ExportProgress]:
    """Write the tables to a new file at `target`, in the storage format of klaviyo.duckdb.

    All tables are as of one moment: of each, the newest commit. An earlier file at `target` is
    replaced when everything is written.

    Raises:
        StorageError: an operation on the disk failed, or another export writes this file.
        LakeError: a table cannot be read, or its rows need too much memory.
    """
    partial = partial_export_path(target)
    with map_storage_errors(target, None), lock_export(partial):
        remove_export(partial)
        try:
            with open_export(partial) as writing:
                done = [
                    export_table(writing, name, each, report_progress=report_progress)
                    for name, each in tables.items()
                ]
            fsync_file(partial)
            remove_wal_files(target)
            partial.replace(target)
        except RuntimeError as error:
            # DuckDB raises this after Ctrl-C; its other errors have types of their own.
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from None
        finally:
            remove_export(partial)
    return done


def remove_export(path: Path) -> None:
    """Delete a database file and its side files, if they are there."""
    path.unlink(missing_ok=True)
    remove_wal_files(path)


@contextmanager
def lock_export(partial: Path) -> Generator[None]:
    """Hold a lock during the block that makes a second export of the same file fail.

    Raises:
        StorageError: another export of the file is running.
    """
    lock = partial.with_suffix(".lock")
    descriptor = acquire_lock(lock, wait=False)
    if descriptor is None:
        raise StorageError(f"another export writes {partial}; wait for it to end")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def open_export(path: Path) -> "Generator[duckdb.DuckDBPyConnection]":
    """Create a database file as `EXPORT_CATALOG`, with bounded memory.

    The file is complete when the block has ended.
    """
    options = (
        f"STORAGE_VERSION {quote_literal(DUCKDB_STORAGE_VERSION)}, ROW_GROUP_SIZE "
        f"{EXPORT_ROW_GROUP_ROWS}"
    )
    with open_connection() as made:
        made.execute(f"SET memory_limit = {quote_literal(EXPORT_MEMORY_LIMIT)}; SET threads = 1")
        made.execute(f"SET temp_directory = {quote_literal(f'{path}.spill')}")
        # DuckDB counts progress only with the bar enabled; the bar is not printed.
        made.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        made.execute(
            f"ATTACH {quote_literal(str(path))} AS {quote_identifier(EXPORT_CATALOG)} ({options})"
        )
        yield made
        made.execute(f"DETACH {quote_identifier(EXPORT_CATALOG)}")


def export_table(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    statements: Sequence[str],
    *,
    report_progress: ReportExportProgress,
) -> ExportProgress:
    """Write one table, and report its progress.

    Raises:
        LakeError: its rows need more memory than allowed.
    """
    import duckdb  # noqa: PLC0415 - late, see `read/duckdb.py`

    create, *comments = statements
    try:
        with watch_export_progress(connection, name, report_progress):
            connection.execute(create)
    except duckdb.OutOfMemoryException:
        # `from None`: the messages of DuckDB can quote rows.
        raise LakeError(
            f"its rows are so large that {EXPORT_MEMORY_LIMIT} of memory do not hold a part of it; "
            "leave it out with --tables",
            stream=name,
        ) from None
    for each in comments:
        connection.execute(each)
    ((rows,),) = connection.execute(
        f"SELECT count(*) FROM {quote_identifier(EXPORT_CATALOG)}.{quote_identifier(name)}"
    ).fetchall()
    done = ExportProgress(name=name, share=1.0, rows=rows)
    report_progress(done)
    return done


@contextmanager
def watch_export_progress(
    connection: "duckdb.DuckDBPyConnection", name: str, report_progress: ReportExportProgress
) -> Generator[None]:
    """Report the progress of the block's statement every half second."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(EXPORT_PROGRESS_SECONDS):
            percent = connection.query_progress()
            if percent >= 0:
                report_progress(ExportProgress(name=name, share=percent / 100))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
