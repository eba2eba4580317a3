"""Writes DuckDB files for use elsewhere: exports of rows, and views in a database of the user's.

Unlike klaviyo.duckdb, whose views read the lake's files, an export needs no other file.

The views name files of the version that they were written for, as those of klaviyo.duckdb do. That
database is replaced after each commit; a user's file is not, since another program may have it
open. So the lake remembers which files each such database names, and vacuum spares them until
the views are written anew, or the database is gone.

    lake/_targets.json      {"/srv/shop.duckdb": {"klaviyo": {"flows": ["part-..."]}}}

A view may have another tool's names. Each relation that it reads becomes a WITH clause of exactly
the columns that it may name, NULL where the lake does not have one, so that its SQL is valid:

    WITH "events" AS (SELECT "id", NULL AS "uuid" FROM (...)), steps ... SELECT columns FROM source
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
from klaviyo_assets.lake.disk import acquire_lock, fsync_file, hold_lock, map_storage_errors
from klaviyo_assets.lake.layout import DATABASE_FILE, EXPORTS_FILE, TARGETS_FILE
from klaviyo_assets.lake.read.computed import SQL_TYPES
from klaviyo_assets.lake.read.database import (
    PUBLISH_LOCK_TIMEOUT_SECONDS,
    TableFileNames,
    list_paths_by_table,
    read_targets,
    remove_wal_files,
)
from klaviyo_assets.lake.read.duckdb import (
    DUCKDB_STORAGE_VERSION,
    TableFiles,
    open_connection,
    quote_identifier,
    quote_literal,
)
from klaviyo_assets.lake.read.views import (
    Relation,
    add_plain_relations,
    build_create_statements,
    build_select,
    load_current_tables,
    optional_tables,
    relation_column_names,
)
from klaviyo_assets.lake.response_cache import write_file_atomically
from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.view import MappedSchema, MappedView

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


OWN_COMMENT = "Written by klaviyo-assets publish"
"""How the comment of a view ends that we wrote, and may replace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedViewSql:
    """A view's SELECT, the tables whose files it names, and the relations it does without."""

    view: MappedView
    select: str
    tables: frozenset[str]
    missing: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether the view has no rows, because its main relation is not stored."""
        return self.view.main_relation in self.missing


def build_mapped_view(
    view: MappedView, relations: Mapping[str, Relation], tables: Mapping[str, TableFiles]
) -> MappedViewSql:
    """Return the SQL of a view over the relations that can be built of the stored tables."""
    clauses: list[str] = []
    missing: list[str] = []
    used: set[str] = set()
    for name, columns in view.inputs.items():
        relation = relations.get(name)
        select = None if relation is None else build_select(relation, tables)
        known: list[str] = []
        if relation is None or select is None:
            missing.append(name)
        else:
            known = relation_column_names(relation, tables)
            used |= {*relation.required_tables, *optional_tables(relation)}
        clauses.append(_build_input(name, columns, select, known))
    clauses += [f"{quote_identifier(name)} AS ({sql})" for name, sql in view.steps.items()]
    shown = ", ".join(
        f"CAST({each.sql} AS {each.type}) AS {quote_identifier(each.name)}" for each in view.columns
    )
    return MappedViewSql(
        view=view,
        select=f"WITH RECURSIVE {', '.join(clauses)} SELECT {shown} FROM {view.source}",
        tables=frozenset(used & set(tables)),
        missing=tuple(missing),
    )


def _build_input(
    name: str, columns: Mapping[str, ColumnType], select: str | None, known: Sequence[str]
) -> str:
    shown = ", ".join(
        quote_identifier(column)
        if column in known
        else f"CAST(NULL AS {SQL_TYPES[kind]}) AS {quote_identifier(column)}"
        for column, kind in columns.items()
    )
    rows = f"FROM ({select})" if select is not None else "WHERE false"
    # Else DuckDB 1.4 and later compute every column of it once, and keep all rows in memory.
    return f"{quote_identifier(name)} AS NOT MATERIALIZED (SELECT {shown} {rows})"


def build_mapped_statements(built: MappedViewSql, *, catalog: str, schema: str) -> tuple[str, ...]:
    """Return the statements that create or replace a view, and comment on it and its columns."""
    view = built.view
    name = ".".join(map(quote_identifier, (catalog, schema, view.name)))
    about = quote_literal(f"{view.description} {OWN_COMMENT}")
    columns = (
        f"COMMENT ON COLUMN {name}.{quote_identifier(each.name)} "
        f"IS {quote_literal(each.description)}"
        for each in view.columns
    )
    return (
        f"CREATE OR REPLACE VIEW {name} AS {built.select}",
        f"COMMENT ON VIEW {name} IS {about}",
        *columns,
    )


TARGET_CATALOG = "target"
"""The catalog name of the user's database while its views are written; they do not contain it."""

NO_FILES: TableFileNames = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetView:
    """A view as it was written: its rows, and the relations that the lake does not have."""

    name: str
    rows: int
    missing: tuple[str, ...]


def refuse_target(root: Path, target: Path, *, schema: str) -> None:
    """Refuse a file that is no place for views in this schema.

    Raises:
        SettingError: the message says why, and what to do.
    """
    own = (root / DATABASE_FILE).resolve()
    if target.resolve() == own or (root / "lake").resolve() in target.resolve().parents:
        raise SettingError(f"{target} is the lake's own: name a database of yours")
    if target.stem.casefold() == schema.casefold():
        raise SettingError(
            f"a database in {target.name} is called {target.stem}, as its schema {schema} would "
            f"be, and DuckDB could not tell {schema}.<table> of the one from that of the other: "
            "give the file another name"
        )
    if not target.parent.is_dir():
        raise SettingError(f"{target.parent} is no folder: make it first, or give another place")
    if target.is_dir():
        raise SettingError(f"{target} is a folder: give a file's name")
    if target.exists() and target.stat().st_size:
        with target.open("rb") as file:
            head = file.read(DUCKDB_MAGIC_OFFSET + len(DUCKDB_MAGIC))
        if head[DUCKDB_MAGIC_OFFSET:] != DUCKDB_MAGIC:
            raise SettingError(f"{target} is no DuckDB database; it stays as it is")


def write_target_views(
    root: Path, target: Path, mapped: MappedSchema, relations: Sequence[Relation], *, at: datetime
) -> list[TargetView]:
    """Write the views of `mapped` into a database, which is created where it does not exist.

    All views or none are written. From now on vacuum spares the files that they name.

    Raises:
        SettingError: the target cannot be used, or its schema has a table or view of that name
            that is not ours.
        MissingTableError: the lake has nothing that a view could show.
        StorageError: the disk refused, or another program has the database open.
        LakeError: a table that a view reads is damaged.
    """
    refuse_target(root, target, schema=mapped.schema)
    found, problems = load_current_tables(root)
    known = {each.name: each for each in add_plain_relations(found, relations)}
    tables = {name: one.files for name, one in found.items()}
    built = [build_mapped_view(view, known, tables) for view in mapped.views]
    for problem in problems:
        if any(problem.stream in each.missing for each in built):
            raise problem
    if all(each.is_empty for each in built):
        raise MissingTableError(f"no lake in {root} (KLAVIYO_DATA_DIR): nothing was synced yet")
    names = frozenset[str]().union(*(each.tables for each in built))
    files = list_paths_by_table(root, {name: found[name] for name in names})
    if str(target) in read_targets(root):
        # A vacuum before the views are written must spare the old files and the new ones.
        record_target_files(root, target, mapped.schema, files, keeps_known=True, at=at)
    rows = _write_views(target, mapped.schema, built)
    record_target_files(root, target, mapped.schema, files, keeps_known=False, at=at)
    return [
        TargetView(name=each.view.name, rows=count, missing=each.missing)
        for each, count in zip(built, rows, strict=True)
    ]


def _write_views(target: Path, schema: str, built: Sequence[MappedViewSql]) -> list[int]:
    """Write all views in one transaction; return how many rows each shows."""
    import duckdb  # noqa: PLC0415 - late, see `read/duckdb.py`

    is_new = not target.exists()
    options = f" (STORAGE_VERSION {quote_literal(DUCKDB_STORAGE_VERSION)})" if is_new else ""
    with open_connection() as opened:
        try:
            opened.execute(
                f"ATTACH {quote_literal(str(target))} AS "
                f"{quote_identifier(TARGET_CATALOG)}{options}"
            )
        except duckdb.Error:
            # `from None`: what DuckDB says is of its own files.
            raise StorageError(
                f"{target} cannot be opened for writing: another program, such as dbt, may have it "
                "open, or a later DuckDB wrote it; let that program end, then try again"
            ) from None
        opened.begin()
        opened.execute(
            f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(TARGET_CATALOG)}."
            f"{quote_identifier(schema)}"
        )
        for each in built:
            _refuse_other_relation(opened, schema, each.view.name)
            with map_storage_errors(target, each.view.name):
                for statement in build_mapped_statements(
                    each, catalog=TARGET_CATALOG, schema=schema
                ):
                    opened.execute(statement)
        rows = [_count_rows(opened, target, schema, each.view.name) for each in built]
        opened.commit()
        opened.execute(f"DETACH {quote_identifier(TARGET_CATALOG)}")
    return rows


def _refuse_other_relation(opened: "duckdb.DuckDBPyConnection", schema: str, name: str) -> None:
    """Refuse to replace a table, or a view that we did not write.

    Raises:
        SettingError: there is one of that name.
    """
    found = opened.execute(
        "SELECT 'table', NULL FROM duckdb_tables() WHERE (database_name, schema_name, table_name) "
        "= ($1, $2, $3) UNION ALL SELECT 'view', comment FROM duckdb_views() "
        "WHERE (database_name, schema_name, view_name) = ($1, $2, $3)",
        [TARGET_CATALOG, schema, name],
    ).fetchall()
    for kind, comment in found:
        if kind == "table" or not str(comment).endswith(OWN_COMMENT):
            raise SettingError(
                f"there is a {kind} {schema}.{name} already, which klaviyo-assets did not write: "
                "rename or drop it, or give another file or --schema"
            )


def _count_rows(opened: "duckdb.DuckDBPyConnection", target: Path, schema: str, name: str) -> int:
    full = ".".join(map(quote_identifier, (TARGET_CATALOG, schema, name)))
    with map_storage_errors(target, name):
        ((rows,),) = opened.execute(f"SELECT count(*) FROM {full}").fetchall()
    return int(rows)


def read_own_views(target: Path) -> dict[str, set[str]]:
    """Return the views that we wrote into a user's database, by schema.

    Raises:
        StorageError: it cannot be opened: another program has it open for writing.
    """
    sql = (
        "SELECT schema_name, view_name FROM duckdb_views() "
        "WHERE database_name = $1 AND ends_with(comment, $2)"
    )
    found: dict[str, set[str]] = {}
    with map_storage_errors(target, None), open_connection() as opened:
        place, catalog = quote_literal(str(target)), quote_identifier(TARGET_CATALOG)
        opened.execute(f"ATTACH {place} AS {catalog} (READ_ONLY)")
        for schema, name in opened.execute(sql, [TARGET_CATALOG, OWN_COMMENT]).fetchall():
            found.setdefault(str(schema), set()).add(str(name))
    return found


def record_target_files(  # noqa: PLR0913 - one entry of the file, by name
    root: Path,
    target: Path,
    schema: str,
    files: TableFileNames,
    *,
    keeps_known: bool,
    at: datetime,
) -> None:
    """Record which files the views in one schema of a database name, for vacuum and erasure.

    `keeps_known`: those recorded before stay as well.

    Raises:
        StorageError: the disk refused.
    """
    place = root / "lake" / TARGETS_FILE
    lock = place.with_suffix(".lock")
    with (
        map_storage_errors(place, None),
        hold_lock(lock, timeout_seconds=PUBLISH_LOCK_TIMEOUT_SECONDS),
    ):
        known = dict(read_targets(root))
        schemas = dict(known.get(str(target), {}))
        before = schemas.get(schema, NO_FILES) if keeps_known else NO_FILES
        schemas[schema] = {
            name: [*before.get(name, ()), *files.get(name, ())] for name in {*before, *files}
        }
        known[str(target)] = schemas
        write_file_atomically(place, json.dumps(known).encode(), modified_at=at.timestamp())
